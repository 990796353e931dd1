//! Settings: environment variables (and a `.env` file, if present), overridden
//! by flags. Every setting is checked before anything is touched.
//!
//! Nothing here knows what the settings are for: apart from the format of logs,
//! this room uses no other.

mod addresses;
mod colour;
mod issuer;
mod mail;
mod operators;
mod outbound;
mod portal;
mod retention;
mod secrets;
mod shown;
mod stripe;
mod surface;
mod text;
mod usage;
mod variables;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use sqlx::postgres::PgConnectOptions;

pub use addresses::{AddressArgs, AddressConfig};
pub use issuer::{IssuerArgs, IssuerConfig};
pub use mail::{MailArgs, MailConfig, SmtpConfig, SmtpPassword, SmtpSecurity};
pub use operators::{OidcConfig, OperatorArgs, OperatorConfig};
pub use outbound::{
    AllowedAddressArgs, AllowedAddresses, Application, ApplicationArgs, Network, OutboundConfig,
};
pub use portal::{PortalArgs, PortalConfig, Theme};
pub use retention::{RetentionArgs, RetentionConfig};
pub use secrets::{SecretKey, SigningSecret, WebhookSecret};
pub use shown::passwords_in;
pub use stripe::{Patience, StripeApi, StripeArgs, StripeConfig, UnknownCustomers, retries};
pub use surface::{Rates, SurfaceArgs, SurfaceConfig};
pub use text::{is_loopback, or, padded_secrets, publishable_key_is_live};
pub use usage::{UsageArgs, UsageConfig};

use crate::telemetry::{InvalidSetting, LogFormat};
use text::{boolean, given, number, secret, secret_of_environment};
use variables::VARIABLES;

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

impl From<InvalidSetting> for ConfigError {
    fn from(invalid: InvalidSetting) -> Self {
        Self::new(invalid.variable, invalid.problem)
    }
}

/// Reads `.env` in the working directory, and refuses malformed variables
/// before anything else reads them.
pub fn read_environment() -> Result<(), ConfigError> {
    read_env_file(Path::new(".env"))?;
    for &variable in VARIABLES {
        text::check_variable(variable)?;
    }
    Ok(())
}

/// Only the working directory is searched: the writer of a file further up could
/// send the secrets elsewhere.
fn read_env_file(path: &Path) -> Result<(), ConfigError> {
    let refused = |problem: String| Err(ConfigError::new(".env", problem));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        // A directory named `.env` holds no settings.
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => return Ok(()),
        Err(error) => return refused(format!("cannot be read: {error}")),
    };
    if others_may_write(path) {
        return refused(format!(
            "is writable by everyone on this host, who could send the secrets elsewhere: chmod o-w {}",
            path.display()
        ));
    }
    // A byte order mark would become part of the first name.
    let text = text.trim_start_matches('\u{feff}');
    match dotenvy::from_read(text.as_bytes()) {
        Ok(()) => Ok(()),
        // The error would repeat the line, and with it a secret.
        Err(dotenvy::Error::LineParse(..)) => {
            refused("has a line that is not NAME=value; quote a value that has spaces".to_owned())
        }
        Err(error) => refused(error.to_string()),
    }
}

/// Whether users other than the owner and its group may write the file.
fn others_may_write(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let found = std::fs::metadata(path);
    found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o002 != 0)
}

/// The settings that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings")]
pub struct GlobalArgs {
    /// PostgreSQL 15 or later, for `serve` and the jobs; unset: a private
    /// cluster under the data directory.
    #[arg(long, env = "DATABASE_URL", global = true, hide_env_values = true)]
    database_url: Option<String>,
    /// The owner's login, for `migrate`, `backup` and `restore`; unset:
    /// DATABASE_URL.
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
    /// Directory of the embedded cluster and of generated secrets.
    #[arg(long, env = "DATA_DIR", global = true, default_value = DATA_DIR, value_parser = or(DATA_DIR))]
    data_dir: String,
    /// Use the embedded cluster under the data directory, and start it if it is
    /// not running; only `serve` and `demo` do so without this flag.
    #[arg(long, global = true)]
    embedded: bool,
    /// The person you act for, entered in the audit log beside your login.
    #[arg(long = "as", global = true, value_name = "NAME")]
    acting_as: Option<String>,
    /// Log format, `pretty` or `json`; unset: pretty on a terminal, else json.
    #[arg(long, env = "LOG_FORMAT", global = true)]
    log_format: Option<String>,
}

const DATA_DIR: &str = ".data";

/// Where the HTTP API listens by default, and where commands look for it.
pub const LISTEN_ADDR: &str = "127.0.0.1:8080";

/// Whether the embedded cluster may be started. A command that started it
/// unasked would work on an empty database and report that all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// `serve`, `demo`, or `--embedded`.
    Allowed,
    /// Only a running cluster is used.
    Refused,
}

/// Where the database is.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum DatabaseLocation {
    /// A private cluster under the data directory.
    Embedded(Start),
    Url(PgConnectOptions),
}

#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    pub location: DatabaseLocation,
    /// The owner's login, where it differs from the service's.
    pub migration: Option<PgConnectOptions>,
    pub allow_privileged_role: bool,
    pub data_dir: PathBuf,
}

