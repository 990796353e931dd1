//! `events deliveries`

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::endpoints::endpoint;
use crate::cli::database::on_database;
use crate::cli::output::{Format, table};
use crate::cli::{Failure, arguments, organization};
use crate::config::GlobalArgs;
use crate::db;
use crate::outbox::endpoints::By;
use crate::outbox::{self, Delivery, Filter};
use crate::telemetry::terminal::counted;

#[derive(Debug, Subcommand)]
pub enum Deliveries {
    /// List deliveries, newest first.
    List {
        /// Those to this endpoint.
        #[arg(long, value_name = "E", value_parser = endpoint)]
        endpoint: Option<Uuid>,
        /// Those that are pending, delivered, or failed for good.
        #[arg(long, value_parser = PossibleValuesParser::new(["pending", "delivered", "failed"]))]
        status: Option<String>,
        /// Those of this organization: its id, or the product's id for it.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<String>,
        /// How many to list at most.
        #[arg(long, value_name = "N", default_value_t = 50,
              value_parser = clap::value_parser!(i64).range(1..=1_000))]
        limit: i64,
        #[command(flatten)]
        format: Format,
    },
    /// Send deliveries again, under the same event ids.
    Resend {
        /// The deliveries' ids, as `events deliveries list` shows them.
        #[arg(required = true, value_name = "ID", value_parser = delivery)]
        ids: Vec<Uuid>,
        #[command(flatten)]
        format: Format,
    },
    /// Send an endpoint what it has not got of the events of a time: those that failed, and
    /// those from while it was disabled.
    Recover {
        /// The endpoint.
        #[arg(long, value_name = "E", value_parser = endpoint)]
        endpoint: Uuid,
        /// The beginning of that time, in RFC 3339.
        #[arg(long, value_name = "T", value_parser = arguments::time)]
        since: Timestamp,
        /// Its end, in RFC 3339; unset: now.
        #[arg(long, value_name = "T", value_parser = arguments::time)]
        until: Option<Timestamp>,
        #[command(flatten)]
        format: Format,
    },
}

fn delivery(text: &str) -> Result<Uuid, String> {
    text.parse()
        .map_err(|_| "expected a delivery's id, as shown by `events deliveries list`".to_owned())
}

impl Deliveries {
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
                endpoint,
                status,
                organization,
                limit,
                format,
            } => {
                let organization = organization.as_deref();
                let filter = Filter {
                    endpoint_id: endpoint,
                    organization_id: organization::found_if_named(pool, organization).await?,
                    status,
                };
                let found = outbox::list(pool, &filter, None, limit).await?;
                format.print(&found, |found| match found.as_slice() {
                    [] => "none".to_owned(),
                    found => describe(found),
                })
            }
            Self::Resend { ids, format } => resend(pool, &ids, format).await,
            Self::Recover {
                endpoint,
                since,
                until,
                format,
            } => {
                let until = until.unwrap_or_else(Timestamp::now);
                if until <= since {
                    return Err(Failure::usage("--until: must be after --since"));
                }
                let recovered = outbox::recover(pool, endpoint, since, until, &By::SYSTEM).await?;
                format.print(&recovered, |recovered| {
                    let again = counted(recovered.deliveries, "event");
                    format!("`serve` will send {again} that the endpoint has not got")
                })
            }
        }
    }
}

async fn resend(pool: &PgPool, ids: &[Uuid], format: Format) -> Result<(), Failure> {
    let resent = outbox::resend(pool, ids, &By::SYSTEM).await?;
    let missing: Vec<&Uuid> = ids.iter().filter(|id| !resent.contains(id)).collect();
    let shown = serde_json::json!({"resent": resent, "missing": missing});
    format.print(&shown, |_| {
        let again = counted(resent.len() as u64, "delivery");
        format!("`serve` will make {again} again")
    })?;
    match missing.first() {
        None => Ok(()),
        Some(first) => Err(Failure::failed(format!(
            "there is no delivery {first}; `events deliveries list` shows them"
        ))),
    }
}

fn describe(deliveries: &[Delivery]) -> String {
    let rows: Vec<Vec<String>> = deliveries
        .iter()
        .map(|one| {
            let next = one.next_attempt_at.map(|at| at.to_string());
            vec![
                one.id.to_string(),
                one.status.clone(),
                one.event_type.clone(),
                one.organization_id.to_string(),
                one.sequence.to_string(),
                one.endpoint_id.to_string(),
                one.attempts.to_string(),
                next.unwrap_or_default(),
                one.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "STATUS",
        "TYPE",
        "ORGANIZATION",
        "SEQUENCE",
        "ENDPOINT",
        "ATTEMPTS",
        "NEXT",
        "ERROR",
    ];
    table(&headings, &rows)
}
