//! Settings: environment variables (a `.env` file is read if present), which
//! flags override. Everything is checked before anything is touched.

mod stripe;
mod surface;
mod usage;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use sqlx::postgres::PgConnectOptions;

pub use stripe::{StripeApi, StripeArgs, StripeConfig, retries};
pub use surface::{SurfaceArgs, SurfaceConfig};
pub use usage::{UsageArgs, UsageConfig};

/// A setting that is missing, malformed or contradictory: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    pub variable: &'static str,
    pub problem: String,
}

impl ConfigError {
    pub fn new(variable: &'static str, problem: impl Into<String>) -> Self {
        Self {
            variable,
            problem: problem.into(),
        }
    }
}

/// The variables that are read, besides those of the secrets' files.
const VARIABLES: &[&str] = &[
    "AGENTS_UPSTREAM_URL",
    "ENFORCE_TRUST_HEADERS",
    "APPLICATION_WEBHOOK_URL",
    "APPLICATION_WEBHOOK_SECRET",
    "API_RATE_LIMIT_PER_MINUTE",
    "USAGE_RATE_LIMIT_PER_MINUTE",
    "CORS_ALLOWED_ORIGINS",
    "STRIPE_API_BASE",
    "TRUSTED_PROXIES",
    "DATABASE_URL",
    "MIGRATION_DATABASE_URL",
    "ALLOW_PRIVILEGED_DATABASE_ROLE",
    "DATA_DIR",
    "LOG_FORMAT",
    "RUST_LOG",
    "PLANS_FILE",
    "WEBHOOK_MAX_RETRIES",
    "UNKNOWN_CUSTOMERS",
    "STRIPE_SECRET_KEY",
    "STRIPE_WEBHOOK_SECRET",
    "STRIPE_PUBLISHABLE_KEY",
    "VITE_STRIPE_PUBLISHABLE_KEY",
    "LISTEN_ADDR",
    "METRICS_ADDR",
    "WORKER_CONCURRENCY",
    "WEBHOOK_TOLERANCE_SECONDS",
    "PUSHGATEWAY_URL",
    "GRACE_PERIOD_HOURS",
];

/// Reads `.env`, and refuses what is no text before anything else reads it.
pub fn read_environment() -> Result<(), ConfigError> {
    match dotenvy::dotenv() {
        Ok(_) => {}
        Err(error) if error.not_found() => {}
        // The error would repeat the line, and with it a secret.
        Err(dotenvy::Error::LineParse(..)) => {
            let problem = "has a line that is not NAME=value; quote a value that has spaces";
            return Err(ConfigError::new(".env", problem));
        }
        Err(error) => return Err(ConfigError::new(".env", error.to_string())),
    }
    for &variable in VARIABLES {
        if let Err(std::env::VarError::NotUnicode(_)) = std::env::var(variable) {
            return Err(ConfigError::new(variable, "is not UTF-8"));
        }
    }
    Ok(())
}

/// The settings that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings")]
pub struct GlobalArgs {
    /// PostgreSQL 15 or later, for `serve` and the jobs; unset: a private
    /// cluster under the data directory.
    #[arg(long, env = "DATABASE_URL", global = true, hide_env_values = true)]
    database_url: Option<String>,
    /// The owner's login, for `migrate`; unset: DATABASE_URL.
    #[arg(
        long,
        env = "MIGRATION_DATABASE_URL",
        global = true,
        hide_env_values = true
    )]
    migration_database_url: Option<String>,
    /// Let `serve` and the jobs run as an owner or superuser (development only).
    #[arg(long, env = "ALLOW_PRIVILEGED_DATABASE_ROLE", global = true, default_value = "false",
          num_args = 0..=1, default_missing_value = "true")]
    allow_privileged_database_role: String,
    /// Where the embedded cluster and generated secrets live.
    #[arg(long, env = "DATA_DIR", global = true, default_value = DATA_DIR, value_parser = data_dir)]
    pub data_dir: PathBuf,
    /// For whom you act: entered in the audit log beside your login.
    #[arg(long = "as", global = true, value_name = "NAME")]
    acting_as: Option<String>,
    /// How logs are written, `pretty` or `json`; unset: pretty on a terminal,
    /// else json.
    #[arg(long, env = "LOG_FORMAT", global = true)]
    log_format: Option<String>,
}

