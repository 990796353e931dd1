//! `plans versions`, `plans diff` and `plans migrate`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use serde::Serialize;
use sqlx::postgres::PgPool;

use billing_domain::money;

use crate::app::stripe_client;
use crate::catalogue::addons::history::{AddonDiff, AddonOutcome};
use crate::catalogue::history::{
    self, Affected, Effect, Outcome, PlanDiff, PlanVersion, TermChange,
};
use crate::catalogue::{Catalogue, Interval, Plan, When, addons};
use crate::cli::Failure;
use crate::cli::arguments;
use crate::cli::consent;
use crate::cli::organization;
use crate::cli::output::{Format, Progress, counted, say, table};
use crate::config::StripeArgs;
use crate::stripe::client::ErrorKind;
use crate::subscriptions::{self, Candidate, Migration, Moved, Subscriptions};

/// Move running subscriptions to another version of their plan.
///
/// Those that are set to end stay, those that are paid by an interval which the version
/// is not sold by, and at renewal those whose customer has chosen another plan. A run that is interrupted is taken up by the next one. Moved at once,
/// Stripe prorates the rest of the period, and invoices it as PLANS_FILE says for
/// upgrades; at renewal, nothing changes before the next invoice.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The plan, such as standard.
    #[arg(long, value_name = "TIER")]
    plan: String,
    /// The version to move to, as shown by `plans versions`.
    #[arg(long, value_name = "VERSION")]
    to: i32,
    /// Move only those of this version.
    #[arg(long, value_name = "VERSION")]
    from: Option<i32>,
    /// Move only this organization's.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<String>,
    /// When they move: at once, or each with its next period.
    #[arg(long, value_enum, default_value = "now")]
    at: MovesAt,
    /// The most calls to Stripe a second. Stripe takes 25 with a test key and 100 with a
    /// live one, which the service needs as well.
    #[arg(long, value_name = "CALLS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Print what each would pay, without changing any subscription. Where Stripe charges
    /// usage with the change, it is told the usage so far, as by `usage report`.
    #[arg(long, help_heading = None)]
    dry_run: bool,
    /// Do not ask on a terminal before Stripe charges.
    #[arg(long, help_heading = None)]
    yes: bool,
    #[command(flatten)]
    pub stripe: StripeArgs,
    #[command(flatten)]
    pub format: Format,
}

/// When subscriptions move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MovesAt {
    Now,
    Renewal,
}

/// How many subscriptions are moved side by side: `--rate` decides how fast.
const SIDE_BY_SIDE: usize = 4;
/// How often Stripe may refuse one for the rate before the run ends.
const MAX_REFUSALS: u32 = 8;

pub async fn list(pool: &PgPool, catalogue: &Catalogue, format: Format) -> Result<(), Failure> {
    let versions = history::versions(pool, catalogue).await?;
    format.print(&versions, |versions| describe_versions(versions))
}

pub async fn diff(pool: &PgPool, catalogue: &Catalogue, format: Format) -> Result<(), Failure> {
    let plans = history::diff(pool, catalogue).await?;
    let addons = addons::history::diff(pool, catalogue).await?;
    let plans = plans.into_iter().map(Diff::Plan);
    let diffs: Vec<Diff> = plans.chain(addons.into_iter().map(Diff::Addon)).collect();
    format.print(&diffs, |diffs| {
        diffs.iter().map(Diff::describe).collect::<String>()
    })
}

/// What the file would change of a plan or of an add-on.
#[derive(Serialize)]
#[serde(untagged)]
enum Diff {
    Plan(PlanDiff),
    Addon(AddonDiff),
}

impl Diff {
    fn describe(&self) -> String {
        match self {
            Self::Plan(plan) => describe_diff(plan),
            Self::Addon(addon) => describe_addon(addon),
        }
    }
}

