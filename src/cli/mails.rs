//! `mails`

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::database::on_database;
use super::output::{Format, table};
use super::{Failure, arguments, organization};
use crate::config::GlobalArgs;
use crate::db;
use crate::mail::{self, Filter, Mail};
use crate::telemetry::terminal::counted;

#[derive(Debug, Subcommand)]
pub enum Mails {
    /// List mails to customers, newest first.
    List {
        /// Those that are pending, sent, failed for good, or withdrawn since there was nothing
        /// to say any more.
        #[arg(long, value_parser = PossibleValuesParser::new(["pending", "sent", "failed", "withdrawn"]))]
        status: Option<String>,
        /// Those to this organization: its id, or the product's id for it.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<String>,
        /// How many to list at most.
        #[arg(long, value_name = "N", default_value_t = 50,
              value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        #[command(flatten)]
        format: Format,
    },
    /// Try mails again at once that failed or wait. One that was sent is not sent again.
    Retry {
        /// The mails' ids, as `mails list` shows them.
        #[arg(required = true, value_name = "ID", value_parser = id)]
        ids: Vec<Uuid>,
        #[command(flatten)]
        format: Format,
    },
}

fn id(text: &str) -> Result<Uuid, String> {
    text.parse()
        .map_err(|_| "expected a mail's id, as shown by `mails list`".to_owned())
}

impl Mails {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            self.run_on(&pool).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool) -> Result<(), Failure> {
        match self {
            Self::List {
                status,
                organization,
                limit,
                format,
            } => {
                let organization = organization.as_deref();
                let filter = Filter {
                    organization_id: organization::found_if_named(pool, organization).await?,
                    status,
                };
                let found = mail::list(pool, &filter, limit).await?;
                format.print(&found, |found| match found.as_slice() {
                    [] => "none".to_owned(),
                    found => describe(found),
                })
            }
            Self::Retry { ids, format } => retry(pool, &ids, format).await,
        }
    }
}

async fn retry(pool: &PgPool, ids: &[Uuid], format: Format) -> Result<(), Failure> {
    let retried = mail::retry(pool, ids).await?;
    let left: Vec<&Uuid> = ids.iter().filter(|id| !retried.contains(id)).collect();
    let shown = serde_json::json!({"retried": retried, "left": left});
    format.print(&shown, |_| {
        format!("`serve` will try {} again", counted(retried.len(), "mail"))
    })?;
    match left.first() {
        None => Ok(()),
        Some(first) => Err(Failure::failed(format!(
            "there is no mail {first} that failed or waits; `mails list` shows them"
        ))),
    }
}

fn describe(mails: &[Mail]) -> String {
    let rows: Vec<Vec<String>> = mails
        .iter()
        .map(|one| {
            let next = one.next_attempt_at.map(|at| at.to_string());
            vec![
                one.id.to_string(),
                one.status.clone(),
                one.kind.clone(),
                one.organization_id.to_string(),
                one.resource_id.clone(),
                one.recipient.clone().unwrap_or_default(),
                one.attempts.to_string(),
                next.unwrap_or_default(),
                one.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "STATUS",
        "KIND",
        "ORGANIZATION",
        "ABOUT",
        "TO",
        "ATTEMPTS",
        "NEXT",
        "ERROR",
    ];
    table(&headings, &rows)
}
