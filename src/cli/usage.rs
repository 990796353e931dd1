//! `usage`

use clap::Subcommand;
use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::Failure;
use super::backfill::{PATIENCE, stripe_client};
use super::database::on_database;
use super::output::{Format, print, say, table};
use crate::app;
use crate::catalogue::Catalogue;
use crate::config::{GlobalArgs, StripeArgs};
use crate::db::{self, WorkerTx};
use crate::maintenance::{PushGateway, Run, usage_report};
use crate::metering::alerts;
use crate::metering::reports::{self, MeterError, Report, ReportError};
use crate::outbox;
use crate::stripe::client::Client;
use crate::telemetry::terminal::counted;

#[derive(Debug, Subcommand)]
pub enum Usage {
    /// Report usage to Stripe's meters: the ten-minute job.
    Report {
        #[command(flatten)]
        stripe: StripeArgs,
        /// The Pushgateway to push the job's metrics to.
        #[arg(long, help_heading = None, env = "PUSHGATEWAY_URL")]
        pushgateway_url: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// List usage that Stripe accepted and rejected afterwards, and why.
    Rejected {
        /// Have the next `usage report` tell Stripe again what it rejected, as far as Stripe
        /// says which reports those were. Mend the cause first.
        #[arg(long)]
        tell_again: bool,
        /// Take what is listed for dealt with.
        #[arg(long)]
        settle: bool,
        #[command(flatten)]
        format: Format,
    },
    /// List usage alerts that could not be delivered to the application.
    Alerts {
        /// Send them again.
        #[arg(long)]
        resend: bool,
        #[command(flatten)]
        format: Format,
    },
}

/// What a report needs apart from the database.
struct Reporting {
    catalogue: Catalogue,
    client: Client,
    gateway: Option<PushGateway>,
}

impl Usage {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let reporting = match &self {
            Self::Report {
                stripe,
                pushgateway_url,
                ..
            } => Some(Reporting {
                catalogue: Catalogue::load(stripe.check()?.plans_file.as_deref())?,
                client: stripe_client(stripe, PATIENCE)?,
                gateway: PushGateway::given(pushgateway_url.as_deref())?,
            }),
            Self::Alerts { .. } | Self::Rejected { .. } => None,
        };
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 10);
            self.run_on(&pool, reporting).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool, reporting: Option<Reporting>) -> Result<(), Failure> {
        match (self, reporting) {
            (Self::Alerts { resend, format }, _) => alerts(pool, resend, format).await,
            (
                Self::Rejected {
                    tell_again,
                    settle,
                    format,
                },
                _,
            ) => rejected(pool, tell_again, settle, format).await,
            (Self::Report { format, .. }, Some(reporting)) => reporting.run(pool, format).await,
            (Self::Report { .. }, None) => Err(Failure::failed("Stripe is not configured")),
        }
    }
}

impl Reporting {
    async fn run(self, pool: &PgPool, format: Format) -> Result<(), Failure> {
        let progress = |done: usize, total: usize| {
            if done == total || done.is_multiple_of(100) {
                say(&format!("{done} of {} sent", counted(total, "meter event")));
            }
        };
        let run = Run {
            job: usage_report::JOB,
            pool,
            metrics: &app::metrics::install(std::iter::empty()),
            gateway: self.gateway.as_ref(),
        };
        let report = usage_report::run(&run, &self.client, &self.catalogue, progress).await?;
        format.print(&report, describe)?;
        if !report.is_complete() {
            return Err(Failure::silent());
        }
        Ok(())
    }
}

