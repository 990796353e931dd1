//! Plans and versions: what is sold, who runs on what, and what another price would mean.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use billing_domain::money;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;
use serde::Deserialize;
use serde_json::json;

use super::Console;
use super::figures::amount;
use super::query::filled;
use super::screen::{Block, Cell, Field, Filter, Grid, Refusal, Screen, Tone, grouped};
use super::session::Signed;
use super::webhooks::notice;
use crate::audit;
use crate::catalogue::addons::history::{self as addon_history, AddonDiff, AddonOutcome};
use crate::catalogue::history::{
    self, Affected, Effect, Outcome, PaidPrice, PlanDiff, PlanVersion, TermChange,
};
use crate::catalogue::raise::{Asked, Raised, raised};
use crate::catalogue::{Catalogue, Interval};
use crate::db::WorkerTx;
use crate::server::extract::Query;
use crate::server::problem::Problem;

pub const PATH: &str = "/console/plans";
/// The audit action for an operator who looked at plans.
pub const SHOWN: &str = "plans_shown";

/// The price that is asked about, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceQuery {
    #[serde(default, deserialize_with = "filled")]
    plan: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    interval: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    currency: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    price: Option<String>,
}

fn invalid(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail)
}

impl PriceQuery {
    fn block(&self) -> Block {
        let interval = Field {
            choices: vec![("month", "month"), ("year", "year")],
            ..Field::text("interval", "By", self.interval.as_deref(), "")
        };
        Block::Filter(Filter {
            action: PATH,
            label: "Ask what another price would mean",
            submit: "Ask",
            fields: vec![
                Field::text("plan", "If the plan", self.plan.as_deref(), "standard"),
                Field::text("price", "cost", self.price.as_deref(), "109.00"),
                Field::text("currency", "of", self.currency.as_deref(), "usd"),
                interval,
            ],
        })
    }

    /// The question; none where nothing is asked.
    fn asked(&self, catalogue: &Catalogue) -> Result<Option<Asked>, Problem> {
        let (Some(plan), Some(price)) = (&self.plan, &self.price) else {
            return match (&self.plan, &self.price) {
                (None, None) => Ok(None),
                _ => Err(invalid("expected a plan and its price".to_owned())),
            };
        };
        let known = catalogue.plan(plan).ok_or_else(|| {
            let tiers = catalogue.plans().iter().map(|plan| plan.tier.as_str());
            let tiers = Vec::from_iter(tiers).join(", ");
            invalid(format!("there is no plan {plan:?}; the plans are {tiers}"))
        })?;
        let currency = match &self.currency {
            Some(currency) => currency.to_lowercase(),
            None => known.price.currency.clone(),
        };
        let interval = match self.interval.as_deref() {
            None | Some("month") => Interval::Month,
            Some("year") => Interval::Year,
            Some(_) => return Err(invalid("interval: expected month or year".to_owned())),
        };
        Ok(Some(Asked {
            plan_tier: plan.clone(),
            amount: minor(price, &currency)?,
            currency,
            interval,
        }))
    }
}

/// An amount in minor units, of one as people write it.
fn minor(text: &str, currency: &str) -> Result<i64, Problem> {
    let places = money::decimals(currency);
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let parsed = text.parse::<Decimal>().ok().filter(|_| plain);
    let minor = parsed.and_then(|major| major.checked_mul(Decimal::from(10_u32.pow(places))));
    let minor = minor.filter(|minor| minor.is_integer() && !minor.is_sign_negative());
    minor.and_then(|minor| minor.to_i64()).ok_or_else(|| {
        invalid(format!(
            "price: expected an amount with at most {places} places, such as {}",
            money::major(10_900, currency)
        ))
    })
}

pub async fn page(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<PriceQuery>, Problem>,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    let catalogue = &console.catalogue;
    let asked = query.asked(catalogue)?;
    let pool = &console.shared.pool;
    let versions = history::versions(pool, catalogue).await?;
    let plans = history::diff(pool, catalogue).await?;
    let addons = addon_history::diff(pool, catalogue).await?;
    let mut tx = WorkerTx::begin(pool).await?;
    let mut entry = signed.operator.did(SHOWN, None, "plan", "all".to_owned());
    if asked.is_some() {
        let price = json!([query.plan, query.price, query.currency, query.interval]);
        entry.metadata = json!({"operator": true, "asked": price});
    }
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    let answer = asked.map(|asked| answer(&asked, &raised(&versions, &asked), catalogue));
    let screen = Screen::new(&signed, PATH, "Plans")
        .lead("What is sold, who runs on which version, and what another price would mean.")
        .with(query.block())
        .with_all(answer.into_iter().flatten())
        .with(sold(&versions))
        .with(progress(&plans))
        .with(noticed(&plans))
        .with(changed(&plans, &addons));
    Ok(screen.answer())
}

fn by(interval: Option<Interval>) -> &'static str {
    interval.map_or("other interval", Interval::as_str)
}