impl Migrate {
    /// The connections of `lookups` have the role billing_worker from the start.
    pub async fn run(
        self,
        pool: &PgPool,
        lookups: PgPool,
        catalogue: Catalogue,
    ) -> Result<(), Failure> {
        let config = self.stripe.check()?;
        let client = stripe_client(&config)?.ok_or_else(|| {
            Failure::usage("STRIPE_SECRET_KEY: is needed, since Stripe charges for the change")
        })?;
        let client = client.paced(self.rate);
        if catalogue.plan(&self.plan).is_none() {
            let tiers = catalogue.plans().iter().map(|plan| plan.tier.as_str());
            let tiers = Vec::from_iter(tiers).join(", ");
            return Err(Failure::usage(format!(
                "--plan: there is no plan {:?}; the plans are {tiers}",
                self.plan
            )));
        }
        match self.dry_run {
            true => catalogue.read_all_versions(pool).await?,
            false => catalogue.record_versions(pool, true).await?,
        }
        let versions = history::versions(pool, &catalogue).await?;
        let mut versions = versions
            .into_iter()
            .filter(|one| one.plan_tier == self.plan);
        let version = versions.find(|one| one.version == self.to);
        let terms = version.and_then(|version| version.terms).ok_or_else(|| {
            Failure::usage(format!(
                "--to: {:?} has no version {}; run `plans versions` to see them",
                self.plan, self.to
            ))
        })?;
        let migration = Migration {
            tier: self.plan.clone(),
            to: self.to,
            from: self.from,
            organization: organization::found_if_named(pool, self.organization.as_deref()).await?,
            when: match self.at {
                MovesAt::Now => When::Now,
                MovesAt::Renewal => When::PeriodEnd,
            },
        };
        let candidates = migration.candidates(pool).await?;
        let mut progress = Progress::new(candidates.len());
        let subscriptions = Subscriptions::new(
            pool.clone(),
            lookups,
            std::sync::Arc::new(catalogue),
            Some(client),
        );
        self.check_consent(&subscriptions, &candidates, &terms, &migration)
            .await?;
        let (mut moved, mut failed) = (Vec::new(), None);
        for several in candidates.chunks(SIDE_BY_SIDE) {
            let several = several
                .iter()
                .map(|candidate| self.one(&subscriptions, candidate, &terms, &migration));
            for one in join_all(several).await {
                match one {
                    Ok(one) => {
                        progress.step(&one.name);
                        moved.push(one);
                    }
                    Err(failure) => failed = failed.or(Some(failure)),
                }
            }
            if failed.is_some() {
                break;
            }
        }
        self.report(&moved, failed)
    }

    /// On a terminal, shows how many move and what they pay at once, and asks. Scripts have
    /// decided already.
    async fn check_consent(
        &self,
        subscriptions: &Subscriptions,
        candidates: &[Candidate],
        terms: &Plan,
        migration: &Migration,
    ) -> Result<(), Failure> {
        if self.yes || self.dry_run || candidates.is_empty() || !consent::may_ask() {
            return Ok(());
        }
        let mut due = BTreeMap::<String, i64>::new();
        let mut staying = 0_usize;
        for candidate in candidates {
            let priced = subscriptions.price_migration(candidate, terms, migration);
            let priced = priced.await?;
            match (priced.due_now_amount, priced.currency) {
                _ if priced.problem.is_some() => staying += 1,
                (Some(amount), Some(currency)) => *due.entry(currency).or_default() += amount,
                _ => {}
            }
        }
        let total: Vec<String> = due
            .iter()
            .map(|(currency, amount)| money::display(*amount, currency))
            .collect();
        let moving = counted(candidates.len() - staying, "subscription");
        say(&format!(
            "{moving} of {} to version {}, {staying} stay; Stripe charges now: {} (--dry-run shows each)",
            self.plan,
            self.to,
            match total.is_empty() {
                true => "nothing".to_owned(),
                false => total.join(" and "),
            }
        ));
        match consent::typed(&format!("move {moving}"))? {
            true => Ok(()),
            false => Err(Failure::failed("nothing was moved")),
        }
    }

