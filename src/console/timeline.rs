//! What happened to an organization, in one list by time.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::Console;
use super::organizations::{self, PATH};
use super::query::{address, filled};
use super::screen::{Block, Cell, Field, Filter, Grid, Refusal, Screen};
use super::session::Signed;
use super::webhooks::page_of as page_of_event;
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::Limit;
use crate::server::problem::Problem;
use crate::timeline::routes::{TimelineQuery, of};
use crate::timeline::{Happened, Kind};

/// The filter, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    #[serde(default, deserialize_with = "filled")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

pub fn page_of(organization: Uuid) -> String {
    format!("{}/timeline", organizations::page_of(organization))
}

pub async fn page(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Result<Path<Uuid>, Problem>,
    query: Result<Query<Listing>, Problem>,
) -> Result<Response, Refusal> {
    let missing = |_| Problem::not_found("There is no such organization.");
    let Path(id) = path.map_err(missing)?;
    let Query(listing) = query?;
    let kind = listing.kind.as_deref().map(|name| {
        Kind::of(name).ok_or_else(|| {
            Problem::new(
                axum::http::StatusCode::BAD_REQUEST,
                "invalid_query",
                "kind: expected audit_entry, stripe_event, dead_letter, stripe_request or delivery",
            )
        })
    });
    let query = TimelineQuery {
        kind: kind.transpose()?,
        limit: Limit::default(),
        cursor: listing.cursor.clone(),
    };
    let happened = of(&console.shared, &signed.operator, id, &query).await?;
    let own = page_of(id);
    let next = happened.next_cursor.as_deref().map(|cursor| {
        let fields = [("kind", listing.kind.as_deref()), ("cursor", Some(cursor))];
        address(&own, &fields)
    });
    let kinds = Field {
        choices: vec![
            ("", "any"),
            ("audit_entry", "entries of the audit log"),
            ("stripe_event", "events of Stripe's"),
            ("dead_letter", "dead letters"),
            ("stripe_request", "requests to Stripe"),
            ("delivery", "deliveries of events out"),
        ],
        ..Field::text("kind", "Kind", listing.kind.as_deref(), "")
    };
    let screen = Screen::new(&signed, PATH, "Timeline")
        .above(&organizations::page_of(id), "The organization")
        .lead(
            "Entries of the audit log, Stripe's events, those that became dead letters, requests \
             to Stripe, and deliveries of events out, newest first.",
        )
        .with(Block::Filter(Filter {
            // Beside the organization's page.
            action: "timeline",
            label: "Show one kind",
            submit: "Show",
            fields: vec![kinds],
        }))
        .with(Block::Grid(Grid {
            title: "What happened".to_owned(),
            note: Some("This look is the next entry.".to_owned()),
            columns: vec!["When", "Kind", "What", "About", "By", "State"],
            rows: happened.data.iter().map(row).collect(),
            empty: "Nothing happened yet.",
            next,
        }));
    Ok(screen.answer())
}

fn row(happened: &Happened) -> Vec<Cell> {
    let what = match happened.kind {
        Kind::StripeEvent | Kind::DeadLetter => Cell::Many(vec![
            Cell::text(&happened.what),
            Cell::link(page_of_event(&happened.id), &happened.id),
        ]),
        _ => Cell::text(&happened.what),
    };
    let text = |text: &Option<String>| Cell::maybe(text.as_deref(), Cell::text);
    vec![
        Cell::exact(happened.at),
        Cell::text(happened.kind.as_str().replace('_', " ")),
        what,
        text(&happened.about),
        text(&happened.by),
        text(&happened.state),
    ]
}
