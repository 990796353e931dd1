//! The rows behind the figures: movements of revenue, and who pays.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::super::beside::{Beside, Kept};
use super::super::query::{address, filled};
use super::super::screen::{Block, Cell, Field, Filter, Grid, Refusal, Screen, Tone, grouped};
use super::super::session::Signed;
use super::super::{Console, organizations, webhooks};
use super::{PATH, amount};
use crate::db::WorkerTx;
use crate::reporting;
use crate::reporting::figures::{self, Customer, CustomerCount, KINDS, Movement, STANDINGS};
use crate::reporting::routes::{
    CUSTOMERS_LISTED, MOVEMENTS_LISTED, Standing, customers_csv as all_customers, looked,
    movements_csv as all_movements,
};
use crate::server::extract::Query;
use crate::server::pagination::page::{Limit, ListQuery};
use crate::server::problem::Problem;

pub const MOVEMENTS: &str = "/console/figures/movements";
pub const MOVEMENTS_CSV: &str = "/console/figures/movements.csv";
pub const CUSTOMERS: &str = "/console/figures/customers";
pub const CUSTOMERS_CSV: &str = "/console/figures/customers.csv";

fn invalid(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail)
}

/// The filter, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MovementsFilter {
    #[serde(default, deserialize_with = "filled")]
    month: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    currency: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

impl ListQuery for MovementsFilter {
    fn limit(&self) -> Limit {
        Limit::default()
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!({"month": self.month, "kind": self.kind, "currency": self.currency})
    }
}

impl MovementsFilter {
    fn block(&self) -> Block {
        let kinds = KINDS.map(|kind| (kind, kind));
        let kind = Field {
            choices: [&[("", "any")], &kinds[..]].concat(),
            ..Field::text("kind", "Kind", self.kind.as_deref(), "")
        };
        Block::Filter(Filter {
            action: MOVEMENTS,
            label: "Find movements",
            submit: "Find",
            fields: vec![
                Field::text("month", "Month", self.month.as_deref(), "2026-01"),
                kind,
                Field::text("currency", "Currency", self.currency.as_deref(), "usd"),
            ],
        })
    }

    fn address(&self, path: &str, cursor: Option<&str>) -> String {
        let fields = [
            ("month", self.month.as_deref()),
            ("kind", self.kind.as_deref()),
            ("currency", self.currency.as_deref()),
            ("cursor", cursor),
        ];
        address(path, &fields)
    }

    fn filter(&self) -> Result<reporting::Filter, Problem> {
        let kind = self.kind.as_deref();
        if kind.is_some_and(|kind| !KINDS.contains(&kind)) {
            return Err(invalid(&format!(
                "kind: expected one of {}",
                KINDS.join(", ")
            )));
        }
        let month = self.month.as_deref().map(month).transpose()?;
        Ok(reporting::Filter {
            from: month.map(|(from, _)| from),
            to: month.map(|(_, to)| to),
            kind: self.kind.clone(),
            currency: self.currency.as_deref().map(str::to_lowercase),
        })
    }
}

/// From when until when a month lasts, in UTC.
fn month(text: &str) -> Result<(Timestamp, Timestamp), Problem> {
    let wrong = || invalid("month: expected a month such as 2026-01");
    let first: Date = format!("{text}-01").parse().map_err(|_| wrong())?;
    let start = |date: Date| {
        let zoned = date.to_zoned(TimeZone::UTC);
        zoned.map(|zoned| zoned.timestamp()).map_err(|_| wrong())
    };
    let next = first.checked_add(1.month()).map_err(|_| wrong())?;
    Ok((start(first)?, start(next)?))
}

