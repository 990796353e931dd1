//! Business figures: each number with what it is, and by month. docs/reporting.md has the
//! queries.

mod lists;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use billing_domain::money;
use jiff::Timestamp;
use serde_json::{Value, json};

pub use lists::Standings;
pub use lists::{CUSTOMERS, CUSTOMERS_CSV, MOVEMENTS, MOVEMENTS_CSV};
pub use lists::{customers, customers_csv, movements, movements_csv};

use super::Console;
use super::query::address;
use super::screen::{Block, Card, Cell, Grid, Refusal, Screen, Tone, grouped};
use super::session::Signed;
use crate::db::WorkerTx;
use crate::reporting::csv;
use crate::reporting::figures::{self, Figures, MONTHS, Month};
use crate::reporting::routes::{SHOWN, csv_of, looked};

pub const PATH: &str = "/console/figures";
pub const MONTHS_CSV: &str = "/console/figures/months.csv";

const MRR: &str = "What active and past due subscriptions are paid a month: plan, seats and \
    add-ons with their quantities; a yearly price by 12, a weekly one by 52/12, a daily one by \
    365/12, packages as the price counts them, each item rounded to the minor unit, halves up. \
    Before discounts, without included tax, usage, trials, and what is not collected while \
    collection is paused. Currencies are never added.";
const DISCOUNTED: &str = "The part of it of items, subscriptions and customers with a discount in \
    force, before it is taken off.";
const TRIALS: &str = "Subscriptions that are in their trial now.";
const PAST_DUE: &str = "What remains to be paid on open invoices of subscriptions that are past \
    due or unpaid.";
const AT_RISK: &str = "Usage over the quotas in the period that runs, on no invoice yet, of \
    organizations whose subscription is past due or unpaid: whole units at the plan's rate, each \
    metric rounded to the minor unit.";

/// An amount with thousands apart: `12,345.60 USD`.
pub fn amount(minor: i64, currency: &str) -> String {
    let text = money::major(minor, currency);
    let (whole, part) = match text.split_once('.') {
        Some((whole, part)) => (whole, format!(".{part}")),
        None => (text.as_str(), String::new()),
    };
    // `-0.05` is written out: the whole number alone has no sign.
    let sign = if minor < 0 { "-" } else { "" };
    let whole = grouped(whole.trim_start_matches('-'));
    format!("{sign}{whole}{part} {}", currency.to_ascii_uppercase())
}

pub async fn page(
    State(console): State<Arc<Console>>,
    signed: Signed,
) -> Result<Response, Refusal> {
    let now = Timestamp::now();
    let mut tx = WorkerTx::begin(&console.shared.pool).await?;
    let read = figures::read(tx.conn(), now).await?;
    let months = figures::months(tx.conn(), now, MONTHS).await?;
    looked(&mut tx, &signed.operator, SHOWN, "now", Value::Null).await?;
    tx.commit().await?;
    let booked = match read.booked_until {
        Some(at) => format!("Booked until {}.", at.strftime("%Y-%m-%d %H:%M:%S UTC")),
        None => "Nothing was booked yet: serve does it every 15 seconds.".to_owned(),
    };
    let screen = Screen::new(&signed, PATH, "Figures")
        .lead(format!(
            "Who pays, how much a month, and how that moved. {booked}"
        ))
        .with(Block::Cards(cards(&read)))
        .with(definitions(&read))
        .with(by_month(&months))
        .with(Block::Download {
            href: MONTHS_CSV.to_owned(),
            text: "The months as CSV",
        })
        .with(see_also())
        .with(trials(&read));
    Ok(screen.answer())
}

fn cards(read: &Figures) -> Vec<Card> {
    let mut cards: Vec<Card> = read
        .recurring_revenue
        .iter()
        .map(|one| Card {
            label: "Monthly recurring revenue",
            value: amount(one.mrr_amount, &one.currency),
            note: match one.customers {
                1 => "from 1 customer".to_owned(),
                many => format!("from {} customers", grouped(many)),
            },
            tone: Tone::Good,
            href: Some(address(CUSTOMERS, &[("standing", Some("paying"))])),
        })
        .collect();
    if cards.is_empty() {
        cards.push(Card {
            label: "Monthly recurring revenue",
            value: "none".to_owned(),
            note: "nobody pays".to_owned(),
            tone: Tone::Plain,
            href: None,
        });
    }
    cards.push(Card {
        label: "Trials that run",
        value: grouped(read.trials.running),
        note: format!("{} end within seven days", grouped(read.trials.ending)),
        tone: Tone::Plain,
        href: Some(address(CUSTOMERS, &[("standing", Some("trialing"))])),
    });
    cards.extend(read.past_due.iter().map(|one| Card {
        label: "Past due",
        value: amount(one.owed_amount, &one.currency),
        note: format!("{} subscriptions", grouped(one.subscriptions)),
        tone: Tone::Warn,
        href: Some(address(CUSTOMERS, &[("standing", Some("past_due"))])),
    }));
    cards
}

