//! Settings of mails to customers: the server that takes them, who they are from, and the
//! operator's own templates.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use lettre::message::Mailbox;
use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::{ConfigError, given, is_loopback, secret_of_environment};

const URL: &str = "SMTP_URL";
const PASSWORD: &str = "SMTP_PASSWORD";
const FROM: &str = "MAIL_FROM";

/// SMTP_URL and SMTP_PASSWORD have no flags: every user of the host can list the
/// arguments of a process.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Mails")]
pub struct MailArgs {
    /// Who mails to customers are from, such as `Acme <billing@acme.example>`; required with
    /// SMTP_URL, without which no mail is sent.
    #[arg(long, env = "MAIL_FROM")]
    mail_from: Option<String>,
    /// Folder with templates that replace the built-in ones of the same names.
    #[arg(long, env = "MAIL_TEMPLATES_DIR")]
    mail_templates_dir: Option<String>,
}

/// How mails are sent.
#[derive(Debug, Clone)]
pub struct MailConfig {
    pub smtp: SmtpConfig,
    pub from: Mailbox,
    /// `None`: the built-in templates.
    pub templates_dir: Option<PathBuf>,
}

/// A server that takes mails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpConfig {
    pub host: String,
    pub port: u16,
    pub security: SmtpSecurity,
    /// User and password.
    pub login: Option<(String, SmtpPassword)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// TLS from the first byte.
    Tls,
    /// TLS by STARTTLS. A server that does not offer it gets nothing.
    StartTls,
    /// No encryption.
    None,
}

impl SmtpSecurity {
    fn default_port(self) -> u16 {
        match self {
            Self::Tls => 465,
            Self::StartTls => 587,
            Self::None => 25,
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct SmtpPassword(String);

impl SmtpPassword {
    /// The password itself, for the server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SmtpPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmtpPassword(…)")
    }
}

impl MailArgs {
    /// `None`: no mails are sent.
    pub fn check(&self) -> Result<Option<MailConfig>, ConfigError> {
        let url = secret_of_environment(URL)?;
        let password = secret_of_environment(PASSWORD)?;
        let from = given(self.mail_from.as_deref());
        let templates = given(self.mail_templates_dir.as_deref());
        let Some(url) = url else {
            let others = [
                (PASSWORD, password.is_some()),
                (FROM, from.is_some()),
                ("MAIL_TEMPLATES_DIR", templates.is_some()),
            ];
            return match others.into_iter().find(|(_, set)| *set) {
                None => Ok(None),
                Some((variable, _)) => Err(ConfigError::new(
                    URL,
                    format!(
                        "is required with {variable}: smtps://user@mail.example.com, or \
                         smtp:// for STARTTLS"
                    ),
                )),
            };
        };
        let from = from.ok_or_else(|| {
            let problem = "is required with SMTP_URL: who mails are from, such as \
                           Acme <billing@acme.example>";
            ConfigError::new(FROM, problem)
        })?;
        Ok(Some(MailConfig {
            smtp: SmtpConfig::parse(&url, password)?,
            from: from.parse().map_err(|_| {
                let problem = format!(
                    "expected an address such as billing@acme.example or Acme \
                     <billing@acme.example>, got `{from}`"
                );
                ConfigError::new(FROM, problem)
            })?,
            templates_dir: templates.map(PathBuf::from),
        }))
    }
}

impl SmtpConfig {
    /// No error repeats the address: it may have the password.
    fn parse(text: &str, password: Option<String>) -> Result<Self, ConfigError> {
        let refused = |problem: &str| ConfigError::new(URL, problem);
        let malformed = "is not an address of a mail server; write smtps://user@host:465, or \
                         smtp://user@host:587 for STARTTLS";
        let url = Url::parse(text).map_err(|_| refused(malformed))?;
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| refused(malformed))?;
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(refused(malformed));
        }
        let security = security(&url).map_err(refused)?;
        let decoded = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(String::from).map_err(|_| refused(malformed))
        };
        let own = url.password().map(decoded).transpose()?;
        let password = match (own, password) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::new(
                    PASSWORD,
                    "is set, and SMTP_URL has a password; remove one of them",
                ));
            }
            (own, other) => own.or(other),
        };
        let login = match (decoded(url.username())?, password) {
            (user, None) if user.is_empty() => None,
            (user, Some(_)) if user.is_empty() => {
                return Err(refused(
                    "has no user for the password; write smtps://user@host",
                ));
            }
            (_, None) => {
                return Err(ConfigError::new(
                    PASSWORD,
                    "is required: SMTP_URL has a user without a password",
                ));
            }
            (user, Some(password)) => Some((user, SmtpPassword(password))),
        };
        if login.is_some() && security == SmtpSecurity::None && !is_loopback(&url) {
            return Err(refused(
                "would send the password in the clear; use smtps://, or smtp:// without tls=none",
            ));
        }
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(security.default_port()),
            security,
            login,
        })
    }
}