const DATA_DIR: &str = ".data";

fn data_dir(text: &str) -> Result<PathBuf, Infallible> {
    Ok(given(Some(text)).unwrap_or(DATA_DIR).into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

/// Where the database is.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum DatabaseLocation {
    /// A private cluster under the data directory.
    Embedded,
    Url(PgConnectOptions),
}

#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    pub location: DatabaseLocation,
    /// The owner's login, where it is another one.
    pub migration: Option<PgConnectOptions>,
    pub allow_privileged_role: bool,
    pub data_dir: PathBuf,
}

impl GlobalArgs {
    /// The URL as it was given, password included.
    pub fn database_url(&self) -> Option<String> {
        secret("DATABASE_URL", self.database_url.as_deref())
            .ok()
            .flatten()
    }

    /// The owner's URL as it was given, password included.
    pub fn owner_url(&self) -> Option<String> {
        let given = self.migration_database_url.as_deref();
        let own = secret("MIGRATION_DATABASE_URL", given).ok().flatten();
        own.or_else(|| self.database_url())
    }

    /// For whom whoever runs the command says to act.
    pub fn acting_as(&self) -> Option<&str> {
        self.acting_as.as_deref()
    }

    pub fn log_format(&self) -> Result<Option<LogFormat>, ConfigError> {
        match given(self.log_format.as_deref()) {
            None => Ok(None),
            Some("pretty") => Ok(Some(LogFormat::Pretty)),
            Some("json") => Ok(Some(LogFormat::Json)),
            Some(other) => Err(ConfigError::new(
                "LOG_FORMAT",
                format!("{other:?} is neither pretty nor json"),
            )),
        }
    }

    pub fn database(&self) -> Result<DatabaseConfig, ConfigError> {
        let url = secret("DATABASE_URL", self.database_url.as_deref())?;
        let migration = secret(
            "MIGRATION_DATABASE_URL",
            self.migration_database_url.as_deref(),
        )?;
        if url.is_none() && migration.is_some() {
            return Err(ConfigError::new(
                "MIGRATION_DATABASE_URL",
                "is set without DATABASE_URL; set both, or neither for the embedded database",
            ));
        }
        Ok(DatabaseConfig {
            location: match url {
                Some(url) => DatabaseLocation::Url(connect_options("DATABASE_URL", &url)?),
                None => DatabaseLocation::Embedded,
            },
            migration: migration
                .map(|url| connect_options("MIGRATION_DATABASE_URL", &url))
                .transpose()?,
            allow_privileged_role: boolean(
                "ALLOW_PRIVILEGED_DATABASE_ROLE",
                &self.allow_privileged_database_role,
            )?,
            data_dir: self.data_dir.clone(),
        })
    }
}

fn connect_options(variable: &'static str, url: &str) -> Result<PgConnectOptions, ConfigError> {
    let known = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    // The parser's own errors may repeat the URL, and with it the password.
    let malformed = || {
        ConfigError::new(
            variable,
            "is no PostgreSQL URL; write postgresql://user:password@host:5432/database",
        )
    };
    if !known {
        return Err(malformed());
    }
    PgConnectOptions::from_str(&without_unknown_parameters(variable, url)).map_err(|_| malformed())
}

/// What sqlx reads of a URL's parameters. It logs the others with their values,
/// and a misspelt password among them.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

