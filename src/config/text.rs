//! Settings as text: trimming, reading secrets from files, and parsing.

use std::convert::Infallible;
use std::env::VarError;

use reqwest::Url;

use super::ConfigError;

/// Lists, whose parts are checked one by one.
const LISTS: [&str; 5] = [
    "STRIPE_WEBHOOK_SECRET",
    "CORS_ALLOWED_ORIGINS",
    "ALLOWED_RETURN_ORIGINS",
    "FRAME_ANCESTORS",
    "EVENTS_ALLOWED_NETWORKS",
];

/// The variables that `<variable>_FILE` may replace.
const SECRETS: [&str; 8] = [
    "STRIPE_SECRET_KEY",
    "STRIPE_WEBHOOK_SECRET",
    "APPLICATION_WEBHOOK_SECRET",
    "DATABASE_URL",
    "MIGRATION_DATABASE_URL",
    "OIDC_CLIENT_SECRET",
    "SMTP_URL",
    "SMTP_PASSWORD",
];

/// Removes surrounding white space, and the byte order mark that some editors
/// put at the start of a file.
fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// An empty variable counts as unset.
pub(super) fn given(value: Option<&str>) -> Option<&str> {
    value.map(trimmed).filter(|value| !value.is_empty())
}

/// A parser that reads an empty setting as its default.
pub fn or(
    default: &'static str,
) -> impl Fn(&str) -> Result<String, Infallible> + Clone + Send + Sync + 'static {
    move |text| Ok(given(Some(text)).unwrap_or(default).to_owned())
}

/// Checks a variable and its `_FILE` variant.
pub(super) fn check_variable(variable: &'static str) -> Result<(), ConfigError> {
    let file = format!("{variable}_FILE");
    let of_file = SECRETS.contains(&variable).then(|| std::env::var(&file));
    for value in [Some(std::env::var(variable)), of_file]
        .into_iter()
        .flatten()
    {
        match value {
            Ok(text) => check(variable, &text)?,
            Err(VarError::NotPresent) => {}
            Err(VarError::NotUnicode(_)) => {
                return Err(ConfigError::new(variable, "is not UTF-8"));
            }
        }
    }
    Ok(())
}

/// Refuses quotation marks around a value, which some readers of settings keep,
/// and control characters, which URL parsers silently drop. The error does not
/// repeat the value: it may be a secret.
fn check(variable: &'static str, text: &str) -> Result<(), ConfigError> {
    let text = trimmed(text);
    let quoted = |mark| text.starts_with(mark) || text.ends_with(mark);
    if ['"', '\'', '`'].into_iter().any(quoted) {
        let problem = "has quotation marks around it, which are not part of the value; remove them";
        return Err(ConfigError::new(variable, problem));
    }
    if text.chars().any(char::is_control) && !LISTS.contains(&variable) {
        let problem = "contains a line break, tab or other control character; remove it";
        return Err(ConfigError::new(variable, problem));
    }
    Ok(())
}

/// A secret, given directly or in the file that `<variable>_FILE` names, without
/// surrounding white space. A flag overrides both: `value` is a flag's where it
/// differs from the variable's.
pub(super) fn secret(
    variable: &'static str,
    value: Option<&str>,
) -> Result<Option<String>, ConfigError> {
    let own = std::env::var(variable).ok();
    if let Some(flag) = given(value).filter(|value| given(own.as_deref()) != Some(*value)) {
        return Ok(Some(flag.to_owned()));
    }
    let file = std::env::var(format!("{variable}_FILE")).ok();
    match (given(value), given(file.as_deref())) {
        (Some(_), Some(_)) => Err(ConfigError::new(
            variable,
            format!("is set, and so is {variable}_FILE; set one of them"),
        )),
        (Some(value), None) => Ok(Some(value.to_owned())),
        (None, None) => Ok(None),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                ConfigError::new(
                    variable,
                    format!("cannot read {variable}_FILE ({path}): {error}"),
                )
            })?;
            match given(Some(&text)) {
                Some(value) => {
                    check(variable, value)?;
                    Ok(Some(value.to_owned()))
                }
                None => Err(ConfigError::new(
                    variable,
                    format!("{variable}_FILE ({path}) is empty"),
                )),
            }
        }
    }
}

/// The secrets whose variables have surrounding white space.
pub fn padded_secrets() -> Vec<&'static str> {
    let is_padded = |text: String| text != trimmed(&text);
    let mut padded = SECRETS.to_vec();
    padded.retain(|variable| std::env::var(variable).is_ok_and(is_padded));
    padded
}

/// Whether STRIPE_PUBLISHABLE_KEY (or the variable that Vite front ends use) is for
/// live mode; `None` if unset. Only `doctor` reads it.
pub fn publishable_key_is_live() -> Option<bool> {
    ["STRIPE_PUBLISHABLE_KEY", "VITE_STRIPE_PUBLISHABLE_KEY"]
        .iter()
        .find_map(|variable| {
            let key = std::env::var(variable).ok()?;
            given(Some(&key)).map(|key| key.starts_with("pk_live_"))
        })
}

pub(super) fn secret_of_environment(variable: &'static str) -> Result<Option<String>, ConfigError> {
    secret(variable, std::env::var(variable).ok().as_deref())
}

pub(super) fn boolean(variable: &'static str, text: &str) -> Result<bool, ConfigError> {
    match trimmed(text).to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err(ConfigError::new(
            variable,
            format!("expected true or false, got `{text}`"),
        )),
    }
}

pub(super) fn number(
    variable: &'static str,
    text: &str,
    least: u32,
    most: u32,
) -> Result<u32, ConfigError> {
    trimmed(text)
        .parse()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| {
            ConfigError::new(
                variable,
                format!("expected an integer between {least} and {most}, got `{text}`"),
            )
        })
}

/// Whether a URL names this host.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
