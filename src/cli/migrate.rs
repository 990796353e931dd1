//! `migrate`

use std::time::Duration;

use clap::{Args, Subcommand};
use sqlx::postgres::PgConnection;

use super::Failure;
use super::consent;
use super::output::{Format, counted, say, table};
use crate::app::Database;
use crate::config::GlobalArgs;
use crate::migrations::{self, Migration, verify};
use crate::{db, maintenance};

#[derive(Debug, Subcommand)]
pub enum Migrate {
    /// Apply pending migrations.
    Up,
    /// List the migrations and their state.
    Status {
        #[command(flatten)]
        format: Format,
    },
    /// Check that the schema is what the migrations leave.
    Verify {
        #[command(flatten)]
        format: Format,
    },
    /// Undo migrations, newest first. Rows of their tables are lost: the command lists
    /// migrations and rows, and asks for confirmation.
    Rollback(Rollback),
}

#[derive(Debug, Args)]
pub struct Rollback {
    /// The newest version to keep; unset: undo only the newest.
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
    /// Proceed without a backup less than a day old, and while the service is connected.
    #[arg(long)]
    force: bool,
}

impl Migrate {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let database = Database::locate(&global.database_of_owner()?).await?;
        let result = self.run_on(&database).await;
        database.close().await;
        result.map_err(Failure::of_owner)
    }

    async fn run_on(self, database: &Database) -> Result<(), Failure> {
        database.check_owner().await?;
        let mut conn = db::connect(&database.owner).await?;
        match self {
            Self::Up => {
                let applied = migrations::up(&mut conn, |migration| {
                    eprintln!("applying {}_{}", migration.version, migration.name);
                })
                .await?;
                let count = counted(applied, "migration");
                say(&if applied == 0 {
                    format!("{count} applied: the schema is up to date; `migrate verify` checks it")
                } else {
                    format!("{count} applied; the schema is up to date")
                });
                Ok(())
            }
            Self::Status { format } => {
                let statuses = migrations::status(&mut conn).await?;
                format.print(&statuses, |statuses| {
                    let rows: Vec<Vec<String>> = statuses
                        .iter()
                        .map(|status| {
                            vec![
                                status.version.clone(),
                                status.name.clone(),
                                format!("{:?}", status.state).to_lowercase(),
                                status
                                    .applied_at
                                    .map(|time| time.to_string())
                                    .unwrap_or_default(),
                            ]
                        })
                        .collect();
                    table(&["VERSION", "NAME", "STATE", "APPLIED AT"], &rows)
                })
            }
            Self::Verify { format } => {
                let checks = verify::verify(&mut conn).await?;
                let failed = checks.iter().filter(|check| !check.ok).count();
                format.print(&checks, |checks| describe(checks))?;
                if failed == 0 {
                    Ok(())
                } else {
                    Err(Failure::silent())
                }
            }
            Self::Rollback(rollback) => rollback.run(&mut conn, &database.description()).await,
        }
    }
}

/// Maximum age of the latest backup before a rollback.
const FRESH_SECS: i64 = 24 * 60 * 60;

/// How often, and how long apart, to look for the service's sessions: those of a program that has
/// just ended go by themselves.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

impl Rollback {
    async fn run(self, conn: &mut PgConnection, database: &str) -> Result<(), Failure> {
        let to = self.to.as_deref();
        let undoing = migrations::to_undo(conn, to).await?;
        if !undoing.is_empty() {
            let losses = migrations::losses(conn, to).await?;
            say(&format!(
                "the rollback of {database} undoes {}:",
                counted(undoing.len(), "migration")
            ));
            for Migration { version, name, .. } in &undoing {
                say(&format!("  {version}_{name}"));
            }
            if !losses.is_empty() {
                say("and would lose:");
            }
            for loss in &losses {
                say(&format!("  {loss}"));
            }
            self.check_sessions(conn).await?;
            self.check_consent(match losses.len() {
                0 => format!("undo {}", counted(undoing.len(), "migration")),
                things => format!("lose {}", counted(things, "thing")),
            })?;
            if !losses.is_empty() {
                self.check_backup(conn).await?;
            }
        }
        let undone = migrations::rollback(conn, to, |migration| {
            say(&format!("undoing {}_{}", migration.version, migration.name));
        })
        .await?;
        say(&format!("{} undone", counted(undone.len(), "migration")));
        Ok(())
    }

    /// The service cannot work on the older schema, and what it writes until its tables are gone
    /// is lost.
    async fn check_sessions(&self, conn: &mut PgConnection) -> Result<(), Failure> {
        let mut others = db::other_sessions(conn).await?;
        for _ in 1..LOOKS {
            if others == 0 {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
            others = db::other_sessions(conn).await?;
        }
        let connected = format!(
            "{} of the service {} connected",
            counted(others, "session"),
            if others == 1 { "is" } else { "are" }
        );
        if others > 0 && self.force {
            say(&format!(
                "warning: {connected}; stop it first: what it writes until its tables are gone is lost and \
                 in no backup"
            ));
        } else if others > 0 {
            return Err(Failure::failed(format!(
                "nothing was undone: {connected}; stop it first, or give --force: it fails on the older \
                 schema, and what it writes until its tables are gone is lost and in no backup"
            )));
        }
        Ok(())
    }

    /// Asks on a terminal; the answer repeats what is undone or lost.
    fn check_consent(&self, wanted: String) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !consent::may_ask() {
            return Err(Failure::usage(
                "nothing was undone: give --yes to accept what is listed above",
            ));
        }
        if consent::typed(&wanted)? {
            return Ok(());
        }
        Err(Failure::failed("nothing was undone"))
    }

    async fn check_backup(&self, conn: &mut PgConnection) -> Result<(), Failure> {
        if self.force {
            return Ok(());
        }
        let age = maintenance::since_success_secs(conn, maintenance::backup::JOB).await?;
        if age.is_some_and(|age| age < FRESH_SECS) {
            return Ok(());
        }
        let found = age.map_or_else(
            || "this database was never backed up".to_owned(),
            |age| format!("the last backup is {} hours old", age / 3_600),
        );
        Err(Failure::failed(format!(
            "nothing was undone: {found}; run `backup FILE` first, or give --force to continue without one"
        )))
    }
}

fn describe(checks: &[verify::Check]) -> String {
    let mut lines: Vec<String> = checks
        .iter()
        .map(|check| match (&check.problem, &check.warning) {
            (None, None) => format!("ok    {}", check.name),
            (None, Some(warning)) => format!("warn  {} {warning}", check.name),
            (Some(problem), _) => format!("WRONG {} {problem}", check.name),
        })
        .collect();
    let failed = checks.iter().filter(|check| !check.ok).count();
    lines.push(if failed == 0 {
        format!("all {} checks hold", checks.len())
    } else {
        format!("{failed} of {} checks do not hold", checks.len())
    });
    lines.join("\n")
}
