//! `audit`

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::Failure;
use super::arguments;
use super::database::on_database;
use super::organization;
use super::output::{Format, counted, escaped, table};
use crate::app::Database;
use crate::audit::{self, Entry, Filter, Repaired, Report, csv};
use crate::config::GlobalArgs;
use crate::db::{self, WorkerTx};
use crate::maintenance::audit_verification;
use crate::tenancy::organizations;

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// List the newest entries.
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Maximum number of results.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
        #[command(flatten)]
        format: Format,
    },
    /// Verify the hash chains: find entries that were changed or removed.
    Verify {
        /// Only entries of this organization.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Repair the head of a chain from its entries, with the owner's login. The
    /// repair is itself an entry.
    Repair(Repair),
    /// Export all entries, newest first.
    Export {
        #[command(flatten)]
        filter: FilterArgs,
        /// Output format.
        #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
        format: ExportFormat,
        /// Write one JSON document, an array.
        #[arg(long, conflicts_with = "format")]
        json: bool,
        /// A new file, which only you may read; unset: standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct Repair {
    /// The organization whose chain to repair.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: String,
    /// The reason, recorded in the entry; required where entries were changed.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only entries of this organization.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<String>,
    /// Only entries with this action, such as plan_changed.
    #[arg(long)]
    action: Option<String>,
    /// Only entries about this type of resource, such as subscription.
    #[arg(long)]
    resource_type: Option<String>,
    /// From this time on (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    from: Option<Timestamp>,
    /// Before this time (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    to: Option<Timestamp>,
}

impl FilterArgs {
    fn filter(self, organization_id: Option<Uuid>) -> Filter {
        Filter {
            organization_id,
            action: self.action,
            resource_type: self.resource_type,
            actor: None,
            from: self.from,
            to: self.to,
            before: None,
        }
    }
}

/// The organization that is named; its log outlives it.
async fn logged(conn: &mut PgConnection, named: Option<&str>) -> Result<Option<Uuid>, Failure> {
    let Some(named) = named else { return Ok(None) };
    let found = organizations::find_logged(conn, named).await?;
    found.map(Some).ok_or_else(|| organization::unknown(named))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ExportFormat {
    /// One JSON object per line.
    Jsonl,
    Json,
    Csv,
}

/// Entries that an export reads at a time.
const EXPORT_BATCH: i64 = 1_000;

impl Audit {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        if let Self::Repair(repair) = self {
            return repair.run(global).await;
        }
        on_database(&global.database()?, async |database| {
            self.run_on(&db::pool(database.service.clone(), 1)).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool) -> Result<(), Failure> {
        let named = match &self {
            Self::List { filter, .. } | Self::Export { filter, .. } => &filter.organization,
            Self::Verify { organization, .. } => organization,
            Self::Repair(_) => &None,
        };
        let started_at = Timestamp::now();
        let mut tx = WorkerTx::begin(pool).await?;
        // Reading the whole log may take longer than a request may.
        sqlx::query("SET LOCAL statement_timeout = 0")
            .execute(tx.conn())
            .await?;
        if let Self::Verify { .. } = self {
            audit::snapshot(tx.conn()).await?;
        }
        let organization_id = logged(tx.conn(), named.as_deref()).await?;
        match self {
            Self::List {
                filter,
                limit,
                format,
            } => {
                let entries =
                    audit::list(tx.conn(), &filter.filter(organization_id), i64::from(limit))
                        .await?;
                format.print(&entries, |entries| describe(entries))
            }
            Self::Verify { format, .. } => {
                let report = audit::verify(tx.conn(), organization_id).await?;
                tx.rollback().await?;
                if organization_id.is_none() {
                    audit_verification::done(pool, started_at, report.holds()).await?;
                }
                format.print(&report, describe_report)?;
                if report.holds() {
                    Ok(())
                } else {
                    Err(Failure::silent())
                }
            }
            Self::Repair(_) => unreachable!("a repair runs as the owner"),
            Self::Export {
                filter,
                format,
                json,
                output,
            } => {
                let format = if json { ExportFormat::Json } else { format };
                export(&mut tx, filter.filter(organization_id), format, output).await
            }
        }
    }
}

impl Repair {
    async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let database = Database::locate(&global.database_of_owner()?).await?;
        let result = self.run_on(&database).await;
        database.close().await;
        result
    }

    async fn run_on(self, database: &Database) -> Result<(), Failure> {
        database.check_owner().await?;
        let mut conn = db::connect(&database.owner).await?;
        let id = logged(&mut conn, Some(&self.organization))
            .await
            .map_err(Failure::of_owner)?
            .unwrap_or_default();
        let mut tx = conn.begin().await?;
        let reason = self.reason.as_deref();
        let repaired = audit::repair(&mut tx, id, reason)
            .await
            .map_err(|error| match db::sql_state(&error).as_deref() {
                Some("42501" | "22023") => Failure::usage(format!(
                    "MIGRATION_DATABASE_URL: a chain is repaired with the login of the owner: {error}"
                )),
                _ => error.into(),
            })?;
        let accepted = repaired
            .as_ref()
            .map_or(0, |repaired| repaired.accepted.len());
        if accepted > 0 && reason.is_none_or(|reason| reason.trim().is_empty()) {
            tx.rollback().await?;
            return Err(Failure::usage(format!(
                "--reason: nothing was repaired: {} changed or removed; say why that is accepted, for those \
                 who verify the log later",
                match accepted {
                    1 => "1 entry was".to_owned(),
                    n => format!("{n} entries were"),
                }
            )));
        }
        tx.commit().await?;
        self.format
            .print(&repaired, |repaired| describe_repair(repaired.as_ref()))
    }
}

fn describe_repair(repaired: Option<&Repaired>) -> String {
    let Some(repaired) = repaired else {
        return "the chain's head is what its entries say: there is nothing to repair".to_owned();
    };
    let mut lines: Vec<String> = repaired
        .accepted
        .iter()
        .map(|one| {
            format!(
                "accepted, and shown as repaired from now on: {}",
                one.problem
            )
        })
        .collect();
    let before = repaired
        .head_before
        .map_or_else(|| "none".to_owned(), |before| before.to_string());
    lines.push(format!(
        "the head was {before}, its entries say {}; entered as {} (audit_chain_repaired)",
        repaired.head, repaired.entry
    ));
    lines.join("\n")
}

fn describe(entries: &[Entry]) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            vec![
                entry.created_at.to_string(),
                entry.organization_id.to_string(),
                entry.actor_type.clone(),
                entry.action.clone(),
                entry.resource_id.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table(
        &["TIME", "ORGANIZATION", "ACTOR", "ACTION", "RESOURCE"],
        &rows,
    )
}

fn describe_report(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .breaks
        .iter()
        .map(|broken| format!("BROKEN {}: {}", broken.organization_id, broken.problem))
        .collect();
    lines.extend(report.repaired.iter().map(|one| {
        format!(
            "repaired {}: {}: the owner accepted it",
            one.organization_id, one.problem
        )
    }));
    if report.entries_with_addresses > 0 {
        lines.push(format!(
            "note: {} with an address or user agent in the chain, which `organizations erase` cannot reach: \
             appended by an older version or function",
            counted(report.entries_with_addresses, "entry")
        ));
    }
    if report.stray_personal_data > 0 {
        lines.push(format!(
            "note: {} of personal data without an entry; `organizations erase` deletes them",
            counted(report.stray_personal_data, "row")
        ));
    }
    let chains = counted(report.chains, "chain");
    let entries = match report.entries {
        1 => format!("1 entry in {chains}"),
        n => format!("{n} entries in {chains}"),
    };
    let unknown = report.organizations_without_entries;
    lines.push(match report.breaks.len() {
        0 if report.entries > 0 => format!("{entries}: all intact"),
        0 if unknown == 0 => format!("{entries}: there is nothing to verify yet"),
        0 => format!(
            "{entries}, and {}: the log was thrown away, or never written; it proves nothing",
            counted(unknown, "organization")
        ),
        n => format!("{n} of {} chains are broken", report.chains),
    });
    if report.entries > 0 && unknown > 0 {
        lines.push(format!(
            "{} without any entry: nothing is proved of them",
            counted(unknown, "organization")
        ));
    }
    lines.join("\n")
}

async fn export(
    tx: &mut WorkerTx,
    mut filter: Filter,
    format: ExportFormat,
    output: Option<PathBuf>,
) -> Result<(), Failure> {
    let writing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure {
            status: 0,
            message: None,
        },
        _ => Failure::failed(format!("the export cannot be written: {error}")),
    };
    let mut writer: Box<dyn Write> = match &output {
        Some(path) => {
            let mut file = std::fs::OpenOptions::new();
            let file = file.write(true).create_new(true).mode(0o600);
            let file = file.open(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Failure::usage(format!(
                    "{} already exists; name another file, or remove it first",
                    path.display()
                )),
                _ => Failure::failed(format!("{}: {error}", path.display())),
            })?;
            Box::new(std::io::BufWriter::new(file))
        }
        None => Box::new(std::io::BufWriter::new(std::io::stdout().lock())),
    };
    match format {
        ExportFormat::Csv => {
            writeln!(writer, "{}", csv::HEADINGS.join(",")).map_err(writing)?;
        }
        ExportFormat::Json => writer.write_all(b"[").map_err(writing)?,
        ExportFormat::Jsonl => {}
    }
    let mut separator = "";
    loop {
        let entries = audit::list(tx.conn(), &filter, EXPORT_BATCH).await?;
        for entry in &entries {
            let line = match format {
                ExportFormat::Jsonl | ExportFormat::Json => serde_json::to_string(entry)
                    .map_err(|error| Failure::failed(error.to_string()))?,
                ExportFormat::Csv => csv::line(entry),
            };
            let line = escaped(&line);
            if matches!(format, ExportFormat::Json) {
                write!(writer, "{separator}\n{line}").map_err(writing)?;
                separator = ",";
            } else {
                writeln!(writer, "{line}").map_err(writing)?;
            }
        }
        match entries.last() {
            Some(last) => filter.before = Some(last.position()),
            None => break,
        }
    }
    if matches!(format, ExportFormat::Json) {
        writeln!(writer, "\n]").map_err(writing)?;
    }
    writer.flush().map_err(writing)
}
