//! One organization: what it has, used and paid, and from each number to its causes.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::Value;
use uuid::Uuid;

use super::organizations::PATH;
use super::query::address;
use super::screen::{Block, Cell, Grid, Refusal, Screen, Tone, grouped};
use super::session::Signed;
use super::{Console, audit_log, drift, explained, overrides, timeline, webhooks};
use crate::audit;
use crate::db::{TenantTx, WorkerTx};
use crate::explain;
use crate::server::extract::Path;
use crate::server::problem::Problem;
use crate::tenancy::organizations::{self, Overview, SHOWN};

pub async fn page(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Result<Path<Uuid>, Problem>,
) -> Result<Response, Refusal> {
    let missing = || Problem::not_found("There is no such organization.");
    let Path(id) = path.map_err(|_| missing())?;
    let pool = &console.shared.pool;
    let mut tx = TenantTx::begin(pool, id).await?;
    let overview = organizations::overview(tx.conn(), id).await?;
    tx.commit().await?;
    let overview = overview.ok_or_else(missing)?;
    let entry = signed
        .operator
        .did(SHOWN, Some(id), "organization", id.to_string());
    let mut tx = WorkerTx::begin(pool).await?;
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    let state = console.states.document(id).await?;
    let state: Value = serde_json::from_slice(&state).unwrap_or_default();
    let name = overview.organization["name"]
        .as_str()
        .unwrap_or("(no name)");
    let screen = Screen::new(&signed, PATH, name)
        .above(PATH, "Organizations")
        .lead(id.to_string())
        .with(who(&overview, id))
        .with(plan(&overview, &state, id))
        .with(drift::waiting(&console, id))
        .with(quotas(&overview, id))
        .with(usage(&overview, id))
        .with(invoices(&overview))
        .with(subscriptions(&overview))
        .with(features(&overview, id))
        .with(graces(&overview, id))
        .with(alerts(&overview))
        .with(open_requests(&overview));
    Ok(screen.answer())
}

fn who(overview: &Overview, id: Uuid) -> Block {
    let organization = &overview.organization;
    let of = |name| Cell::of(organization, name);
    let customers = overview.customers.iter();
    let customers: Vec<Cell> = customers
        .map(|one| Cell::of(one, "stripeCustomerId"))
        .collect();
    let named = id.to_string();
    let log = address(audit_log::PATH, &[("org", Some(&named))]);
    let events = address(webhooks::PATH, &[("org", Some(&named))]);
    let mut rows = vec![
        ("External id", of("externalId")),
        ("E-mail", of("email")),
        ("Customers in Stripe", some(customers)),
        ("Since", of("createdAt")),
    ];
    for (name, label) in [("archivedAt", "Archived"), ("erasedAt", "Erased")] {
        if !organization[name].is_null() {
            rows.push((label, of(name)));
        }
    }
    rows.push((
        "See also",
        Cell::Many(vec![
            Cell::link(timeline::page_of(id), "its timeline"),
            Cell::link(events, "its events"),
            Cell::link(log, "its audit log"),
        ]),
    ));
    Block::Facts {
        title: "Organization".to_owned(),
        rows,
    }
}

fn some(cells: Vec<Cell>) -> Cell {
    match cells.is_empty() {
        true => Cell::None,
        false => Cell::Many(cells),
    }
}

fn plan(overview: &Overview, state: &Value, id: Uuid) -> Block {
    let (plan, payment) = (&state["plan"], &state["payment"]);
    let why = explained::of_plan(id);
    let tier = overview.organization["planTier"].as_str().unwrap_or("none");
    let mut rows = vec![
        ("Plan", Cell::link(why, tier)),
        ("Version", Cell::of(plan, "version")),
        ("Interval", Cell::of(plan, "interval")),
        ("Seats", Cell::of(plan, "seats")),
        ("Payment", badge(&payment["status"])),
    ];
    if !payment["problem"].is_null() {
        rows.push(("Problem", Cell::of(payment, "problem")));
    }
    if !state["pendingChange"].is_null() {
        rows.push(("Pending change", Cell::of(state, "pendingChange")));
    }
    rows.push(("State's version", Cell::of(state, "stateVersion")));
    Block::Facts {
        title: "Plan and state".to_owned(),
        rows,
    }
}

/// A status in Stripe's words, or ours.
fn badge(status: &Value) -> Cell {
    let Some(status) = status.as_str() else {
        return Cell::None;
    };
    let tone = match status {
        "active" | "paid" | "ok" | "succeeded" => Tone::Good,
        "past_due" | "unpaid" | "uncollectible" | "failed" => Tone::Bad,
        "open" | "incomplete" | "requires_action" | "paused" => Tone::Warn,
        _ => Tone::Plain,
    };
    Cell::Badge(tone, status.to_owned())
}

fn quotas(overview: &Overview, id: Uuid) -> Block {
    let rows = overview.quotas.iter().map(|row| {
        let metric = row["metric"].as_str().unwrap_or_default();
        let held = &row["override"];
        let limit = limit(row);
        vec![
            Cell::link(explained::of_metric(id, metric), metric),
            Cell::Number(limit),
            Cell::of(row, "overLimit"),
            Cell::maybe(row["overageRate"].as_str(), |rate| {
                Cell::Number(grouped(rate))
            }),
            match held.is_null() {
                true => Cell::link(overrides::of_quota(id, metric), "none"),
                false => Cell::Many(vec![
                    Cell::Badge(Tone::Warn, self::limit(held)),
                    Cell::link(overrides::of_quota(id, metric), "see or change"),
                ]),
            },
            Cell::of(held, "reason"),
            Cell::of(held, "expiresAt"),
        ]
    });
    grid(
        "Quotas",
        vec![
            "Metric",
            "The plan's quota",
            "Over it",
            "Rate",
            "Override",
            "Reason",
            "Until",
        ],
        rows.collect(),
        "There are none.",
    )
}

