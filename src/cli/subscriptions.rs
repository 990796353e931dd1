//! `subscriptions`

mod end_doubles;

use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::Failure;
use super::backfill::{PATIENCE, moment, stripe_client};
use super::database::on_database;
use super::output::{Format, table};
use crate::app;
use crate::catalogue::Catalogue;
use crate::config::{GlobalArgs, StripeArgs};
use crate::db;
use crate::maintenance::{PushGateway, Run, reconciliation};
use crate::subscriptions::{self, Healing, Reconciliation};
use crate::telemetry::terminal::counted;
use end_doubles::EndDoubles;

#[derive(Debug, Subcommand)]
pub enum Subscriptions {
    /// Compare our state with Stripe's, and report or heal differences: the daily job.
    Reconcile(Reconcile),
    /// Say which of an organization's several subscriptions stays and why; with --apply,
    /// end the others.
    EndDoubles(EndDoubles),
}

#[derive(Debug, Args)]
pub struct Reconcile {
    /// Change our state to match Stripe's.
    #[arg(long)]
    apply: bool,
    /// With --apply: also end subscriptions that Stripe does not have. Check first
    /// that the key is of the right account.
    #[arg(long, requires = "apply")]
    end_missing: bool,
    /// How far back to compare invoices, charges, refunds and disputes: an age
    /// (30d) or a time. Open ones are always compared.
    #[arg(long, default_value = "90d", value_name = "AGE|TIME")]
    since: String,
    #[command(flatten)]
    stripe: StripeArgs,
    /// The Pushgateway to push the job's metrics to.
    #[arg(long, help_heading = None, env = "PUSHGATEWAY_URL")]
    pushgateway_url: Option<String>,
    #[command(flatten)]
    format: Format,
}

impl Subscriptions {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        match self {
            Self::Reconcile(command) => command.run(global).await,
            Self::EndDoubles(command) => command.run(global).await,
        }
    }
}

impl Reconcile {
    async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let Self {
            apply,
            end_missing,
            since,
            stripe,
            pushgateway_url,
            format,
        } = self;
        let since = moment(&since, Timestamp::now())?;
        let config = global.database()?;
        let catalogue = Catalogue::load(stripe.check()?.plans_file.as_deref())?;
        let client = stripe_client(&stripe, PATIENCE)?;
        let gateway = PushGateway::given(pushgateway_url.as_deref())?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 2);
            let run = Run {
                job: reconciliation::JOB,
                pool: &pool,
                metrics: &app::metrics::install(std::iter::empty()),
                gateway: gateway.as_ref(),
            };
            let subscriptions = subscriptions::Subscriptions::new(
                pool.clone(),
                db::lookup_pool(database.service.clone(), 1),
                Arc::new(catalogue),
                Some(client),
            );
            let healing = Healing { apply, end_missing };
            reconcile(&run, &subscriptions, healing, since, format).await
        })
        .await
    }
}

async fn reconcile(
    run: &Run<'_>,
    subscriptions: &subscriptions::Subscriptions,
    healing: Healing,
    since: Timestamp,
    format: Format,
) -> Result<(), Failure> {
    let (found, ended) = reconciliation::run(run, subscriptions, healing, since).await?;
    format.print(&found, describe)?;
    ended?;
    if found.healed() < found.drift.len() {
        return Err(Failure::silent());
    }
    Ok(())
}

fn describe(found: &Reconciliation) -> String {
    let rows: Vec<Vec<String>> = found
        .drift
        .iter()
        .map(|drift| {
            let state = if drift.healed { "healed" } else { drift.fix };
            vec![
                drift.kind.as_str().to_owned(),
                drift.organization_id.to_string(),
                drift.id.clone(),
                drift.differences.join("; "),
                state.to_owned(),
            ]
        })
        .collect();
    let summary = format!(
        "{} compared, {} of customers that belong to no organization ignored; {}, {} healed",
        counted(found.compared, "subscription"),
        found.foreign,
        counted(found.drift.len(), "difference"),
        found.healed()
    );
    if rows.is_empty() {
        return summary;
    }
    let headings = [
        "DRIFT",
        "ORGANIZATION",
        "ID",
        "FIELD: OURS, STRIPE'S",
        "FIX",
    ];
    format!("{}\n\n{summary}", table(&headings, &rows))
}

impl From<subscriptions::Failure> for Failure {
    fn from(failure: subscriptions::Failure) -> Self {
        use subscriptions::Failure as Subscription;
        match failure {
            Subscription::Database(error) => error.into(),
            Subscription::Stripe(ref error) if error.is_outage() => {
                Self::unreachable(failure.to_string())
            }
            other => Self::failed(other.to_string()),
        }
    }
}