pub async fn movements(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<MovementsFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(asked) = query?;
    let filter = asked.filter()?;
    let shared = &console.shared;
    let page = shared
        .page::<Movement>(Uuid::nil(), "console movements", &asked)
        .await?;
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let rows = figures::movements(tx.conn(), &filter, page.after.as_ref(), page.rows()).await?;
    let (operator, filters) = (&signed.operator, asked.filters());
    looked(&mut tx, operator, MOVEMENTS_LISTED, "movements", filters).await?;
    tx.commit().await?;
    let page = page.of(rows);
    let next = page.next_cursor.as_deref();
    let screen = Screen::new(&signed, PATH, "Movements of recurring revenue")
        .above(PATH, "Figures")
        .lead("What changed of what each organization pays a month, before discounts.")
        .with(asked.block())
        .with(Block::Grid(Grid {
            title: "Movements".to_owned(),
            note: Some("Newest first, by Stripe's clock.".to_owned()),
            columns: vec!["When", "Organization", "Kind", "Before", "After", "Event"],
            rows: page.data.iter().map(movement).collect(),
            empty: "No movement matches.",
            next: next.map(|cursor| asked.address(MOVEMENTS, Some(cursor))),
        }))
        .with(Block::Download {
            href: asked.address(MOVEMENTS_CSV, None),
            text: "All of these movements as CSV",
        });
    Ok(screen.answer())
}

fn movement(one: &Movement) -> Vec<Cell> {
    let tone = match &*one.kind {
        "churn" | "contraction" => Tone::Warn,
        _ => Tone::Good,
    };
    let id = one.organization_id;
    let name = one.name.clone().unwrap_or_else(|| id.to_string());
    // Stripe's answers to our own requests are no events.
    let event = match one.stripe_event_id.strip_prefix("request:") {
        Some(_) => Cell::text("our own request"),
        None => Cell::link(
            webhooks::page_of(&one.stripe_event_id),
            &one.stripe_event_id,
        ),
    };
    vec![
        Cell::time(one.occurred_at),
        Cell::link(organizations::page_of(id), name),
        Cell::Badge(tone, one.kind.clone()),
        Cell::Number(amount(one.before_amount, &one.currency)),
        Cell::Number(amount(one.after_amount, &one.currency)),
        event,
    ]
}

pub async fn movements_csv(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<MovementsFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(asked) = query?;
    let filter = asked.filter()?;
    let mut tx = WorkerTx::begin(&console.shared.pool).await?;
    let (operator, filters) = (&signed.operator, asked.filters());
    looked(&mut tx, operator, MOVEMENTS_LISTED, "movements", filters).await?;
    tx.commit().await?;
    Ok(all_movements(console.shared.clone(), filter))
}

/// Whom to list, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomersFilter {
    #[serde(default = "paying")]
    standing: Standing,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

fn paying() -> Standing {
    Standing::Paying
}

impl ListQuery for CustomersFilter {
    fn limit(&self) -> Limit {
        Limit::default()
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!({"standing": self.standing})
    }
}

pub async fn customers(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<CustomersFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(asked) = query?;
    let standing = asked.standing.name();
    let shared = &console.shared;
    let page = shared
        .page::<Customer>(Uuid::nil(), "console customers", &asked)
        .await?;
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let rows = figures::customers(tx.conn(), standing, page.after, page.rows()).await?;
    let (operator, filters) = (&signed.operator, asked.filters());
    looked(&mut tx, operator, CUSTOMERS_LISTED, "customers", filters).await?;
    tx.commit().await?;
    let counting = count(shared.pool.clone());
    let counts = console.standings.get(COUNTS_FRESH, counting).await;
    let page = page.of(rows);
    let next = page.next_cursor.as_deref();
    let query = |cursor| [("standing", Some(standing)), ("cursor", cursor)];
    let choices = vec![
        ("paying", "paying"),
        ("past_due", "past due"),
        ("trialing", "in a trial"),
        ("free", "free"),
    ];
    let screen = Screen::new(&signed, PATH, "Who pays, and who is free")
        .above(PATH, "Figures")
        .with(by_plan(counts.as_ref()))
        .with(Block::Filter(Filter {
            action: CUSTOMERS,
            label: "Choose who",
            submit: "Show",
            fields: vec![Field {
                choices,
                ..Field::text("standing", "Who is", Some(standing), "")
            }],
        }))
        .with(Block::Grid(Grid {
            title: "Organizations".to_owned(),
            note: Some("Oldest first, with what each pays a month before discounts.".to_owned()),
            columns: vec!["Organization", "External id", "Plan", "Pays a month"],
            rows: page.data.iter().map(customer).collect(),
            empty: "There is none.",
            next: next.map(|cursor| address(CUSTOMERS, &query(Some(cursor)))),
        }))
        .with(Block::Download {
            href: address(CUSTOMERS_CSV, &query(None)),
            text: "All of these organizations as CSV",
        });
    Ok(screen.answer())
}