/// What would change, and for whom.
fn answer(asked: &Asked, raised: &[Raised], catalogue: &Catalogue) -> Vec<Block> {
    let of = |minor: i64| amount(minor, &asked.currency);
    let maybe = |minor: Option<i64>| Cell::maybe(minor, |minor| Cell::Number(of(minor)));
    let interval = asked.interval.as_str();
    let subscriptions: i64 = raised.iter().map(|one| one.subscriptions).sum();
    // What was agreed in Stripe has no fee to compare with.
    let all = raised.iter().try_fold(0_i64, |sum, one| {
        sum.checked_add(one.monthly_difference_amount?)
    });
    let monthly = match all {
        Some(all) => format!("{} a month", of(all)),
        None => "a sum that cannot be said, since some pay what was agreed in Stripe".to_owned(),
    };
    let existing = match catalogue.follows(&asked.plan_tier) {
        true => {
            "The plan's subscriptions follow the file (existing = \"follow\"): `plans migrate` \
             moves them, since Stripe charges otherwise."
        }
        false => {
            "The plan's subscriptions keep their terms (existing = \"keep\"): only new ones \
             would pay it, until `plans migrate` moves the others."
        }
    };
    let rows = raised.iter().map(|one| {
        vec![
            Cell::Number(one.version.to_string()),
            Cell::Number(grouped(one.subscriptions)),
            maybe(one.paid_amount),
            Cell::Number(of(asked.amount)),
            maybe(one.difference_amount),
            maybe(one.monthly_difference_amount),
        ]
    });
    vec![
        notice(
            Tone::Plain,
            &format!(
                "If {} cost {} a {interval}",
                asked.plan_tier,
                of(asked.amount)
            ),
            &format!(
                "{} subscriptions pay its fee in this currency by the {interval}. If all were \
                 moved and stayed, they would pay {monthly} more, before discounts and taxes.",
                grouped(subscriptions)
            ),
        ),
        Block::Grid(Grid {
            title: "Who would notice".to_owned(),
            note: Some(format!(
                "{existing} The fee alone, once for each subscription; a yearly one by 12, \
                 rounded. `plans migrate --dry-run` asks Stripe what each would pay."
            )),
            columns: vec![
                "Version",
                "Subscriptions",
                "Each pays",
                "Would pay",
                "More",
                "All of them a month",
            ],
            rows: rows.collect(),
            empty: "Nobody pays this fee.",
            ..Grid::default()
        }),
    ]
}

fn sold(versions: &[PlanVersion]) -> Block {
    let rows = versions.iter().rev().map(|one| {
        let state = match one.in_file {
            true => Cell::Badge(Tone::Good, "sold".to_owned()),
            false => Cell::Badge(Tone::Plain, "not sold any more".to_owned()),
        };
        let prices: Vec<Cell> = one.prices.iter().map(price).collect();
        let changes: Vec<String> = one.changes.iter().map(change).collect();
        vec![
            Cell::text(&one.plan_tier),
            Cell::Number(one.version.to_string()),
            state,
            Cell::time(one.created_at),
            Cell::Number(grouped(one.subscriptions)),
            match prices.is_empty() {
                true => Cell::None,
                false => Cell::Many(prices),
            },
            match changes.is_empty() {
                true => Cell::None,
                false => Cell::hidden("what it changed", changes.join("\n")),
            },
        ]
    });
    Block::Grid(Grid {
        title: "Plans and versions".to_owned(),
        note: Some("Newest first. Subscriptions are those that run, trials among them.".to_owned()),
        columns: vec![
            "Plan",
            "Version",
            "State",
            "Since",
            "Subscriptions",
            "Prices, and how many pay each",
            "Changed",
        ],
        rows: rows.collect(),
        empty: "No version is recorded yet: serve does it when it starts.",
        ..Grid::default()
    })
}

fn price(price: &PaidPrice) -> Cell {
    let paid = grouped(price.subscriptions);
    let interval = by(price.interval);
    Cell::text(match price.amount {
        Some(minor) => format!("{} a {interval}: {paid}", amount(minor, &price.currency)),
        None => format!(
            "agreed in {} by the {interval}: {paid}",
            price.currency.to_uppercase()
        ),
    })
}

fn change(change: &TermChange) -> String {
    let none = "none";
    let (from, to) = (change.from.as_deref(), change.to.as_deref());
    format!(
        "{}: {} → {}",
        change.term,
        from.unwrap_or(none),
        to.unwrap_or(none)
    )
}

