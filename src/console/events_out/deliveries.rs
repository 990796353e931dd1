//! Deliveries of events: the list, and one with its answer and its event.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::organizations::Names;
use super::super::query::{address, filled};
use super::super::screen::{Block, Cell, Field, Filter, Form, Grid, Refusal, Screen, Tone, digest};
use super::super::session::{Acting, Posted, Signed};
use super::super::time::span;
use super::super::webhooks::{button, notice, unknown_act};
use super::super::{Console, organizations};
use super::{PATH, page_of};
use crate::outbox::routes::{DELIVERIES_LISTED, by};
use crate::outbox::{self, Delivery};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Limit, ListQuery};
use crate::server::problem::Problem;

pub const DELIVERIES: &str = "/console/events-out/deliveries";

/// The filter, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveriesFilter {
    #[serde(default, deserialize_with = "filled")]
    endpoint: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    org: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    status: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

impl ListQuery for DeliveriesFilter {
    fn limit(&self) -> Limit {
        Limit::default()
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!((&self.endpoint, &self.org, &self.status))
    }
}

const STATUSES: [&str; 3] = ["pending", "delivered", "failed"];

impl DeliveriesFilter {
    fn block(&self) -> Block {
        let statuses = STATUSES.map(|status| (status, status));
        let status = Field {
            choices: [&[("", "any")], &statuses[..]].concat(),
            ..Field::text("status", "Status", self.status.as_deref(), "")
        };
        Block::Filter(Filter {
            action: DELIVERIES,
            label: "Find deliveries",
            submit: "Find",
            fields: vec![
                Field::text("endpoint", "Endpoint", self.endpoint.as_deref(), "its id"),
                Field::text(
                    "org",
                    "Organization",
                    self.org.as_deref(),
                    "id or external id",
                ),
                status,
            ],
        })
    }

    async fn filter(&self, console: &Console) -> Result<outbox::Filter, Problem> {
        let invalid = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail);
        let endpoint = self.endpoint.as_deref().map(str::parse).transpose();
        let status = self.status.as_deref();
        if status.is_some_and(|status| !STATUSES.contains(&status)) {
            return Err(invalid("status: expected pending, delivered or failed"));
        }
        Ok(outbox::Filter {
            endpoint_id: endpoint.map_err(|_| invalid("endpoint: expected its id"))?,
            organization_id: organizations::named(console, self.org.as_deref()).await?,
            status: self.status.clone(),
        })
    }

    fn next(&self, cursor: &str) -> String {
        let fields = [
            ("endpoint", self.endpoint.as_deref()),
            ("org", self.org.as_deref()),
            ("status", self.status.as_deref()),
            ("cursor", Some(cursor)),
        ];
        address(DELIVERIES, &fields)
    }
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<DeliveriesFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(asked) = query?;
    let filter = asked.filter(&console).await?;
    let shared = &console.shared;
    let page = shared
        .page::<Delivery>(Uuid::nil(), "console deliveries", &asked)
        .await?;
    let rows = outbox::list(&shared.pool, &filter, page.after.as_ref(), page.rows()).await?;
    looked(&console, &signed).await?;
    let page = page.of(rows);
    let names = Names::of(&console, page.data.iter().map(|one| one.organization_id)).await?;
    let screen = Screen::new(&signed, PATH, "Deliveries")
        .above(PATH, "Events out")
        .lead("Each event to each endpoint, and what came of it.")
        .with(asked.block())
        .with(Block::Grid(Grid {
            title: "Deliveries".to_owned(),
            note: Some("Newest first.".to_owned()),
            columns: vec![
                "Event made",
                "Event",
                "Organization",
                "Status",
                "Attempts",
                "Answer",
                "Took",
                "Endpoint",
            ],
            rows: page.data.iter().map(|one| row(one, &names)).collect(),
            empty: "No delivery matches.",
            next: page.next_cursor.map(|cursor| asked.next(&cursor)),
        }));
    Ok(screen.answer())
}

async fn looked(console: &Console, signed: &Signed) -> Result<(), Problem> {
    let (operator, kind) = (&signed.operator, "event_delivery");
    console
        .events
        .looked(operator, DELIVERIES_LISTED, kind)
        .await
}

fn status_of(delivery: &Delivery) -> Cell {
    let tone = match &*delivery.status {
        "delivered" => Tone::Good,
        "failed" => Tone::Bad,
        _ if delivery.attempts > 0 => Tone::Warn,
        _ => Tone::Plain,
    };
    Cell::Badge(tone, delivery.status.clone())
}