fn without_unknown_parameters(variable: &'static str, url: &str) -> String {
    let Some((base, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let known = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        let known = PARAMETERS.contains(&name) || name.starts_with("options[");
        if !known {
            tracing::warn!(
                variable,
                parameter = name,
                "a parameter that is not used here"
            );
        }
        known
    };
    let kept: Vec<&str> = query.split('&').filter(known).collect();
    format!("{base}?{}", kept.join("&"))
}

/// The settings of `serve`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Service")]
pub struct ServeArgs {
    /// Where the HTTP API listens.
    #[arg(long, env = "LISTEN_ADDR", default_value = "127.0.0.1:8080")]
    listen_addr: String,
    /// A separate listener for /metrics; unset: on the API's.
    #[arg(long, env = "METRICS_ADDR")]
    metrics_addr: Option<String>,
    /// Processing workers; 0: intake only. Unset: by cores.
    #[arg(long, env = "WORKER_CONCURRENCY")]
    worker_concurrency: Option<String>,
    /// How many proxies in front of the service append to X-Forwarded-For.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "0")]
    trusted_proxies: String,
    /// How old, in seconds, a signature may be.
    #[arg(long, env = "WEBHOOK_TOLERANCE_SECONDS", default_value = "300")]
    webhook_tolerance_seconds: String,
    #[command(flatten)]
    usage: UsageArgs,
    #[command(flatten)]
    surface: SurfaceArgs,
}

#[derive(Debug, Clone)]
pub struct ServeConfig {
    pub listen_addr: SocketAddr,
    pub metrics_addr: Option<SocketAddr>,
    pub worker_concurrency: u32,
    pub tolerance_secs: u32,
    pub trusted_proxies: u32,
    pub usage: UsageConfig,
    pub surface: SurfaceConfig,
}

impl ServeArgs {
    pub fn check(&self) -> Result<ServeConfig, ConfigError> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        Ok(ServeConfig {
            listen_addr: address("LISTEN_ADDR", &self.listen_addr)?,
            metrics_addr: given(self.metrics_addr.as_deref())
                .map(|addr| address("METRICS_ADDR", addr))
                .transpose()?,
            worker_concurrency: match given(self.worker_concurrency.as_deref()) {
                Some(text) => number("WORKER_CONCURRENCY", text, 0, 64)?,
                None => cores.clamp(1, 8),
            },
            usage: self.usage.check()?,
            trusted_proxies: number("TRUSTED_PROXIES", &self.trusted_proxies, 0, 10)?,
            surface: self.surface.check()?,
            tolerance_secs: number(
                "WEBHOOK_TOLERANCE_SECONDS",
                &self.webhook_tolerance_seconds,
                1,
                86_400,
            )?,
        })
    }
}

/// Where `webhooks trigger` finds the running service.
pub fn address(variable: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.trim().parse().map_err(|_| {
        ConfigError::new(
            variable,
            format!("{text:?} is no address; write IP:PORT, such as 127.0.0.1:8080"),
        )
    })
}

/// An empty variable is as good as none.
fn given(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

/// A secret given by itself or by a file that `<variable>_FILE` names; white
/// space around it is dropped. A flag, which is what `value` is where it is not
/// the variable's, overrides both.
fn secret(variable: &'static str, value: Option<&str>) -> Result<Option<String>, ConfigError> {
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
                Some(value) => Ok(Some(value.to_owned())),
                None => Err(ConfigError::new(
                    variable,
                    format!("{variable}_FILE ({path}) is empty"),
                )),
            }
        }
    }
}

/// The secrets that a variable or file gives with white space around them.
pub fn padded_secrets() -> Vec<&'static str> {
    const SECRETS: [&str; 5] = [
        "STRIPE_SECRET_KEY",
        "STRIPE_WEBHOOK_SECRET",
        "APPLICATION_WEBHOOK_SECRET",
        "DATABASE_URL",
        "MIGRATION_DATABASE_URL",
    ];
    let is_padded = |text: String| text != text.trim();
    let mut padded = SECRETS.to_vec();
    padded.retain(|variable| std::env::var(variable).is_ok_and(is_padded));
    padded
}

/// The mode of STRIPE_PUBLISHABLE_KEY, or of the same as front ends name it,
/// which nothing here uses; None: unset.
pub fn publishable_key_is_live() -> Option<bool> {
    ["STRIPE_PUBLISHABLE_KEY", "VITE_STRIPE_PUBLISHABLE_KEY"]
        .iter()
        .find_map(|variable| {
            let key = std::env::var(variable).ok()?;
            given(Some(&key)).map(|key| key.starts_with("pk_live_"))
        })
}

fn secret_of_environment(variable: &'static str) -> Result<Option<String>, ConfigError> {
    secret(variable, std::env::var(variable).ok().as_deref())
}

fn boolean(variable: &'static str, text: &str) -> Result<bool, ConfigError> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err(ConfigError::new(
            variable,
            format!("{text:?} is neither true nor false"),
        )),
    }
}

fn number(variable: &'static str, text: &str, least: u32, most: u32) -> Result<u32, ConfigError> {
    text.trim()
        .parse()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| {
            ConfigError::new(
                variable,
                format!("{text:?} is no number from {least} to {most}"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_url_is_refused_without_repeating_it() {
        let error = connect_options("DATABASE_URL", "mysql://me:hunter2@host/db").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