/// What the scheme and `?tls=` say. On this host nobody listens in between.
fn security(url: &Url) -> Result<SmtpSecurity, &'static str> {
    let mut asked = None;
    for (name, value) in url.query_pairs() {
        if name != "tls" {
            return Err("has an unknown parameter; ?tls=starttls or ?tls=none is all there is");
        }
        asked = Some(match &*value {
            "starttls" => SmtpSecurity::StartTls,
            "none" => SmtpSecurity::None,
            _ => return Err("has an unknown ?tls=; expected starttls or none"),
        });
    }
    match (url.scheme(), asked) {
        ("smtps", None) => Ok(SmtpSecurity::Tls),
        ("smtps", Some(_)) => Err("is smtps:// with ?tls=; with it write smtp://"),
        ("smtp", Some(asked)) => Ok(asked),
        ("smtp", None) if is_loopback(url) => Ok(SmtpSecurity::None),
        ("smtp", None) => Ok(SmtpSecurity::StartTls),
        _ => Err("must begin with smtps:// (TLS) or smtp:// (STARTTLS)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, password: Option<&str>) -> Result<SmtpConfig, ConfigError> {
        SmtpConfig::parse(url, password.map(str::to_owned))
    }

    #[test]
    fn the_scheme_says_how_it_is_encrypted() {
        let of = |url| {
            let parsed = parse(url, None).unwrap();
            (parsed.host, parsed.port, parsed.security)
        };
        let host = || "mail.example.com".to_owned();
        assert_eq!(
            of("smtps://mail.example.com"),
            (host(), 465, SmtpSecurity::Tls)
        );
        assert_eq!(
            of("smtp://mail.example.com"),
            (host(), 587, SmtpSecurity::StartTls)
        );
        assert_eq!(
            of("smtp://mail.example.com:2525?tls=none"),
            (host(), 2525, SmtpSecurity::None)
        );
        assert_eq!(
            of("smtp://127.0.0.1:1025"),
            ("127.0.0.1".to_owned(), 1025, SmtpSecurity::None)
        );
        assert_eq!(
            of("smtp://[::1]?tls=starttls"),
            ("::1".to_owned(), 587, SmtpSecurity::StartTls)
        );
    }

    #[test]
    fn a_login_has_a_password_from_one_place() {
        let login = |url, password| parse(url, password).unwrap().login.unwrap();
        let (user, password) = login("smtps://me%40acme.example:p%3Aw@host", None);
        assert_eq!((&*user, password.expose()), ("me@acme.example", "p:w"));
        let (user, password) = login("smtps://me@host", Some("secret"));
        assert_eq!((&*user, password.expose()), ("me", "secret"));
        assert!(!format!("{password:?}").contains("secret"));
        let refused = |url, password| parse(url, password).unwrap_err().variable;
        assert_eq!(refused("smtps://me:a@host", Some("b")), PASSWORD);
        assert_eq!(refused("smtps://me@host", None), PASSWORD);
        assert_eq!(refused("smtps://host", Some("b")), URL);
        assert_eq!(refused("smtp://me:a@host?tls=none", None), URL);
    }

    #[test]
    fn no_error_repeats_the_password() {
        for wrong in [
            "mail.example.com",
            "http://me:hunter2@host",
            "smtp://me:hunter2@host/path",
            "smtp://me:hunter2@host?tls=maybe",
            "smtp://me:hunter2@host?user=x",
            "smtps://me:hunter2@host?tls=none",
            "smtp://me:hunter2@",
            "smtp://me:hunter2@host:port",
        ] {
            let said = parse(wrong, None).unwrap_err().to_string();
            assert!(said.starts_with("SMTP_URL: "), "{wrong}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