async fn rejected(
    pool: &PgPool,
    tell_again: bool,
    settle: bool,
    format: Format,
) -> Result<(), Failure> {
    let until = Timestamp::now();
    let listed = reports::rejected(pool).await?;
    if tell_again {
        let told = reports::tell_again(pool).await?;
        say(&format!(
            "`usage report` will tell Stripe of {} again",
            counted(told, "meter event")
        ));
    }
    if tell_again || settle {
        reports::settle(pool, until).await?;
    }
    format.print(&listed, |listed| {
        if listed.is_empty() {
            return "Stripe has rejected no usage that nobody has dealt with".to_owned();
        }
        let rows = listed.iter().flat_map(rejection_rows).collect::<Vec<_>>();
        table(&["EVENT", "AT", "METER EVENTS", "CODE", "WHY"], &rows)
    })
}

/// A row for each reason that an event gives; one for an event that gives none.
fn rejection_rows(error: &MeterError) -> Vec<Vec<String>> {
    let row = |count: i64, code: &str, why: &str| {
        vec![
            error.event_id.clone(),
            error.at.to_string(),
            count.to_string(),
            code.to_owned(),
            why.to_owned(),
        ]
    };
    if error.errors.is_empty() {
        let problem = error.problem.as_deref().or(error.summary.as_deref());
        let why = problem.unwrap_or("Stripe was not asked yet");
        return vec![row(error.count.unwrap_or(0), "", why)];
    }
    let reasons = error.errors.iter();
    reasons
        .map(|one| row(one.count, &one.code, one.message.as_deref().unwrap_or("")))
        .collect()
}

async fn alerts(pool: &PgPool, resend: bool, format: Format) -> Result<(), Failure> {
    let mut tx = WorkerTx::begin(pool).await?;
    let failed = alerts::list_failed(tx.conn()).await?;
    if resend {
        tx.commit().await?;
        let count = outbox::resend_alerts(pool).await?;
        if !format.json {
            return print(&format!(
                "`serve` will send {} again",
                counted(count, "alert")
            ));
        }
    }
    format.print(&failed, |failed| {
        let rows: Vec<Vec<String>> = failed
            .iter()
            .map(|alert| {
                vec![
                    alert.id.to_string(),
                    alert.organization_id.to_string(),
                    alert.metric.clone(),
                    format!("{} %", alert.threshold),
                    alert.error.clone().unwrap_or_default(),
                ]
            })
            .collect();
        table(&["ID", "ORGANIZATION", "METRIC", "AT", "ERROR"], &rows)
    })
}

fn describe(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .metrics
        .iter()
        .map(|books| {
            let number = |n: &crate::server::number::Number| n.0.normalize().to_string();
            vec![
                books.metric.clone(),
                number(&books.counted),
                number(&books.reported),
                number(&books.pending),
            ]
        })
        .collect();
    let mut text = format!(
        "{} sent, {} failed",
        counted(report.sent, "meter event"),
        report.failed
    );
    if report.charged > 0 {
        text.push_str(&format!(
            "\n{} made for usage at prices that were removed in Stripe",
            counted(report.charged, "invoice item")
        ));
    }
    if report.doubtful > 0 {
        text.push_str(&format!(
            "\n{} may have reached Stripe more than a day ago and will not be sent again: compare the \
             meter's usage in Stripe with usage_reports, and set sent_at of those that Stripe has",
            report.doubtful
        ));
    }
    if report.refused > 0 {
        text.push_str(&format!(
            "\n{} cannot be sent, since the customer was deleted in Stripe",
            report.refused
        ));
    }
    for found in &report.unbilled {
        text.push_str(&format!(
            "\n{} {} of organization {} are not billed correctly ({}): see docs/runbook.md, UsageUnbilled",
            found.units.0.normalize(), found.metric, found.organization_id, found.reason.as_str()
        ));
    }
    if rows.is_empty() {
        return text;
    }
    let headings = ["METRIC", "COUNTED", "REPORTED", "PENDING"];
    format!("{}\n\n{text}", table(&headings, &rows))
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Database(error) => error.into(),
            ReportError::Stripe(error) => error.into(),
            error @ ReportError::Uncounted { .. } => Self::failed(error.to_string()),
        }
    }
}
