//! `quotas`

use clap::Subcommand;
use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::Failure;
use super::arguments;
use super::database::on_database;
use super::organization;
use super::output::{Format, table};
use crate::audit::Actor;
use crate::catalogue::{Catalogue, OverLimit};
use crate::config::{GlobalArgs, StripeArgs};
use crate::db::{self, TenantTx};
use crate::metering::quotas::{self, QuotaLimit, QuotaRow, SetError, SetQuota};

#[derive(Debug, Subcommand)]
pub enum Quotas {
    /// Override a quota of an organization's plan.
    ///
    /// For a billed metric, the usage reported to Stripe follows this quota: only
    /// usage over it is billed, and none if it is unlimited, hard or grace.
    Set {
        /// The organization's id, or the product's id for it.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: String,
        /// A metric of the catalogue, such as api_calls.
        #[arg(long)]
        metric: String,
        /// A decimal number, `unlimited`, or `plan` to remove the override.
        #[arg(long, value_name = "N", value_parser = limit)]
        limit: QuotaLimit,
        /// hard, grace or overage; unset: as in the plan.
        #[arg(long, value_name = "KIND", value_parser = over_limit)]
        over_limit: Option<OverLimit>,
        /// Why, for the audit log and for the next operator.
        #[arg(long, value_name = "R")]
        reason: Option<String>,
        /// When the override ends by itself, such as 2026-12-31T00:00:00Z.
        #[arg(long, value_name = "T")]
        expires_at: Option<Timestamp>,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    /// List an organization's quotas.
    List {
        /// The organization's id, or the product's id for it.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: String,
        #[command(flatten)]
        format: Format,
    },
}

fn limit(text: &str) -> Result<QuotaLimit, String> {
    QuotaLimit::parse(text).map_err(|error| format!("{error}; or `unlimited`, or `plan`"))
}

fn over_limit(text: &str) -> Result<OverLimit, String> {
    OverLimit::named(text).ok_or_else(|| "expected one of hard, grace, overage".to_owned())
}

impl Quotas {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let plans_file = match &self {
            Self::Set { stripe, .. } => stripe.check()?.plans_file,
            Self::List { .. } => None,
        };
        let catalogue = Catalogue::load(plans_file.as_deref())?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            self.run_on(&pool, &catalogue).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool, catalogue: &Catalogue) -> Result<(), Failure> {
        match self {
            Self::Set {
                organization,
                metric,
                limit,
                over_limit,
                reason,
                expires_at,
                format,
                ..
            } => {
                let command = SetQuota {
                    organization_id: organization::found(pool, &organization).await?,
                    metric,
                    limit,
                    over_limit,
                    reason,
                    expires_at,
                    actor: Actor::System,
                    client: None,
                };
                let set = quotas::set(pool, catalogue, &command).await?;
                format.print(&set, |set| describe(std::slice::from_ref(set)))
            }
            Self::List {
                organization,
                format,
            } => {
                let organization = organization::found(pool, &organization).await?;
                let mut tx = TenantTx::begin(pool, organization).await?;
                let list = quotas::list(tx.conn(), organization).await?;
                format.print(&list, |list| describe(list))
            }
        }
    }
}

fn describe(list: &[QuotaRow]) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|quota| {
            let limit = quota.quota.as_ref();
            vec![
                quota.metric.clone(),
                limit.map_or_else(|| "unlimited".to_owned(), |n| n.0.normalize().to_string()),
                quota.over_limit.clone(),
                quota.overage_rate.clone().unwrap_or_default(),
                if quota.overridden {
                    "set by an operator".to_owned()
                } else {
                    quota.plan_tier.clone()
                },
            ]
        })
        .collect();
    table(&["METRIC", "QUOTA", "OVER IT", "RATE", "BY"], &rows)
}

impl From<SetError> for Failure {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Database(error) => error.into(),
            SetError::Metric { .. }
            | SetError::OverLimitOfPlan
            | SetError::NoRate { .. }
            | SetError::EndOfPlan
            | SetError::Reason
            | SetError::Past(_) => Self::usage(error.to_string()),
            SetError::Organization(_) | SetError::Erased(_) | SetError::Changed => {
                Self::failed(error.to_string())
            }
        }
    }
}