/// How many organizations stand where, by plan. All of them are looked at, which is more than a
/// page should read.
pub type Standings = Beside<Vec<CustomerCount>>;

/// As old as what is booked may be.
const COUNTS_FRESH: Duration = reporting::journal::PERIOD;

async fn count(pool: PgPool) -> Option<Vec<CustomerCount>> {
    let counted = async {
        let mut tx = WorkerTx::begin(&pool).await?;
        figures::standings(tx.conn()).await
    };
    let counted = counted.await.inspect_err(|error| {
        tracing::warn!(%error, "organizations cannot be counted by standing");
    });
    counted.ok()
}

fn by_plan(counted: Option<&Kept<Vec<CustomerCount>>>) -> Block {
    let counts = counted.map_or(&[][..], |counted| &counted.value);
    let when = match counted {
        Some(counted) => format!("Counted {} seconds ago.", counted.at.elapsed().as_secs()),
        None => "They are being counted: look again.".to_owned(),
    };
    let mut plans: Vec<&str> = Vec::new();
    for one in counts {
        if !plans.contains(&one.plan_tier.as_str()) {
            plans.push(&one.plan_tier);
        }
    }
    let count = |plan: Option<&str>, standing: &str| -> i64 {
        let of = counts.iter().filter(|one| one.standing == standing);
        let of = of.filter(|one| plan.is_none_or(|plan| one.plan_tier == plan));
        of.map(|one| one.organizations).sum()
    };
    let mut rows: Vec<Vec<Cell>> = plans
        .into_iter()
        .map(|plan| {
            let counts =
                STANDINGS.map(|standing| Cell::Number(grouped(count(Some(plan), standing))));
            [vec![Cell::text(plan)], counts.to_vec()].concat()
        })
        .collect();
    if !rows.is_empty() {
        let totals = STANDINGS.map(|standing| {
            let href = address(CUSTOMERS, &[("standing", Some(standing))]);
            Cell::link(href, grouped(count(None, standing)))
        });
        rows.push([vec![Cell::text("All plans")], totals.to_vec()].concat());
    }
    Block::Grid(Grid {
        title: "By plan".to_owned(),
        note: Some(format!(
            "Organizations that are neither archived nor erased, each once: past due, where a \
             subscription is past due or unpaid; else paying, with recurring revenue above zero; else in a \
             trial; else free, whatever its plan. {when}"
        )),
        columns: vec!["Plan", "Paying", "Past due", "In trial", "Free"],
        rows,
        empty: "There is none that is counted.",
        ..Grid::default()
    })
}

fn customer(one: &Customer) -> Vec<Cell> {
    let pays = one.pays.as_array().into_iter().flatten();
    let pays: Vec<Cell> = pays
        .filter_map(|paid| {
            let currency = paid["currency"].as_str()?;
            Some(Cell::Number(amount(paid["mrrAmount"].as_i64()?, currency)))
        })
        .collect();
    vec![
        Cell::link(organizations::page_of(one.organization_id), &one.name),
        Cell::maybe(one.external_id.as_deref(), Cell::text),
        Cell::text(&one.plan_tier),
        match pays.is_empty() {
            true => Cell::None,
            false => Cell::Many(pays),
        },
    ]
}

pub async fn customers_csv(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<CustomersFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(asked) = query?;
    let mut tx = WorkerTx::begin(&console.shared.pool).await?;
    let (operator, filters) = (&signed.operator, asked.filters());
    looked(&mut tx, operator, CUSTOMERS_LISTED, "customers", filters).await?;
    tx.commit().await?;
    let standing = asked.standing.name();
    Ok(all_customers(console.shared.clone(), standing))
}

#[cfg(test)]
mod tests {
    use super::month;

    #[test]
    fn a_month_is_half_open() {
        let (from, to) = month("2026-12").unwrap();
        assert_eq!(from.to_string(), "2026-12-01T00:00:00Z");
        assert_eq!(to.to_string(), "2027-01-01T00:00:00Z");
        for wrong in ["2026", "2026-13", "12-2026", "2026-01-01", ""] {
            assert!(month(wrong).is_err(), "{wrong}");
        }
    }
}