impl GlobalArgs {
    /// The service's URL as given, password included.
    pub fn database_url(&self) -> Option<String> {
        secret("DATABASE_URL", self.database_url.as_deref())
            .ok()
            .flatten()
    }

    /// The owner's URL as given, password included.
    pub fn owner_url(&self) -> Option<String> {
        let given = self.migration_database_url.as_deref();
        let own = secret("MIGRATION_DATABASE_URL", given).ok().flatten();
        own.or_else(|| self.database_url())
    }

    /// The value of `--as`.
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
                format!("expected pretty or json, got `{other}`"),
            )),
        }
    }

    /// For `serve`, which starts the embedded cluster where DATABASE_URL is
    /// unset.
    pub fn database_of_service(&self) -> Result<DatabaseConfig, ConfigError> {
        self.locate(Start::Allowed, false)
    }

    /// For every other command.
    pub fn database(&self) -> Result<DatabaseConfig, ConfigError> {
        self.locate(Start::Refused, false)
    }

    /// For commands that need only the owner's login: `migrate`, `backup`,
    /// `restore`.
    pub fn database_of_owner(&self) -> Result<DatabaseConfig, ConfigError> {
        self.locate(Start::Refused, true)
    }

    pub fn data_dir(&self) -> PathBuf {
        PathBuf::from(&self.data_dir)
    }

    fn locate(&self, start: Start, owner_only: bool) -> Result<DatabaseConfig, ConfigError> {
        let url = secret("DATABASE_URL", self.database_url.as_deref())?;
        let url = url
            .map(|url| connect_options("DATABASE_URL", &url))
            .transpose()?;
        let migration = secret(
            "MIGRATION_DATABASE_URL",
            self.migration_database_url.as_deref(),
        )?;
        let migration = migration
            .map(|url| connect_options("MIGRATION_DATABASE_URL", &url))
            .transpose()?;
        if self.embedded && (url.is_some() || migration.is_some()) {
            return Err(ConfigError::new(
                "--embedded",
                "contradicts DATABASE_URL and MIGRATION_DATABASE_URL; give one or the other",
            ));
        }
        let start = if self.embedded { Start::Allowed } else { start };
        let location = match (url, &migration) {
            (Some(url), _) => DatabaseLocation::Url(url),
            (None, Some(owner)) if owner_only => DatabaseLocation::Url(owner.clone()),
            (None, Some(_)) => {
                return Err(ConfigError::new(
                    "MIGRATION_DATABASE_URL",
                    "is set without DATABASE_URL; set both, or neither for the embedded database",
                ));
            }
            (None, None) => DatabaseLocation::Embedded(start),
        };
        Ok(DatabaseConfig {
            location,
            migration,
            allow_privileged_role: boolean(
                "ALLOW_PRIVILEGED_DATABASE_ROLE",
                &self.allow_privileged_database_role,
            )?,
            data_dir: self.data_dir(),
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
            "is not a PostgreSQL URL; write postgresql://user:password@host:5432/database",
        )
    };
    if !known {
        return Err(malformed());
    }
    PgConnectOptions::from_str(&without_unknown_parameters(variable, url)).map_err(|_| malformed())
}

/// The URL parameters that sqlx reads. It logs any other with its value, which
/// may be a misspelt password.
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
                "ignoring an unknown URL parameter"
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
    /// Address of the HTTP API.
    #[arg(long, env = "LISTEN_ADDR", default_value = LISTEN_ADDR, value_parser = or(LISTEN_ADDR))]
    listen_addr: String,
    /// A separate address for /metrics; unset: served by the API's listener.
    #[arg(long, env = "METRICS_ADDR")]
    metrics_addr: Option<String>,
    /// Number of processing workers; 0: intake and API only. Unset: one per core.
    #[arg(long, env = "WORKER_CONCURRENCY")]
    worker_concurrency: Option<String>,
    /// How many proxies in front of the service append to X-Forwarded-For.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "0", value_parser = or("0"))]
    trusted_proxies: String,
    /// Maximum age of a webhook signature, in seconds.
    #[arg(long, env = "WEBHOOK_TOLERANCE_SECONDS", default_value = "300", value_parser = or("300"))]
    webhook_tolerance_seconds: String,
    #[command(flatten)]
    usage: UsageArgs,
    #[command(flatten)]
    application: ApplicationArgs,
    #[command(flatten)]
    addresses: AllowedAddressArgs,
    #[command(flatten)]
    mail: MailArgs,
    #[command(flatten)]
    retention: RetentionArgs,
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
    pub outbound: OutboundConfig,
    /// `None`: no mails are sent.
    pub mail: Option<MailConfig>,
    pub retention: RetentionConfig,
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
            outbound: OutboundConfig {
                application: self.application.check()?,
                allowed: self.addresses.check()?,
            },
            mail: self.mail.check()?,
            retention: self.retention.check()?,
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

/// Parses `IP:PORT`.
pub fn address(variable: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.trim().parse().map_err(|_| {
        ConfigError::new(
            variable,
            format!("expected IP:PORT, such as 127.0.0.1:8080, got `{text}`"),
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
