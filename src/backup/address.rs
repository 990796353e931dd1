//! A database's address in the two forms that libpq reads, with the secrets taken
//! out: every user of the host can list the arguments of a process.

use std::fmt::Write as _;

/// Parameters that must not be arguments.
const SECRETS: [&str; 3] = ["password", "passfile", "sslpassword"];

/// Parameters that sqlx has other names for, or that libpq does not know: it refuses
/// URLs that have them.
const OF_SQLX: [(&str, &str); 7] = [
    ("ssl-mode", "sslmode"),
    ("ssl-root-cert", "sslrootcert"),
    ("ssl-ca", "sslrootcert"),
    ("ssl-cert", "sslcert"),
    ("ssl-key", "sslkey"),
    ("statement-cache-capacity", ""),
    ("pgbouncer", ""),
];

/// A URL, or `keyword=value …`, and the secrets that were in it.
#[derive(Debug, Default)]
pub struct Address {
    shown: String,
    /// Whether further parameters are appended as in a URL.
    is_url: bool,
    /// In the order of [`SECRETS`].
    secrets: [Option<String>; 3],
}

impl Address {
    pub fn read(text: &str) -> Self {
        for scheme in ["postgresql://", "postgres://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return Self::of_url(scheme, rest);
            }
        }
        Self::of_keywords(text)
    }

    /// The address without secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn password(&self) -> Option<&str> {
        self.secrets[0].as_deref()
    }

    /// The path of a password file.
    pub fn password_file(&self) -> Option<&str> {
        self.secrets[1].as_deref()
    }

    /// The password of the client's key, for which libpq has no variable.
    pub fn take_key_password(&mut self) -> Option<String> {
        self.secrets[2].take()
    }

    /// Makes libpq read further parameters from the service `name`.
    pub fn name_service(&mut self, name: &str) {
        let joint = match (self.is_url, self.shown.contains('?')) {
            (true, false) => "?",
            (true, true) => "&",
            (false, _) => " ",
        };
        let _ = write!(self.shown, "{joint}service={name}");
    }

    /// Keeps a secret; `false` if the parameter is not one. The last value counts, as in
    /// libpq.
    fn keep(&mut self, name: &str, value: String) -> bool {
        let index = SECRETS.iter().position(|secret| *secret == name);
        if let Some(index) = index {
            self.secrets[index] = Some(value);
        }
        index.is_some()
    }

    fn of_url(scheme: &str, rest: &str) -> Self {
        let mut address = Self {
            is_url: true,
            ..Self::default()
        };
        let (location, query) = match rest.split_once('?') {
            Some((location, query)) => (location, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = location.split_at(location.find('/').unwrap_or(location.len()));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let user = user.map(|user| match user.split_once(':') {
            Some((user, password)) => {
                address.keep("password", decoded(password));
                user
            }
            None => user,
        });
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let kept = query.into_iter().flat_map(|query| query.split('&'));
        let kept: Vec<String> = kept
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                if address.keep(&decoded(name), decoded(value)) {
                    return None;
                }
                let of_libpq = OF_SQLX.iter().find(|(of_sqlx, _)| *of_sqlx == name);
                match of_libpq {
                    None => Some(pair.to_owned()),
                    Some((_, "")) => None,
                    Some((_, of_libpq)) => Some(format!("{of_libpq}={value}")),
                }
            })
            .collect();
        let query = match kept.join("&") {
            query if query.is_empty() => query,
            query => format!("?{query}"),
        };
        address.shown = format!("{scheme}{user}{hosts}{path}{query}");
        address
    }

    /// `host=h password='it''s'`, or only a database's name.
    fn of_keywords(text: &str) -> Self {
        let mut address = Self::default();
        if !text.contains('=') {
            text.clone_into(&mut address.shown);
            return address;
        }
        let mut kept = Vec::new();
        let mut rest = text.trim_start();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = keyword_value(after.trim_start());
            let name = name.trim();
            if !address.keep(name, value.clone()) {
                let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
                kept.push(format!("{name}='{quoted}'"));
            }
            rest = after.trim_start();
        }
        address.shown = kept.join(" ");
        address
    }
}

