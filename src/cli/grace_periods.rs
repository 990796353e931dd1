//! `grace-periods`

use clap::Subcommand;
use sqlx::postgres::PgPool;

use super::Failure;
use super::database::on_database;
use super::output::{Format, table};
use crate::app;
use crate::config::GlobalArgs;
use crate::db::{self, WorkerTx};
use crate::maintenance::{PushGateway, Run, grace_cleanup};
use crate::metering::grace::{self, Filter, GraceRow};

/// Maximum number of rows listed.
const MOST: i64 = 10_000;

#[derive(Debug, Subcommand)]
pub enum GracePeriods {
    /// List the grace periods, newest first.
    List {
        /// Only running ones.
        #[arg(long)]
        active: bool,
        #[command(flatten)]
        format: Format,
    },
    /// End grace periods that are over, and remove those that ended long ago: the
    /// daily job.
    Cleanup {
        /// Keep grace periods that ended within this many days. Those of running
        /// billing periods are always kept.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=36_500))]
        older_than_days: u16,
        /// The Pushgateway to push the job's metrics to.
        #[arg(long, env = "PUSHGATEWAY_URL")]
        pushgateway_url: Option<String>,
        #[command(flatten)]
        format: Format,
    },
}

impl GracePeriods {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let gateway = self.gateway()?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            self.run_on(&pool, gateway.as_ref()).await
        })
        .await
    }

    fn gateway(&self) -> Result<Option<PushGateway>, Failure> {
        let url = match self {
            Self::Cleanup {
                pushgateway_url, ..
            } => pushgateway_url.as_deref(),
            Self::List { .. } => None,
        };
        Ok(PushGateway::given(url)?)
    }

    async fn run_on(self, pool: &PgPool, gateway: Option<&PushGateway>) -> Result<(), Failure> {
        match self {
            Self::List { active, format } => {
                let filter = Filter {
                    only_active: active,
                    limit: MOST,
                    ..Filter::default()
                };
                let mut tx = WorkerTx::begin(pool).await?;
                let list = grace::list(tx.conn(), &filter).await?;
                format.print(&list, |list| describe(list))
            }
            Self::Cleanup {
                older_than_days,
                format,
                ..
            } => {
                let run = Run {
                    job: grace_cleanup::JOB,
                    pool,
                    metrics: &app::metrics::install(grace::audit_actions()),
                    gateway,
                };
                let cleaned = grace_cleanup::run(&run, older_than_days).await?;
                if format.json {
                    format.print(&cleaned, |_| String::new())?;
                }
                Ok(())
            }
        }
    }
}

fn describe(list: &[GraceRow]) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|grace| {
            vec![
                grace.organization_id.to_string(),
                grace.metric.clone(),
                grace.started_at.to_string(),
                grace.expires_at.to_string(),
                match &grace.end_reason {
                    Some(reason) => reason.clone(),
                    None if grace.active => "active".to_owned(),
                    None => "over".to_owned(),
                },
            ]
        })
        .collect();
    let headings = ["ORGANIZATION", "METRIC", "STARTED", "EXPIRES", ""];
    table(&headings, &rows)
}