    /// Prints what became of each, also where a failure has ended the run.
    fn report(
        &self,
        moved: &[Moved],
        failed: Option<subscriptions::Failure>,
    ) -> Result<(), Failure> {
        let stayed = moved.iter().filter(|one| one.problem.is_some()).count();
        self.format.print(moved, |moved| {
            describe_moved(moved, self.at == MovesAt::Renewal, self.dry_run)
        })?;
        match (failed, stayed) {
            (Some(failure), _) => Err(failure.into()),
            (None, 0) => Ok(()),
            (None, _) => Err(Failure::silent()),
        }
    }
}

impl Migrate {
    /// Moves one, or prices the move; waits where Stripe takes no more calls.
    async fn one(
        &self,
        subscriptions: &Subscriptions,
        candidate: &Candidate,
        terms: &Plan,
        migration: &Migration,
    ) -> Result<Moved, subscriptions::Failure> {
        let mut refusals = 0;
        loop {
            let moved = match self.dry_run {
                true => {
                    subscriptions
                        .price_migration(candidate, terms, migration)
                        .await
                }
                false => subscriptions.migrate(candidate, terms, migration).await,
            };
            match moved {
                Err(subscriptions::Failure::Stripe(error))
                    if error.kind == ErrorKind::RateLimited && refusals < MAX_REFUSALS =>
                {
                    refusals += 1;
                    tokio::time::sleep(Duration::from_secs(1) * refusals).await;
                }
                moved => return moved,
            }
        }
    }
}

fn describe_versions(versions: &[PlanVersion]) -> String {
    let mut rows = Vec::new();
    for one in versions {
        rows.push(vec![
            one.plan_tier.clone(),
            one.version.to_string(),
            one.created_at.strftime("%Y-%m-%d %H:%M").to_string(),
            if one.in_file { "in the file" } else { "" }.to_owned(),
            one.subscriptions.to_string(),
        ]);
        if one.prices.len() > 1 {
            rows.extend(one.prices.iter().map(|price| {
                let amount = price.amount.map_or_else(
                    || format!("agreed in {}", price.currency),
                    |amount| money::display(amount, &price.currency),
                );
                let interval = price.interval.map_or("other interval", Interval::as_str);
                vec![
                    String::new(),
                    String::new(),
                    "price".to_owned(),
                    format!("{amount} a {interval}"),
                    price.subscriptions.to_string(),
                ]
            }));
        }
        rows.extend(one.changes.iter().map(|change| {
            let (from, to) = (change.from.as_deref(), change.to.as_deref());
            vec![
                String::new(),
                String::new(),
                change.term.clone(),
                format!("{} → {}", from.unwrap_or("none"), to.unwrap_or("none")),
                String::new(),
            ]
        }));
    }
    table(
        &["PLAN", "VERSION", "SINCE (UTC), TERM", "", "SUBSCRIPTIONS"],
        &rows,
    )
}

fn describe_diff(diff: &PlanDiff) -> String {
    let what = match diff.outcome {
        Outcome::Unchanged => "is as it is sold",
        Outcome::NewPlan => "is new",
        Outcome::NewVersion => "gets a new version",
        Outcome::FormerVersion => "is sold as an earlier version again",
        Outcome::Gone => "is gone from the file",
    };
    let mut text = format!("{} {what}\n", diff.plan_tier);
    text.push_str(&describe_changes(&diff.changes));
    if diff.outcome == Outcome::Gone {
        text.push_str(&describe_gone(diff.organizations));
    }
    if diff.needs_sync {
        text.push_str(NEEDS_SYNC);
    }
    for affected in &diff.subscribers {
        text.push_str(&format!("  {}\n", describe_affected(affected)));
    }
    text
}

const NEEDS_SYNC: &str = "  `plans sync` makes its prices in Stripe; restart the service then\n";

fn describe_addon(diff: &AddonDiff) -> String {
    let what = match diff.outcome {
        AddonOutcome::Unchanged => "is as it is sold",
        AddonOutcome::New => "is new",
        AddonOutcome::Changed => "changes",
        AddonOutcome::Gone => "is gone from the file",
    };
    let mut text = format!("add-on {} {what}\n", diff.addon_id);
    text.push_str(&describe_changes(&diff.changes));
    if diff.outcome == AddonOutcome::Gone {
        text.push_str(&describe_gone(diff.organizations));
    }
    if diff.needs_sync {
        text.push_str(NEEDS_SYNC);
    }
    if diff.outcome == AddonOutcome::Changed && diff.organizations > 0 {
        text.push_str(&format!(
            "  {}: get what it adds when the service starts with this file, and keep the price \
             that they bought\n",
            organizations(diff.organizations)
        ));
    }
    text
}

