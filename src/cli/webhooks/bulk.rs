//! `webhooks bulk`

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::super::Failure;
use super::super::arguments;
use super::super::organization;
use super::super::output::{Format, printable, table};
use crate::db::WorkerTx;
use crate::webhooks::bulk::{self, Act, BulkAction, BulkError, By, Counted, Filter};

#[derive(Debug, Subcommand)]
pub enum Bulk {
    /// Begin one. `serve` does it; a count and a sample come first with --dry-run.
    Start(Start),
    /// List them, the newest first.
    List {
        /// Maximum number of results.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
        #[command(flatten)]
        format: Format,
    },
    /// Show how far one is, and what failed.
    Show {
        /// Its id, as `start` and `list` print it.
        #[arg(value_name = "ID")]
        id: Uuid,
        #[command(flatten)]
        format: Format,
    },
    /// Stop one: what was done stays done.
    Stop {
        /// Its id, as `start` and `list` print it.
        #[arg(value_name = "ID")]
        id: Uuid,
        #[command(flatten)]
        format: Format,
    },
}

/// What is done with each event.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    ReplayDeadLetters,
    DiscardDeadLetters,
    /// Processed events, once more.
    ReplayEvents,
}

impl From<Wanted> for Act {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::ReplayDeadLetters => Self::ReplayDeadLetters,
            Wanted::DiscardDeadLetters => Self::DiscardDeadLetters,
            Wanted::ReplayEvents => Self::ReplayEvents,
        }
    }
}

#[derive(Debug, Args)]
pub struct Start {
    /// What is done with each event that matches.
    #[arg(value_enum, value_name = "ACTION")]
    action: Wanted,
    /// Only events of this type.
    #[arg(long = "type", value_name = "T")]
    event_type: Option<String>,
    /// Only events of this organization.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<String>,
    /// Only dead letters with this error, whose ids do not count.
    #[arg(long, value_name = "ERROR")]
    reason: Option<String>,
    /// Only processed events that were received from this time on.
    #[arg(long, value_name = "T")]
    since: Option<Timestamp>,
    /// Only processed events that were received before this time.
    #[arg(long, value_name = "T")]
    until: Option<Timestamp>,
    /// Count what matches and print some of it, without beginning.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: Format,
}

impl From<BulkError> for Failure {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::Database(error) => error.into(),
            BulkError::NotFor { .. } => Self::usage(error.to_string()),
            other => Self::failed(other.to_string()),
        }
    }
}

impl Bulk {
    pub async fn run(self, pool: &PgPool) -> Result<(), Failure> {
        match self {
            Self::Start(start) => start.run(pool).await,
            Self::List { limit, format } => {
                let mut tx = WorkerTx::begin(pool).await?;
                let actions = bulk::list(tx.conn(), None, i64::from(limit)).await?;
                format.print(&actions, |actions| listed(actions))
            }
            Self::Show { id, format } => {
                let mut tx = WorkerTx::begin(pool).await?;
                let action = bulk::get(tx.conn(), id).await?;
                format.print(&action.ok_or(BulkError::Unknown)?, described)
            }
            Self::Stop { id, format } => {
                let stopped = bulk::stop(pool, id, By::CommandLine).await?;
                format.print(&stopped, described)
            }
        }
    }
}

impl Start {
    async fn run(self, pool: &PgPool) -> Result<(), Failure> {
        let named = self.organization.as_deref();
        let filter = Filter {
            r#type: self.event_type,
            organization_id: organization::found_if_named(pool, named).await?,
            reason: self.reason,
            since: self.since,
            until: self.until,
        };
        let act = Act::from(self.action);
        if self.dry_run {
            let counted = bulk::count(pool, act, &filter).await?;
            return self.format.print(&counted, matching);
        }
        let begun = bulk::start(pool, act, &filter, None, By::CommandLine).await?;
        self.format.print(&begun, described)
    }
}

fn matching(counted: &Counted) -> String {
    let sample = counted.sample.iter();
    let sample = sample.map(|event| format!("{} {}", event.event_id, event.event_type));
    let mut lines: Vec<String> = sample.map(|line| printable(&line)).collect();
    lines.insert(0, format!("{} match; the oldest are", counted.count));
    lines.join("\n")
}

fn listed(actions: &[BulkAction]) -> String {
    let rows: Vec<Vec<String>> = actions
        .iter()
        .map(|action| {
            vec![
                action.id.to_string(),
                action.action.as_str().to_owned(),
                action.state.as_str().to_owned(),
                format!("{} of {}", action.done(), action.counted),
                action.failed.to_string(),
                action.created_at.to_string(),
            ]
        })
        .collect();
    table(
        &["ID", "ACTION", "STATE", "DONE", "FAILED", "ASKED FOR"],
        &rows,
    )
}

fn described(action: &BulkAction) -> String {
    let mut lines = vec![format!(
        "{} {} is {}: {} of {} done, {} succeeded, {} failed, {} left out",
        action.action.as_str(),
        action.id,
        action.state.as_str(),
        action.done(),
        action.counted,
        action.succeeded,
        action.failed,
        action.skipped
    )];
    let failures = action.failures.iter();
    lines.extend(
        failures.map(|failed| printable(&format!("{} FAILED {}", failed.event_id, failed.error))),
    );
    lines.join("\n")
}