/// Each number, and what it is.
fn definitions(read: &Figures) -> Block {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String, what: &str| {
        rows.push(vec![
            Cell::text(name),
            Cell::Number(value),
            Cell::text(what),
        ]);
    };
    for one in &read.recurring_revenue {
        let of = |minor| amount(minor, &one.currency);
        row("Monthly recurring revenue", of(one.mrr_amount), MRR);
        row(
            "of that, discounted",
            of(one.discounted_mrr_amount),
            DISCOUNTED,
        );
    }
    row("Trials", grouped(read.trials.running), TRIALS);
    for one in &read.past_due {
        row("Past due", amount(one.owed_amount, &one.currency), PAST_DUE);
    }
    for one in &read.usage_at_risk {
        row("Usage at risk", amount(one.amount, &one.currency), AT_RISK);
    }
    Block::Grid(Grid {
        title: "What each number is".to_owned(),
        note: Some(
            "docs/reporting.md has the query behind each; `figures show` prints them.".to_owned(),
        ),
        columns: vec!["Figure", "Now", "Definition"],
        rows,
        ..Grid::default()
    })
}

fn by_month(months: &[Month]) -> Block {
    let rows = months.iter().map(|one| {
        let of = |minor: i64| match minor {
            0 => Cell::Number("0".to_owned()),
            minor => Cell::Number(amount(minor, &one.currency)),
        };
        let query = [
            ("month", Some(one.month.as_str())),
            ("currency", Some(one.currency.as_str())),
        ];
        let percent = |percent: &Option<String>| {
            Cell::maybe(percent.as_ref(), |text| Cell::Number(format!("{text} %")))
        };
        vec![
            Cell::link(address(MOVEMENTS, &query), &one.month),
            Cell::Number(amount(one.opening_amount, &one.currency)),
            of(one.new_amount),
            of(one.reactivation_amount),
            of(one.expansion_amount),
            of(one.contraction_amount),
            of(one.churn_amount),
            Cell::Number(amount(one.closing_amount, &one.currency)),
            Cell::Number(grouped(one.closing_customers)),
            percent(&one.customer_churn_percent),
            percent(&one.revenue_churn_percent),
        ]
    });
    Block::Grid(Grid {
        title: "Recurring revenue by month".to_owned(),
        note: Some(
            "In UTC. Opening and movements add up to closing. New: an organization's first \
             payment in the currency, when its trial ended or it began to pay. \
             Reactivated: it paid before, and had stopped. Churned customers and revenue are in \
             percent of those at the opening; revenue churn is churn and contraction."
                .to_owned(),
        ),
        columns: vec![
            "Month",
            "Opening",
            "New",
            "Reactivated",
            "Expansion",
            "Contraction",
            "Churn",
            "Closing",
            "Customers",
            "Customer churn",
            "Revenue churn",
        ],
        rows: rows.collect(),
        empty: "Nobody ever paid.",
        next: None,
    })
}

fn see_also() -> Block {
    Block::Facts {
        title: "See also".to_owned(),
        rows: vec![
            (
                "Who pays, and who is free",
                Cell::link(CUSTOMERS, "by plan"),
            ),
            ("Movements", Cell::link(MOVEMENTS, "all of them")),
        ],
    }
}

fn trials(read: &Figures) -> Block {
    let rows = read.trials.months.iter().map(|one| {
        vec![
            Cell::text(&one.month),
            Cell::Number(grouped(one.ended)),
            Cell::Number(grouped(one.converted)),
            Cell::Number(grouped(one.unpaid)),
            Cell::Number(grouped(one.lost)),
            Cell::Number(format!("{} %", one.conversion_percent)),
        ]
    });
    Block::Grid(Grid {
        title: "Trials that ended".to_owned(),
        note: Some(
            "In this month and the two before. Converted: an invoice of the subscription above \
             zero was paid. Not paid yet: it runs all the same. In percent of those that ended."
                .to_owned(),
        ),
        columns: vec![
            "Month",
            "Ended",
            "Converted",
            "Not paid yet",
            "Lost",
            "Conversion",
        ],
        rows: rows.collect(),
        empty: "None ended.",
        ..Grid::default()
    })
}

/// The months as a file.
pub async fn months_csv(
    State(console): State<Arc<Console>>,
    signed: Signed,
) -> Result<Response, Refusal> {
    let mut tx = WorkerTx::begin(&console.shared.pool).await?;
    let months = figures::months(tx.conn(), Timestamp::now(), MONTHS).await?;
    let filters = json!({"count": MONTHS});
    looked(&mut tx, &signed.operator, SHOWN, "months", filters).await?;
    tx.commit().await?;
    Ok(csv_of(
        "months",
        csv::MONTHS.to_owned() + &csv::months(&months),
    ))
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn amounts_are_grouped_and_keep_their_places() {
        assert_eq!(amount(1_234_560, "usd"), "12,345.60 USD");
        assert_eq!(amount(-5, "usd"), "-0.05 USD");
        assert_eq!(amount(-123_456, "eur"), "-1,234.56 EUR");
        assert_eq!(amount(1_500, "jpy"), "1,500 JPY");
    }
}
