//! Passwords in our own arguments, which every user of the host can list.

/// Flags that may hold a password, and the variables to use instead.
const URLS: [(&str, &str); 2] = [
    ("--database-url", "DATABASE_URL"),
    ("--migration-database-url", "MIGRATION_DATABASE_URL"),
];

/// The variables to use instead of the flags that have a password in `arguments`.
pub fn passwords_in(arguments: &[String]) -> Vec<&'static str> {
    let value_of = |flag: &str| {
        arguments.iter().enumerate().find_map(|(at, argument)| {
            let rest = argument.strip_prefix(flag)?;
            match rest.strip_prefix('=') {
                Some(value) => Some(value),
                None if rest.is_empty() => arguments.get(at + 1).map(String::as_str),
                None => None,
            }
        })
    };
    let shown = URLS.iter().filter(|(flag, _)| {
        let value = value_of(flag);
        value.is_some_and(has_password)
    });
    shown.map(|(_, variable)| *variable).collect()
}

fn has_password(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = location.split('/').next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    user.is_some_and(|user| user.contains(':')) || query.to_ascii_lowercase().contains("assword")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_found_in_either_form_of_a_flag() {
        let shown = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            passwords_in(&arguments)
        };
        assert_eq!(
            shown("x --database-url postgres://me:p@h/db"),
            ["DATABASE_URL"]
        );
        assert_eq!(
            shown("x --database-url=postgres://h/db?%70assword=p"),
            ["DATABASE_URL"]
        );
        assert_eq!(
            shown("--migration-database-url postgres://me@h/db?sslpassword=p x"),
            ["MIGRATION_DATABASE_URL"]
        );
        for line in [
            "x --database-url postgres://me@h:5432/db",
            "x --database-url",
            "x postgres://me:p@h/db",
            "x --database-urls=postgres://me:p@h/db",
        ] {
            assert_eq!(shown(line), [""; 0], "{line}");
        }
    }
}