fn organizations(number: i64) -> String {
    counted(
        usize::try_from(number).unwrap_or(usize::MAX),
        "organization",
    )
}

fn describe_changes(changes: &[TermChange]) -> String {
    let changes = changes.iter().map(|change| {
        let (from, to) = (change.from.as_deref(), change.to.as_deref());
        format!(
            "  {}: {} → {}\n",
            change.term,
            from.unwrap_or("none"),
            to.unwrap_or("none")
        )
    });
    changes.collect()
}

fn describe_gone(number: i64) -> String {
    format!(
        "  {} still {} it: keep its entry with `retired = true`, so that nobody new may choose it; \
         `serve` does not start without it\n",
        organizations(number),
        if number == 1 { "has" } else { "have" },
    )
}

fn describe_affected(affected: &Affected) -> String {
    let who = counted(
        usize::try_from(affected.subscriptions).unwrap_or(usize::MAX),
        "subscription",
    );
    let interval = affected
        .interval
        .map_or("another interval", Interval::as_str);
    let who = format!(
        "{who} of version {} ({} by the {interval})",
        affected.version, affected.currency
    );
    let difference = affected.fee_difference_amount.map_or_else(
        || "another currency or interval".to_owned(),
        |amount| SignedMoney(amount, &affected.currency).to_string(),
    );
    match affected.effect {
        Effect::Same => format!("{who}: have these terms"),
        Effect::Kept => format!(
            "{who}: keep what they bought (with these terms: {difference} in each interval); \
             `plans migrate` moves them"
        ),
        Effect::Follows => format!("{who}: follow when the service starts with this file"),
        Effect::Migrate => format!(
            "{who}: follow with `plans migrate` ({difference} in each interval); until then, \
             Stripe charges as before"
        ),
    }
}

/// An amount with its sign.
struct SignedMoney<'a>(i64, &'a str);

impl std::fmt::Display for SignedMoney<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "" } else { "+" };
        write!(f, "{sign}{}", money::display(self.0, self.1))
    }
}

fn described(one: &Moved, later: bool, dry_run: bool) -> String {
    let at = one.effective_at.filter(|_| later);
    let at = at.map(|at| at.strftime("on %Y-%m-%d %H:%M UTC").to_string());
    match (at, dry_run) {
        (Some(at), true) => format!("to be moved {at}"),
        (Some(at), false) => format!("moves {at}"),
        (None, true) => "to be moved".to_owned(),
        (None, false) => "moved".to_owned(),
    }
}

fn describe_moved(moved: &[Moved], later: bool, dry_run: bool) -> String {
    let amount = |amount: Option<i64>, one: &Moved| match (amount, &one.currency) {
        (Some(amount), Some(currency)) => money::display(amount, currency),
        _ => String::new(),
    };
    let rows: Vec<Vec<String>> = moved
        .iter()
        .map(|one| {
            let from = one
                .from
                .map_or_else(|| "1".to_owned(), |from| from.to_string());
            let what = match (&one.problem, dry_run) {
                (Some(problem), _) if one.in_doubt => problem.clone(),
                (Some(problem), _) => format!("stays: {problem}"),
                (None, dry_run) => described(one, later, dry_run),
            };
            vec![
                one.name.clone(),
                one.subscription_id.clone(),
                format!("{from} → {}", one.to),
                amount(one.due_now_amount, one),
                amount(one.next_invoice_amount, one),
                what,
            ]
        })
        .collect();
    table(
        &[
            "ORGANIZATION",
            "SUBSCRIPTION",
            "VERSION",
            "DUE NOW",
            "NEXT INVOICE",
            "",
        ],
        &rows,
    )
}
