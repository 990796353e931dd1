//! `plans`

use clap::Subcommand;
use serde::Serialize;
use std::collections::BTreeMap;

use billing_domain::money;

mod addons;
mod versions;

use sqlx::postgres::PgPool;

use super::Failure;
use super::backfill::stripe_client;
use super::database::on_database;
use super::output::{Format, table};
use crate::app::{Database, StartError, api};
use crate::catalogue::features::FeatureValue;
use crate::catalogue::{self, Action, AllowancePeriod, Catalogue, Interval, Plan, Step, SyncError};
use crate::config::{DatabaseConfig, GlobalArgs, StripeArgs};
use crate::db;
use crate::stripe::client::{Client, Patience};
use crate::subscriptions::{self, VanishedPlans};
use addons::ShownAddon;

#[derive(Debug, Subcommand)]
pub enum Plans {
    /// List the plans of the catalogue.
    List {
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    /// List what was sold: each version of each plan, and who has it.
    Versions {
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Show what PLANS_FILE would change, and for whom.
    Diff {
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    Migrate(versions::Migrate),
    /// Create in Stripe what the catalogue has and Stripe does not.
    Sync {
        /// Print the planned changes without applying them.
        #[arg(long, help_heading = None)]
        dry_run: bool,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    tier: &'a str,
    name: &'a str,
    amount: i64,
    currency: &'a str,
    interval: &'static str,
    lookup_key: Option<&'a str>,
    /// All prices; the fields above are the default one.
    prices: Vec<ShownPrice>,
    /// The period of its quotas: a month, or the one that is paid.
    allowance_period: AllowancePeriod,
    trial_days_max: u16,
    quotas: BTreeMap<&'a str, ShownQuota>,
    features: BTreeMap<String, FeatureValue>,
    /// What may be bought beside it.
    addons: Vec<ShownAddon<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownPrice {
    amount: i64,
    currency: String,
    interval: Interval,
    lookup_key: Option<String>,
    stripe_price_ids: Vec<String>,
    /// Of each seat beyond those included, if seats have a price of their own.
    seat_amount: Option<i64>,
}

impl ShownPrice {
    /// Of a plan that is bought at its price.
    fn of(plan: &Plan) -> Self {
        let price = plan.price.clone();
        Self {
            amount: price.amount,
            currency: price.currency,
            interval: price.interval,
            lookup_key: price.lookup_key,
            stripe_price_ids: price.stripe_price_ids,
            seat_amount: plan.seat_price().map(|seat| seat.amount),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownQuota {
    /// Null: unlimited.
    quota: Option<String>,
    over_limit: &'static str,
    overage_rate: Option<String>,
    /// The same in each currency that the plan is sold in.
    overage_rates: BTreeMap<String, String>,
    /// The most that may be used during a grace period.
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_max: Option<String>,
}

impl Plans {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        match self {
            Self::List { stripe, format } => {
                let catalogue = api::catalogue(stripe.check()?.plans_file.as_deref())?;
                let shown = |plan| shown(plan, &catalogue);
                let plans: Vec<Shown<'_>> = catalogue.plans().iter().map(shown).collect();
                format.print(&plans, |plans| {
                    let addons = addons::describe(catalogue.addons());
                    format!("{}{addons}", describe(plans))
                })
            }
            Self::Versions { stripe, format } => {
                let catalogue = api::catalogue(stripe.check()?.plans_file.as_deref())?;
                on_pool(global, async |pool| {
                    versions::list(&pool, &catalogue, format).await
                })
                .await
            }
            Self::Diff { stripe, format } => {
                let catalogue = api::catalogue(stripe.check()?.plans_file.as_deref())?;
                on_pool(global, async |pool| {
                    versions::diff(&pool, &catalogue, format).await
                })
                .await
            }
            Self::Migrate(migrate) => {
                let catalogue = api::catalogue(migrate.stripe.check()?.plans_file.as_deref())?;
                on_database(&global.database()?, async |database| {
                    let pool = db::pool(database.service.clone(), 4);
                    let lookups = db::lookup_pool(database.service.clone(), 1);
                    migrate.run(&pool, lookups, catalogue).await
                })
                .await
            }
            Self::Sync {
                dry_run,
                stripe,
                format,
            } => {
                let catalogue = api::catalogue(stripe.check()?.plans_file.as_deref())?;
                let client = stripe_client(&stripe, Patience::default())?;
                let steps = sync(&global.database()?, &catalogue, &client, dry_run).await?;
                format.print(&steps, |steps| describe_steps(steps, dry_run))
            }
        }
    }
}

async fn on_pool(
    global: &GlobalArgs,
    run: impl AsyncFnOnce(PgPool) -> Result<(), Failure>,
) -> Result<(), Failure> {
    on_database(&global.database()?, async |database| {
        run(db::pool(database.service.clone(), 4)).await
    })
    .await
}

/// Syncs, and records what was found. Plans that organizations have must be in the
/// file. Without a database, there is nobody to have a plan and nothing to record.
async fn sync(
    config: &DatabaseConfig,
    catalogue: &Catalogue,
    client: &Client,
    dry_run: bool,
) -> Result<Vec<Step>, Failure> {
    let database = match Database::locate(config).await {
        Ok(database) => database,
        Err(StartError::NoDatabase(_)) => {
            return Ok(catalogue::sync(client, catalogue, dry_run).await?.steps);
        }
        Err(error) => return Err(error.into()),
    };
    let pool = db::pool(database.service.clone(), 1);
    let synced = async {
        subscriptions::check_vanished(&pool, catalogue).await?;
        let synced = catalogue::sync(client, catalogue, dry_run).await?;
        if !dry_run {
            catalogue::record(&pool, catalogue, &synced).await?;
        }
        Ok(synced.steps)
    }
    .await;
    pool.close().await;
    database.close().await;
    synced
}

impl From<VanishedPlans> for Failure {
    fn from(error: VanishedPlans) -> Self {
        match error {
            VanishedPlans::Database(error) => error.into(),
            VanishedPlans::Found(_)
            | VanishedPlans::Addons(_)
            | VanishedPlans::Metrics(_)
            | VanishedPlans::Aggregations(_) => Self::usage(error.to_string()),
        }
    }
}

fn shown<'a>(plan: &'a Plan, catalogue: &'a Catalogue) -> Shown<'a> {
    let quota = |metric: &str, quota: &catalogue::Quota| ShownQuota {
        quota: quota.quota.map(|quota| quota.to_string()),
        over_limit: quota.over_limit.as_str(),
        overage_rate: quota.overage_rate.map(|rate| rate.to_string()),
        overage_rates: plan
            .rates(quota)
            .into_iter()
            .map(|(currency, rate)| (currency, rate.to_string()))
            .collect(),
        grace_max: catalogue
            .grace_max_of(plan, metric)
            .map(|most| most.normalize().to_string()),
    };
    Shown {
        tier: &plan.tier,
        name: &plan.name,
        amount: plan.price.amount,
        currency: &plan.price.currency,
        interval: plan.price.interval.as_str(),
        lookup_key: plan.price.lookup_key.as_deref(),
        prices: plan.offers().iter().map(ShownPrice::of).collect(),
        allowance_period: plan.allowance_period,
        trial_days_max: plan.trial_days_max,
        quotas: plan
            .quotas
            .iter()
            .map(|(metric, entry)| (metric.as_str(), quota(metric, entry)))
            .collect(),
        features: catalogue.features_of(plan),
        addons: catalogue.addons_for(plan).map(ShownAddon::of).collect(),
    }
}

impl Shown<'_> {
    /// What a quota is of, where the plan is paid by the year.
    fn allowance(&self) -> &'static str {
        let by_year = |price: &ShownPrice| price.interval == Interval::Year;
        match self.allowance_period {
            _ if !self.prices.iter().any(by_year) => "",
            AllowancePeriod::Month => " a month",
            AllowancePeriod::Billing => " a period",
        }
    }
}

fn describe(plans: &[Shown<'_>]) -> String {
    let mut rows = Vec::new();
    for plan in plans {
        for (n, price) in plan.prices.iter().enumerate() {
            let amount = |amount| money::display(amount, &price.currency);
            let fee = format!("{} a {}", amount(price.amount), price.interval.as_str());
            let seat = price.seat_amount.map(amount);
            let tier = if n == 0 { plan.tier } else { "" };
            let names = price.lookup_key.iter().chain(&price.stripe_price_ids);
            rows.push(vec![
                tier.to_owned(),
                fee,
                seat.map_or_else(String::new, |seat| format!("{seat} a seat")),
                Vec::from_iter(names.cloned()).join(", "),
            ]);
        }
        for (metric, quota) in &plan.quotas {
            let limit = match &quota.quota {
                Some(limit) => format!("{limit}{}", plan.allowance()),
                None => "unlimited".to_owned(),
            };
            let rates = quota.overage_rates.iter();
            let rates = rates.map(|(currency, rate)| format!("{rate} {currency}"));
            let rates = Vec::from_iter(rates).join(", ");
            let over = match (&quota.overage_rate, &quota.grace_max) {
                (Some(_), _) if quota.overage_rates.len() > 1 => {
                    format!("{} at {rates}", quota.over_limit)
                }
                (Some(rate), _) => format!("{} at {rate}", quota.over_limit),
                (None, Some(most)) => format!("{} up to {most}", quota.over_limit),
                (None, None) => quota.over_limit.to_owned(),
            };
            rows.push(vec![String::new(), (*metric).to_owned(), limit, over]);
        }
        for (feature, value) in &plan.features {
            let (feature, value) = (feature.clone(), value.to_string());
            rows.push(vec![String::new(), feature, value, String::new()]);
        }
    }
    table(
        &[
            "PLAN",
            "PRICE, METRIC, FEATURE",
            "QUOTA, VALUE",
            "LOOKUP KEY, OVER THE QUOTA",
        ],
        &rows,
    )
}

fn describe_steps(steps: &[Step], dry_run: bool) -> String {
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let action = match (step.action, dry_run) {
                (Action::Unchanged, _) => "unchanged",
                (Action::Create, false) => "created",
                (Action::Replace, false) => "replaced",
                (Action::Rename, false) => "renamed",
                (Action::Rename, true) => "to be renamed",
                (Action::Create, true) => "to be created",
                (Action::Replace, true) => "to be replaced",
            };
            vec![
                step.kind.to_owned(),
                step.name.clone(),
                action.to_owned(),
                step.id.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table(&["", "NAME", "", "ID"], &rows)
}

impl From<SyncError> for Failure {
    fn from(error: SyncError) -> Self {
        match &error {
            SyncError::Stripe(stripe) if stripe.is_outage() => Self::unreachable(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}