/// From when the event was made to the attempt that delivered it.
fn took(delivery: &Delivery) -> Cell {
    let at = delivery.last_attempt_at;
    let at = at.filter(|_| delivery.status == "delivered");
    Cell::maybe(at, |at| {
        let took = at.duration_since(delivery.created_at);
        let millis = took.as_millis().max(0);
        Cell::Number(match millis {
            millis if millis < 10_000 => format!("{millis} ms"),
            millis => span(i64::try_from(millis / 1_000).unwrap_or(i64::MAX)),
        })
    })
}

fn answer(delivery: &Delivery) -> Cell {
    let status = delivery
        .response_status
        .map(|status| Cell::Number(status.to_string()));
    let error = delivery.error.as_deref().map(Cell::text);
    let parts: Vec<Cell> = [status, error].into_iter().flatten().collect();
    match parts.is_empty() {
        true => Cell::None,
        false => Cell::Many(parts),
    }
}

fn row(delivery: &Delivery, names: &Names) -> Vec<Cell> {
    vec![
        Cell::time(delivery.created_at),
        Cell::link(
            format!("{DELIVERIES}/{}", delivery.id),
            &delivery.event_type,
        ),
        names.link(delivery.organization_id),
        status_of(delivery),
        Cell::Number(delivery.attempts.to_string()),
        answer(delivery),
        took(delivery),
        Cell::link(
            page_of(delivery.endpoint_id),
            delivery.endpoint_id.to_string(),
        ),
    ]
}

fn missing() -> Problem {
    Problem::not_found("There is no such delivery.")
}

pub async fn one(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Result<Path<Uuid>, Problem>,
) -> Result<Response, Refusal> {
    let Path(id) = path.map_err(|_| missing())?;
    let found = outbox::find(&console.shared.pool, id).await?;
    let (delivery, body) = found.ok_or_else(missing)?;
    looked(&console, &signed).await?;
    let names = Names::of(&console, [delivery.organization_id]).await?;
    let mut rows = vec![
        ("Status", status_of(&delivery)),
        ("Organization", names.link(delivery.organization_id)),
        (
            "Number of the event",
            Cell::Number(delivery.sequence.to_string()),
        ),
        ("Event", Cell::Code(delivery.event_id.to_string())),
        (
            "Endpoint",
            Cell::link(
                page_of(delivery.endpoint_id),
                delivery.endpoint_id.to_string(),
            ),
        ),
        ("Made", Cell::exact(delivery.created_at)),
        ("Attempts", Cell::Number(delivery.attempts.to_string())),
        (
            "Last attempt",
            Cell::maybe(delivery.last_attempt_at, Cell::exact),
        ),
        (
            "Next attempt",
            Cell::maybe(delivery.next_attempt_at, Cell::time),
        ),
        ("Took", took(&delivery)),
        ("Answer", answer(&delivery)),
    ];
    if let Some(excerpt) = &delivery.response_excerpt {
        rows.push(("Its beginning", Cell::Code(excerpt.clone())));
    }
    let screen = Screen::new(&signed, PATH, &delivery.event_type)
        .above(DELIVERIES, "Deliveries")
        .with(Block::Facts {
            title: "The delivery".to_owned(),
            rows,
        })
        .with_all(signed.may_act().then(|| {
            Block::Form(Form {
                title: "Act on it".to_owned(),
                text: "It is sent again under the same id, whatever became of it.".to_owned(),
                action: format!("{DELIVERIES}/{id}"),
                buttons: vec![button("resend", "Send it again", Tone::Plain)],
                ..Form::default()
            })
        }))
        .with(Block::Code {
            title: "The event".to_owned(),
            note: format!("As it is sent: {}", digest(body.as_bytes())),
            text: body,
        });
    Ok(screen.answer())
}

pub async fn act(
    State(console): State<Arc<Console>>,
    path: Result<Path<Uuid>, Problem>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let Path(id) = path.map_err(|_| missing())?;
    if fields.get("do") != Some("resend") {
        return Err(unknown_act().into());
    }
    let by = by(signed.operator.clone());
    let resent = outbox::resend(&console.shared.pool, &[id], &by).await?;
    if resent.is_empty() {
        return Err(missing().into());
    }
    let screen = Screen::new(&signed, PATH, "Sent again")
        .above(&format!("{DELIVERIES}/{id}"), "The delivery")
        .with(notice(
            Tone::Good,
            "It is due",
            "It is sent when its endpoint's turn comes; the audit log has it.",
        ));
    Ok(screen.answer())
}