/// Splits off a value that is quoted or ends at white space; a backslash escapes the
/// next character.
fn keyword_value(text: &str) -> (String, &str) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return (value, &text[at + 1..]),
            space if !quoted && space.is_ascii_whitespace() => return (value, &text[at..]),
            character => value.push(character),
        }
    }
    (value, "")
}

/// Percent-decodes; malformed escapes stay as they are.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, [Option<String>; 3]) {
        let address = Address::read(text);
        (address.shown, address.secrets)
    }

    #[test]
    fn secrets_are_taken_out_of_every_form() {
        let of = |password: &str| [Some(password.to_owned()), None, None];
        for (text, shown, secrets) in [
            (
                "postgresql://me:p%40ss%25@host:5433/db?sslmode=require",
                "postgresql://me@host:5433/db?sslmode=require",
                of("p@ss%"),
            ),
            (
                "postgres://me@h/db?password=p%40ss&sslmode=require",
                "postgres://me@h/db?sslmode=require",
                of("p@ss"),
            ),
            (
                "postgres://me@h/db?password=p",
                "postgres://me@h/db",
                of("p"),
            ),
            (
                "postgres://me@h/db?%70assword=p",
                "postgres://me@h/db",
                of("p"),
            ),
            ("postgres://me@h?password=p", "postgres://me@h", of("p")),
            (
                "postgres://me:first@h/db?password=last",
                "postgres://me@h/db",
                of("last"),
            ),
            (
                "postgres://me:p@h:ss@h:1,i:2/db",
                "postgres://me@h:1,i:2/db",
                of("p@h:ss"),
            ),
            (
                "postgresql:///db?host=/tmp&user=me&password=p",
                "postgresql:///db?host=/tmp&user=me",
                of("p"),
            ),
            (
                "host=h user=me password=p dbname=db",
                "host='h' user='me' dbname='db'",
                of("p"),
            ),
            (
                "host=h password = 'it\\'s one' dbname='d b'",
                "host='h' dbname='d b'",
                of("it's one"),
            ),
            ("password=p\\ ss host=h", "host='h'", of("p ss")),
        ] {
            assert_eq!(read(text), (shown.to_owned(), secrets), "{text}");
        }
        let all = "postgres://me:a@h/db?passfile=/b&sslpassword=c%26";
        let secrets = ["a", "/b", "c&"].map(|secret| Some(secret.to_owned()));
        assert_eq!(read(all), ("postgres://me@h/db".to_owned(), secrets));
    }

    #[test]
    fn parameters_are_renamed_for_libpq() {
        for (text, shown) in [
            (
                "postgres://me@h/db?pgbouncer=true&ssl-mode=require&statement-cache-capacity=0",
                "postgres://me@h/db?sslmode=require",
            ),
            ("postgres://me@h/db?pgbouncer=true", "postgres://me@h/db"),
            (
                "postgres://me@h/db?ssl-ca=/a&connect_timeout=5",
                "postgres://me@h/db?sslrootcert=/a&connect_timeout=5",
            ),
        ] {
            assert_eq!(read(text).0, shown, "{text}");
        }
    }

    #[test]
    fn an_address_without_secrets_is_unchanged() {
        for text in [
            "postgresql://me@%2Ftmp%2Fx:5432/db",
            "postgresql://me@h/db?sslmode=verify-full&application_name=password",
            "db",
        ] {
            assert_eq!(read(text), (text.to_owned(), [None, None, None]));
        }
    }

    #[test]
    fn a_service_is_named_in_either_form() {
        for (text, shown) in [
            ("postgres://h/db", "postgres://h/db?service=x"),
            ("postgres://h/db?a=b", "postgres://h/db?a=b&service=x"),
            ("host=h", "host='h' service=x"),
        ] {
            let mut address = Address::read(text);
            address.name_service("x");
            assert_eq!(address.shown(), shown);
        }
    }
}