/// How far each plan's subscriptions are on the terms that are sold.
fn progress(plans: &[PlanDiff]) -> Block {
    let rows = plans.iter().filter(|plan| !plan.subscribers.is_empty());
    let rows = rows.map(|plan| {
        let count = |of: fn(Effect) -> bool| -> i64 {
            let of = plan.subscribers.iter().filter(|one| of(one.effect));
            of.map(|one| one.subscriptions).sum()
        };
        let all = count(|_| true);
        let same = count(|effect| effect == Effect::Same);
        let percent = (same * 100).checked_div(all).unwrap_or(0);
        vec![
            Cell::text(&plan.plan_tier),
            Cell::Number(format!(
                "{} of {} ({percent} %)",
                grouped(same),
                grouped(all)
            )),
            Cell::Number(grouped(count(|effect| effect == Effect::Kept))),
            Cell::Number(grouped(count(|effect| {
                matches!(effect, Effect::Follows | Effect::Migrate)
            }))),
        ]
    });
    Block::Grid(Grid {
        title: "Migrations".to_owned(),
        note: Some(
            "How many subscriptions have the terms that are sold. `plans migrate` moves them, and \
             one that was interrupted is taken up by the next."
                .to_owned(),
        ),
        columns: vec![
            "Plan",
            "On what is sold",
            "Keep earlier terms",
            "To be moved",
        ],
        rows: rows.collect(),
        empty: "No subscription runs.",
        ..Grid::default()
    })
}

/// Who would notice the terms that are sold.
fn noticed(plans: &[PlanDiff]) -> Block {
    let affected = plans.iter().flat_map(|plan| {
        let others = plan.subscribers.iter();
        let others = others.filter(|one| one.effect != Effect::Same);
        others.map(move |one| (plan, one))
    });
    let rows = affected.map(|(plan, one)| {
        vec![
            Cell::text(&plan.plan_tier),
            Cell::Number(one.version.to_string()),
            Cell::Number(grouped(one.subscriptions)),
            effect(one),
            Cell::text(by(one.interval)),
            Cell::maybe(one.fee_difference_amount, |minor| {
                Cell::Number(amount(minor, &one.currency))
            }),
        ]
    });
    Block::Grid(Grid {
        title: "Who would notice what is sold now".to_owned(),
        note: Some(
            "What one pays more in each interval, without usage, once it has the terms that are \
             sold; negative: less. As `plans diff`, of the file that `serve` was started with."
                .to_owned(),
        ),
        columns: vec![
            "Plan",
            "Version",
            "Subscriptions",
            "They",
            "By",
            "Each pays more",
        ],
        rows: rows.collect(),
        empty: "Everybody has the terms that are sold.",
        ..Grid::default()
    })
}

fn effect(one: &Affected) -> Cell {
    match one.effect {
        Effect::Kept => Cell::Badge(Tone::Plain, "keep their terms".to_owned()),
        Effect::Follows => Cell::Badge(Tone::Good, "follow by themselves".to_owned()),
        Effect::Migrate => Cell::Badge(Tone::Warn, "wait for plans migrate".to_owned()),
        Effect::Same => Cell::Badge(Tone::Good, "have them".to_owned()),
    }
}

/// What the file changes of what was recorded.
fn changed(plans: &[PlanDiff], addons: &[AddonDiff]) -> Block {
    let sync = |needs: bool| match needs {
        true => Cell::Prose("`plans sync` makes its prices in Stripe".to_owned()),
        false => Cell::None,
    };
    let changes = |changes: &[TermChange]| match changes.is_empty() {
        true => Cell::None,
        false => {
            let changes: Vec<String> = changes.iter().map(change).collect();
            Cell::hidden("changes", changes.join("\n"))
        }
    };
    let plans = plans.iter().map(|plan| {
        let state = match plan.outcome {
            Outcome::Unchanged => "as it is sold",
            Outcome::NewPlan => "new",
            Outcome::NewVersion => "gets a new version",
            Outcome::FormerVersion => "sold as an earlier version again",
            Outcome::Gone => "gone from the file",
        };
        let row = [Cell::text(&plan.plan_tier), Cell::text(state)];
        [&row[..], &[changes(&plan.changes), sync(plan.needs_sync)]].concat()
    });
    let addons = addons.iter().map(|addon| {
        let state = match addon.outcome {
            AddonOutcome::Unchanged => "as it is sold",
            AddonOutcome::New => "new",
            AddonOutcome::Changed => "changes",
            AddonOutcome::Gone => "gone from the file",
        };
        let name = format!("add-on {}", addon.addon_id);
        let row = [Cell::text(name), Cell::text(state)];
        [&row[..], &[changes(&addon.changes), sync(addon.needs_sync)]].concat()
    });
    Block::Grid(Grid {
        title: "The file".to_owned(),
        note: Some(
            "What the file that `serve` was started with changes of what was sold.".to_owned(),
        ),
        columns: vec!["Plan", "In the file", "Changes", "To be done"],
        rows: plans.chain(addons).collect(),
        empty: "The file has no plan.",
        ..Grid::default()
    })
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn a_price_is_read_exactly() {
        assert_eq!(minor("109", "usd").unwrap(), 10_900);
        assert_eq!(minor("109.05", "usd").unwrap(), 10_905);
        assert_eq!(minor("109", "jpy").unwrap(), 109);
        for (wrong, currency) in [
            ("109.005", "usd"),
            ("109.5", "jpy"),
            ("-1", "usd"),
            ("1e9", "usd"),
            ("much", "usd"),
            ("92233720368547758.08", "usd"),
        ] {
            assert!(minor(wrong, currency).is_err(), "{wrong}");
        }
    }
}
