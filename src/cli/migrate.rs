//! `migrate`

use clap::Subcommand;

use super::Failure;
use super::output::{Format, table};
use crate::app::Database;
use crate::config::GlobalArgs;
use crate::db;
use crate::migrations::{self, verify};

#[derive(Debug, Subcommand)]
pub enum Migrate {
    /// Apply what is pending.
    Up,
    /// List the migrations and whether each is applied.
    Status {
        #[command(flatten)]
        format: Format,
    },
    /// Check that the database is as the migrations leave it.
    Verify {
        #[command(flatten)]
        format: Format,
    },
    /// Undo migrations, the newest first; their tables' rows are lost.
    Rollback {
        /// The newest version to keep; without it, only the newest is undone.
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
    },
}

impl Migrate {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let database = Database::locate(&global.database()?).await?;
        let result = self.run_on(&database).await;
        database.close().await;
        result
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
                eprintln!("{applied} migrations applied; the schema is up to date");
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
            Self::Rollback { to } => {
                let undone = migrations::rollback(&mut conn, to.as_deref(), |migration| {
                    eprintln!("undoing {}_{}", migration.version, migration.name);
                })
                .await?;
                eprintln!("{} migrations undone", undone.len());
                Ok(())
            }
        }
    }
}

fn describe(checks: &[verify::Check]) -> String {
    let mut lines: Vec<String> = checks
        .iter()
        .map(|check| match &check.problem {
            None => format!("ok    {}", check.name),
            Some(problem) => format!("WRONG {} {problem}", check.name),
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
