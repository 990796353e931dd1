//! `backup` and `restore`

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::Failure;
use super::output::{Format, say};
use super::serve::StopSignals;
use crate::app::Database;
use crate::backup::{self, BackupError};
use crate::config::GlobalArgs;
use crate::db;
use crate::maintenance::{self, PushGateway};

/// Write a backup and verify it.
#[derive(Debug, Args)]
pub struct Backup {
    /// A new file, or `-` for standard output. FILE.json beside it holds the
    /// checksum and the number of rows.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The Pushgateway to push the time of the last backup to.
    #[arg(long, env = "PUSHGATEWAY_URL")]
    pushgateway_url: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// Restore a backup into an empty database.
#[derive(Debug, Args)]
pub struct Restore {
    /// A file written by `backup`.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// The owner's URL as given, or the embedded cluster's.
fn owner_url(database: &Database, global: &GlobalArgs) -> Option<String> {
    match &database.embedded {
        Some(embedded) => Some(embedded.admin_url()),
        None => global.owner_url(),
    }
}

impl Backup {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let gateway = PushGateway::given(self.pushgateway_url.as_deref())?;
        let database = Database::locate(&global.database_of_owner()?).await?;
        say(&format!("backing up {}", database.description()));
        let started_at = Timestamp::now();
        let mut signals = StopSignals::listen()?;
        // The tool ends with its future, and what it has written goes.
        let result = tokio::select! {
            biased;
            () = signals.received() => Err(Failure::failed("interrupted: there is no backup")),
            result = self.run_on(&database, global) => result,
        };
        let pool = db::pool(database.service.clone(), 1);
        let done = maintenance::backup::done(&pool, gateway.as_ref(), started_at, result.is_ok());
        // The result of the backup does not depend on this record.
        if let Err(error) = done.await {
            tracing::warn!(%error, "the result of the backup could not be recorded");
        }
        database.close().await;
        result
    }

    async fn run_on(&self, database: &Database, global: &GlobalArgs) -> Result<(), Failure> {
        let url = owner_url(database, global).unwrap_or_default();
        let progress = |table: &str| say(&format!("backing up {table}"));
        if self.file.as_os_str() == "-" {
            let manifest = backup::to_stdout(&database.owner, &url, progress).await?;
            say(&format!(
                "{} bytes, SHA-256 {}",
                manifest.bytes, manifest.sha256
            ));
            return Ok(());
        }
        let written = backup::to_file(&database.owner, &url, &self.file, progress).await?;
        self.format.print(&written, |written| {
            let manifest = &written.manifest;
            if !manifest.has_ledger() {
                say("warning: the database has no billing tables; is it the right one?");
            }
            format!(
                "{}: {} rows of {} tables, {} bytes, read back; SHA-256 {}",
                written.file.display(),
                manifest.rows.values().sum::<i64>(),
                manifest.rows.len(),
                manifest.bytes,
                manifest.sha256
            )
        })
    }
}

impl Restore {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let database = Database::locate(&global.database_of_owner()?).await?;
        say(&format!("restoring into {}", database.description()));
        let result = self.run_on(&database).await;
        database.close().await;
        result
    }

    async fn run_on(self, database: &Database) -> Result<(), Failure> {
        let restored = backup::restore(&database.owner, &self.file).await?;
        self.format.print(&restored, |restored| {
            let counted = if restored.counted {
                "as many as in the backup"
            } else {
                "not compared: the backup has no manifest"
            };
            format!(
                "{} rows in {} tables ({counted}); {} audit chains verified, {} entries",
                restored.rows, restored.tables, restored.chains, restored.entries
            )
        })
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Database(ref cause) if db::is_outage(cause) => {
                Self::unreachable(format!("the database cannot be reached: {error}"))
            }
            BackupError::Exists(_)
            | BackupError::Busy(_)
            | BackupError::NotEmpty(_)
            | BackupError::Refused(_) => Self::usage(error.to_string()),
            other => Self::failed(other.to_string()),
        }
    }
}
