//! Webhooks in: the list, and one event with all that is known of it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::organizations::Names;
use super::query::{address, filled, part};
use super::screen::{
    Block, Button, Cell, Field, Filter, Form, Grid, Refusal, Screen, Tone, digest,
};
use super::session::{Acting, Posted, Signed, led_to};
use super::{Console, bulk_actions, effects, explained, organizations};
use crate::explain::Question;
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::Limit;
use crate::server::problem::Problem;
use crate::webhooks::dead_letters::replay::Replayed;
use crate::webhooks::inspect::{Details, EventState, Listed};
use crate::webhooks::operator::EventsQuery;

pub const PATH: &str = "/console/webhooks";

/// The filter, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsFilter {
    #[serde(default, deserialize_with = "filled")]
    evt: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    r#type: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    org: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    status: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    since: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    until: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

impl EventsFilter {
    fn block(&self) -> Block {
        let status = Field {
            choices: vec![
                ("", "any"),
                ("processed", "processed"),
                ("unprocessed", "not processed"),
            ],
            ..Field::text("status", "Status", self.status.as_deref(), "")
        };
        Block::Filter(Filter {
            action: PATH,
            label: "Find events",
            submit: "Find",
            fields: vec![
                Field::text("evt", "Event", self.evt.as_deref(), "evt_…"),
                Field::text("type", "Type", self.r#type.as_deref(), "invoice.paid"),
                Field::text(
                    "org",
                    "Organization",
                    self.org.as_deref(),
                    "id or external id",
                ),
                status,
                Field::text("since", "Received since", self.since.as_deref(), TIME),
                Field::text("until", "and before", self.until.as_deref(), TIME),
            ],
        })
    }

    /// The address of the page that `cursor` begins.
    fn next(&self, cursor: &str) -> String {
        let fields = [
            ("type", self.r#type.as_deref()),
            ("org", self.org.as_deref()),
            ("status", self.status.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("cursor", Some(cursor)),
        ];
        address(PATH, &fields)
    }

    /// What a replay of all that match is told of them: the processed ones.
    fn hidden(&self) -> Vec<(&'static str, String)> {
        let fields = [
            ("type", &self.r#type),
            ("org", &self.org),
            ("since", &self.since),
            ("until", &self.until),
        ];
        let set = fields.into_iter();
        set.filter_map(|(name, value)| Some((name, value.clone()?)))
            .collect()
    }
}

/// A time of a filter, as it is written.
const TIME: &str = "2026-01-31T12:00:00Z";

fn time(name: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let at = text.map(str::parse).transpose();
    at.map_err(|_| not_a_time(name))
}

pub fn not_a_time(name: &'static str) -> Problem {
    Problem::new(
        axum::http::StatusCode::BAD_REQUEST,
        "invalid_query",
        format!("{name}: expected a time such as {TIME}"),
    )
}

/// The page of an event.
pub fn page_of(event_id: &str) -> String {
    format!("{PATH}/{}", part(event_id))
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<EventsFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(filter) = query?;
    if let Some(event) = &filter.evt {
        return Ok(led_to(&page_of(event)));
    }
    let organization = organizations::named(&console, filter.org.as_deref()).await?;
    let query = EventsQuery {
        r#type: filter.r#type.clone(),
        organization_id: organization,
        processed: match filter.status.as_deref() {
            None => None,
            Some("processed") => Some(true),
            Some("unprocessed") => Some(false),
            Some(_) => return Err(unknown_status().into()),
        },
        since: time("since", filter.since.as_deref())?,
        until: time("until", filter.until.as_deref())?,
        limit: Limit::default(),
        cursor: filter.cursor.clone(),
    };
    let page = console.webhooks.events(&signed.operator, query).await?;
    let ids = page.data.iter().filter_map(|event| event.organization_id);
    let names = Names::of(&console, ids).await?;
    // Those that are not processed yet are retried by themselves.
    let acts = signed.may_act() && page.data.iter().any(|event| event.processed);
    let acts = acts && filter.status.as_deref() == Some("processed");
    let grid = Grid {
        title: "Events".to_owned(),
        note: Some("Newest first. Dead letters have a page of their own.".to_owned()),
        columns: vec![
            "Received",
            "Event",
            "Type",
            "Organization",
            "State",
            "Attempts",
        ],
        rows: page.data.iter().map(|event| row(event, &names)).collect(),
        empty: "No event matches.",
        next: page.next_cursor.map(|cursor| filter.next(&cursor)),
    };
    let screen = Screen::new(&signed, PATH, "Webhooks in")
        .lead("What Stripe has sent, and what became of it.")
        .with(filter.block())
        .with(Block::Grid(grid))
        .with_all(acts.then(|| {
            let button = ("ask-events", "Replay all that match", Tone::Plain);
            bulk_actions::asking(filter.hidden(), &[button])
        }));
    Ok(screen.answer())
}

fn unknown_status() -> Problem {
    Problem::new(
        axum::http::StatusCode::BAD_REQUEST,
        "invalid_query",
        "status: expected processed or unprocessed",
    )
}

fn row(event: &Listed, names: &Names) -> Vec<Cell> {
    let state = match (&event.outcome, event.processed) {
        (Some(outcome), true) => Cell::Badge(tone_of(outcome), outcome.clone()),
        (_, true) => Cell::Badge(Tone::Good, "processed".to_owned()),
        (_, false) if event.error_message.is_some() => {
            Cell::Badge(Tone::Warn, "waits for its retry".to_owned())
        }
        (_, false) => Cell::Badge(Tone::Plain, "waits".to_owned()),
    };
    vec![
        Cell::time(event.received_at),
        Cell::link(page_of(&event.event_id), &event.event_id),
        Cell::text(&event.event_type),
        Cell::maybe(event.organization_id, |id| names.link(id)),
        state,
        Cell::Number((event.retry_count + i32::from(event.processed)).to_string()),
    ]
}

fn tone_of(outcome: &str) -> Tone {
    match outcome {
        "applied" => Tone::Good,
        "discarded" => Tone::Warn,
        _ => Tone::Plain,
    }
}

pub async fn one(
    State(console): State<Arc<Console>>,
    signed: Signed,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    Ok(event_screen(&console, &signed, &id, None).await?.answer())
}

/// The page of an event, with what came of an act.
async fn event_screen(
    console: &Console,
    signed: &Signed,
    id: &str,
    notice: Option<Block>,
) -> Result<Screen, Refusal> {
    let found = console
        .webhooks
        .show(&signed.operator, id, |_| true)
        .await?;
    let event = found.ok_or_else(|| {
        Problem::not_found(format!(
            "There is no event {id}. `webhooks backfill` fetches what Stripe still has."
        ))
    })?;
    let question = Question::Event(id.to_owned());
    let explained = console
        .explaining
        .answer(&signed.operator, &question)
        .await?;
    let names = Names::of(console, event.organization_id).await?;
    let (section, above) = match event.state {
        EventState::DeadLetter => (super::dead_letters::PATH, "Dead letters"),
        _ => (PATH, "Webhooks in"),
    };
    let screen = Screen::new(signed, section, &event.event_id)
        .above(section, above)
        .lead(event.event_type.clone())
        .with_all(notice)
        .with(facts(&event, &names, effects::newer(&explained)))
        .with(explained::block("What it did", &explained))
        .with(effects::of_event(&explained))
        .with(attempts(&event))
        .with_all(signed.may_act().then(|| actions(&event)).flatten())
        .with(payload(&event));
    Ok(screen)
}

fn facts(event: &Details, names: &Names, newer: Option<Cell>) -> Block {
    let state = match event.state {
        EventState::Processed => Cell::Badge(Tone::Good, "processed".to_owned()),
        EventState::Unprocessed => Cell::Badge(Tone::Warn, "not processed".to_owned()),
        EventState::DeadLetter => Cell::Badge(Tone::Bad, "dead letter".to_owned()),
    };
    let mut rows = vec![
        ("State", state),
        ("Outcome", Cell::maybe(event.outcome.as_deref(), Cell::text)),
        (
            "Organization",
            Cell::maybe(event.organization_id, |id| names.link(id)),
        ),
        ("Created by Stripe", Cell::time(event.created_at)),
        ("Received", Cell::time(event.received_at)),
        ("Processed", Cell::maybe(event.processed_at, Cell::time)),
        (
            "Failed attempts",
            Cell::Number(event.retry_count.to_string()),
        ),
    ];
    if let Some(newer) = newer {
        let superseded = event.outcome.as_deref() == Some("superseded");
        let label = match superseded {
            true => "Superseded by",
            false => "Newest of its object",
        };
        rows.push((label, newer));
    }
    if let Some(at) = event.next_retry_at {
        rows.push(("Next attempt", Cell::time(at)));
    }
    if let Some(error) = &event.error_message {
        rows.push(("Last error", Cell::text(error)));
    }
    rows.extend([
        (
            "Version of the API",
            Cell::maybe(event.api_version.as_deref(), Cell::text),
        ),
        (
            "Mode",
            Cell::text(if event.livemode { "live" } else { "test" }),
        ),
        ("Account", Cell::maybe(event.account.as_deref(), Cell::text)),
    ]);
    Block::Facts {
        title: "The event".to_owned(),
        rows,
    }
}

fn attempts(event: &Details) -> Block {
    let attempts = event.attempts.as_array().into_iter().flatten();
    let rows = attempts.map(|attempt| vec![Cell::of(attempt, "at"), error_of(attempt)]);
    Block::Grid(Grid {
        title: "Failed attempts".to_owned(),
        columns: vec!["When", "Error"],
        rows: rows.collect(),
        empty: "None failed.",
        ..Grid::default()
    })
}

fn error_of(attempt: &Value) -> Cell {
    match attempt["error"].as_str() {
        Some(error) => Cell::text(error),
        None => Cell::Code(attempt.to_string()),
    }
}

fn payload(event: &Details) -> Block {
    let title = "Payload".to_owned();
    match (&event.payload, event.payload_removed_at) {
        (Some(payload), _) => Block::Code {
            title,
            note: format!("As it was received: {}", digest(payload.get().as_bytes())),
            text: payload.get().to_owned(),
        },
        (None, removed) => Block::Facts {
            title,
            rows: vec![("Removed by retention", Cell::maybe(removed, Cell::time))],
        },
    }
}

fn actions(event: &Details) -> Option<Block> {
    let dead = event.state == EventState::DeadLetter;
    event.payload.as_ref()?;
    let mut buttons = vec![
        button("rehearse", "Try it without keeping anything", Tone::Plain),
        button("ask-replay", "Replay", Tone::Plain),
    ];
    if dead {
        buttons.push(button("ask-discard", "Discard", Tone::Bad));
    }
    Some(Block::Form(Form {
        title: "Act on it".to_owned(),
        text: "A replay runs the handler again. Nothing is done before you are asked.".to_owned(),
        action: page_of(&event.event_id),
        buttons,
        ..Form::default()
    }))
}

pub fn button(value: &'static str, label: &str, tone: Tone) -> Button {
    Button {
        value,
        label: label.to_owned(),
        tone,
    }
}

pub async fn act(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let ask = |title: &str, text: &str, yes: Button| {
        Block::Form(Form {
            title: title.to_owned(),
            text: text.to_owned(),
            action: page_of(&id),
            buttons: vec![yes],
            back: Some(page_of(&id)),
            ..Form::default()
        })
    };
    let mut shows = Vec::new();
    let shown = match fields.get("do") {
        Some("ask-replay") => ask(
            "Replay this event?",
            "Its handler runs again, and what it does is kept. The replay is entered in the audit \
             log with your name.",
            button("replay", "Replay it", Tone::Main),
        ),
        Some("ask-discard") => ask(
            "Discard this dead letter?",
            "It is marked as processed and changes nothing, now and when Stripe sends it again. \
             This cannot be undone, but the event can still be replayed.",
            button("discard", "Discard it", Tone::Bad),
        ),
        Some("rehearse") => {
            let came = console
                .webhooks
                .rehearse(id.clone(), &signed.operator)
                .await?;
            if matches!(came.result, Replayed::Succeeded { .. }) {
                shows = effects::of_rehearsal(&came.difference);
            }
            outcome(&came.result, "A replay would succeed", "Nothing was kept.")
        }
        Some("replay") => {
            let replayed = console
                .webhooks
                .replay(id.clone(), &signed.operator)
                .await?;
            outcome(&replayed.result, "Replayed", "The audit log has it.")
        }
        Some("discard") => match console.webhooks.discard(&signed.operator, &id).await? {
            true => notice(
                Tone::Good,
                "Discarded",
                "It is processed, and changed nothing.",
            ),
            false => notice(
                Tone::Warn,
                "Not discarded",
                "It is no dead letter any more.",
            ),
        },
        _ => return Err(unknown_act().into()),
    };
    // What came of an act stands alone: it is kept, and shown again when the form is.
    let screen = match shown {
        asked @ Block::Form(_) => event_screen(&console, &signed, &id, Some(asked)).await?,
        came => Screen::new(&signed, PATH, &id)
            .above(&page_of(&id), "The event")
            .with(came)
            .with_all(shows),
    };
    Ok(screen.answer())
}

pub fn unknown_act() -> Problem {
    Problem::new(
        axum::http::StatusCode::BAD_REQUEST,
        "invalid_request",
        "The form names nothing that can be done here.",
    )
}

pub fn notice(tone: Tone, title: &str, text: &str) -> Block {
    Block::Notice {
        tone,
        title: title.to_owned(),
        text: text.to_owned(),
    }
}

/// What came of a replay, in a sentence.
pub fn said(result: &Replayed) -> (Tone, String) {
    match result {
        Replayed::Succeeded { outcome } => (Tone::Good, (*outcome).to_owned()),
        Replayed::Failed { error } => (Tone::Bad, error.clone()),
        Replayed::InFlight => (
            Tone::Warn,
            "A worker is processing it; look again.".to_owned(),
        ),
        Replayed::PayloadRemoved { removed_at } => (
            Tone::Warn,
            format!("Its payload was removed at {removed_at}: nothing is left to replay."),
        ),
        Replayed::Unknown => (Tone::Warn, "It is not there any more.".to_owned()),
    }
}

fn outcome(result: &Replayed, title: &str, text: &str) -> Block {
    match said(result) {
        (Tone::Good, outcome) => notice(Tone::Good, &format!("{title}: {outcome}"), text),
        (tone, why) => notice(tone, "It did not succeed", &why),
    }
}