fn limit(row: &Value) -> String {
    match row["unlimited"].as_bool() {
        Some(true) => "unlimited".to_owned(),
        _ => row["quota"]
            .as_str()
            .map_or_else(|| "none".to_owned(), grouped),
    }
}

fn grid(
    title: &str,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    empty: &'static str,
) -> Block {
    Block::Grid(Grid {
        title: title.to_owned(),
        columns,
        rows,
        empty,
        ..Grid::default()
    })
}

fn usage(overview: &Overview, id: Uuid) -> Block {
    let rows = overview.usage.iter().map(|row| {
        let metric = row["metric"].as_str().unwrap_or_default();
        let number = |name: &str| Cell::Number(grouped(row[name].as_str().unwrap_or("0")));
        vec![
            Cell::link(explained::of_metric(id, metric), metric),
            number("total"),
            number("reserved"),
            number("reported"),
            Cell::of(row, "periodStart"),
            Cell::of(row, "periodEnd"),
        ]
    });
    grid(
        "Usage",
        vec![
            "Metric",
            "Used",
            "Reserved",
            "Told to Stripe",
            "Period from",
            "until",
        ],
        rows.collect(),
        "Nothing was used yet.",
    )
}

fn amount(row: &Value, name: &str) -> Cell {
    match (row[name].as_i64(), row["currency"].as_str()) {
        (Some(minor), Some(currency)) => Cell::Number(explain::money(minor, currency)),
        _ => Cell::None,
    }
}

fn invoices(overview: &Overview) -> Block {
    let rows = overview.invoices.iter().map(|row| {
        let invoice = row["stripeInvoiceId"].as_str().unwrap_or_default();
        vec![
            Cell::link(explained::of_invoice(invoice), invoice),
            badge(&row["status"]),
            amount(row, "totalAmount"),
            amount(row, "paidAmount"),
            amount(row, "remainingAmount"),
            Cell::of(row, "createdAt"),
        ]
    });
    grid(
        "Invoices",
        vec!["Invoice", "Status", "Total", "Paid", "Remaining", "Created"],
        rows.collect(),
        "There are none.",
    )
}

fn subscriptions(overview: &Overview) -> Block {
    let rows = overview.subscriptions.iter().map(|row| {
        vec![
            Cell::of(row, "stripeSubscriptionId"),
            badge(&row["status"]),
            Cell::of(row, "planTier"),
            Cell::of(row, "currentPeriodStart"),
            Cell::of(row, "currentPeriodEnd"),
            Cell::of(row, "cancelAt"),
        ]
    });
    grid(
        "Subscriptions",
        vec![
            "Subscription",
            "Status",
            "Plan",
            "Period from",
            "until",
            "Ends",
        ],
        rows.collect(),
        "There are none.",
    )
}

fn features(overview: &Overview, id: Uuid) -> Block {
    let rows = overview.features.iter().map(|row| {
        let feature = row["feature"].as_str().unwrap_or_default();
        let held = &row["override"];
        vec![
            Cell::link(explained::of_feature(id, feature), feature),
            Cell::of(row, "planValue"),
            match held.is_null() {
                true => Cell::link(overrides::of_feature(id, feature), "none"),
                false => Cell::Many(vec![
                    Cell::of(held, "value"),
                    Cell::link(overrides::of_feature(id, feature), "see or change"),
                ]),
            },
            Cell::of(held, "reason"),
            Cell::of(held, "expiresAt"),
        ]
    });
    grid(
        "Features",
        vec!["Feature", "By the plan", "Override", "Reason", "Until"],
        rows.collect(),
        "The plan has none.",
    )
}

fn graces(overview: &Overview, id: Uuid) -> Block {
    let rows = overview.grace_periods.iter().map(|row| {
        let metric = row["metric"].as_str().unwrap_or_default();
        vec![
            Cell::link(explained::of_metric(id, metric), metric),
            Cell::of(row, "startedAt"),
            Cell::of(row, "expiresAt"),
            Cell::of(row, "endedAt"),
            Cell::of(row, "endReason"),
        ]
    });
    grid(
        "Grace periods",
        vec!["Metric", "Started", "Expires", "Ended", "Why"],
        rows.collect(),
        "There were none.",
    )
}

fn alerts(overview: &Overview) -> Block {
    let rows = overview.alerts.iter().map(|row| {
        vec![
            Cell::of(row, "occurredAt"),
            Cell::of(row, "kind"),
            Cell::of(row, "resourceId"),
            Cell::of(row, "message"),
        ]
    });
    grid(
        "Alerts",
        vec!["When", "Kind", "About", "Message"],
        rows.collect(),
        "There are none.",
    )
}

fn open_requests(overview: &Overview) -> Block {
    let rows = overview.open_requests.iter().map(|row| {
        vec![
            Cell::of(row, "createdAt"),
            Cell::of(row, "operation"),
            Cell::of(row, "targetId"),
            Cell::of(row, "recoveryError"),
        ]
    });
    grid(
        "Open requests to Stripe",
        vec!["Since", "Request", "About", "Error"],
        rows.collect(),
        "There are none.",
    )
}
