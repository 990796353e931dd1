//! What is done with all events that match: asked about with a count and a sample, begun, and
//! seen while it goes on in the background.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::organizations::Names;
use super::query::{address, filled};
use super::screen::{Block, Cell, Form, Grid, Live, Refusal, Screen, Tone, grouped};
use super::session::{Acting, Posted, Signed, led_to};
use super::webhooks::{button, notice, page_of, unknown_act};
use super::{Console, dead_letters, organizations, webhooks};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::Limit;
use crate::server::problem::Problem;
use crate::webhooks::bulk::{Act, BulkAction, Counted, Filter, State as Stage};
use crate::webhooks::operator::BulkList;

pub const PATH: &str = "/console/bulk-actions";

/// The page of one.
fn page_of_action(id: Uuid) -> String {
    format!("{PATH}/{id}")
}

fn title(act: Act) -> &'static str {
    match act {
        Act::ReplayDeadLetters => "Replay of dead letters",
        Act::DiscardDeadLetters => "Discarding of dead letters",
        Act::ReplayEvents => "Replay of processed events",
    }
}

/// Where the events are that it is about.
fn section(act: Act) -> (&'static str, &'static str) {
    match act {
        Act::ReplayEvents => (webhooks::PATH, "Webhooks in"),
        _ => (dead_letters::PATH, "Dead letters"),
    }
}

/// The form that asks about all that match `filter`, whose fields are as they are in the
/// address of their page.
pub fn asking(
    filter: Vec<(&'static str, String)>,
    buttons: &[(&'static str, &'static str, Tone)],
) -> Block {
    let buttons = buttons.iter();
    Block::Form(Form {
        title: "All that match".to_owned(),
        text: "They are counted, and you are asked, before anything is done.".to_owned(),
        action: PATH.to_owned(),
        hidden: filter,
        buttons: buttons
            .map(|(value, label, tone)| button(value, label, *tone))
            .collect(),
        ..Form::default()
    })
}

/// The way to those of the past.
pub fn past() -> Block {
    Block::Facts {
        title: "See also".to_owned(),
        rows: vec![(
            "All that match",
            Cell::link(PATH, "what was done in the background, and what goes on"),
        )],
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<Listing>, Problem>,
) -> Result<Response, Refusal> {
    let Query(listing) = query?;
    let query = BulkList {
        limit: Limit::default(),
        cursor: listing.cursor,
    };
    let actions = &console.webhooks;
    let page = actions.bulk_actions(&signed.operator, &query).await?;
    let next = page.next_cursor.as_deref();
    let grid = Grid {
        title: "Bulk actions".to_owned(),
        note: Some("Newest first.".to_owned()),
        columns: vec!["Asked for", "What", "State", "Done", "Failed", "Ended"],
        rows: page.data.iter().map(row).collect(),
        empty: "Nothing was done with all that match yet.",
        next: next.map(|cursor| address(PATH, &[("cursor", Some(cursor))])),
    };
    let screen = Screen::new(&signed, dead_letters::PATH, "Bulk actions")
        .above(dead_letters::PATH, "Dead letters")
        .lead("What was done with all events that match a filter, in the background.")
        .with(Block::Grid(grid));
    Ok(screen.answer())
}

fn row(action: &BulkAction) -> Vec<Cell> {
    let done = format!("{} of {}", grouped(action.done()), grouped(action.counted));
    vec![
        Cell::time(action.created_at),
        Cell::link(page_of_action(action.id), title(action.action)),
        badge(action.state),
        Cell::Number(done),
        Cell::Number(grouped(action.failed)),
        Cell::maybe(action.ended_at, Cell::time),
    ]
}

fn badge(state: Stage) -> Cell {
    let tone = match state {
        Stage::Done => Tone::Good,
        Stage::Stopped => Tone::Warn,
        Stage::Waiting | Stage::Running => Tone::Plain,
    };
    Cell::Badge(tone, state.as_str().to_owned())
}

pub async fn one(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Result<Path<Uuid>, Problem>,
) -> Result<Response, Refusal> {
    let Path(id) = path.map_err(|_| Problem::not_found("There is no such bulk action."))?;
    let action = console.webhooks.bulk_action(&signed.operator, id).await?;
    Ok(screen(&console, &signed, &action, None).await?.answer())
}

async fn screen(
    console: &Console,
    signed: &Signed,
    action: &BulkAction,
    first: Option<Block>,
) -> Result<Screen, Refusal> {
    let names = Names::of(console, action.filter.organization_id).await?;
    let (path, name) = section(action.action);
    let stops = signed.may_act() && action.state.is_open();
    let screen = Screen::new(signed, path, title(action.action))
        .above(PATH, "Bulk actions")
        .with_all(first)
        .with(progress(action))
        .with_all(stops.then(|| {
            Block::Form(Form {
                title: "Stop it".to_owned(),
                text: "What was done stays done, and nothing more is done.".to_owned(),
                action: format!("{}/stop", page_of_action(action.id)),
                buttons: vec![button("stop", "Stop", Tone::Bad)],
                ..Form::default()
            })
        }))
        .with(facts(action, &names, (path, name)));
    Ok(screen)
}

/// How far it is, which changes by itself.
fn progress(action: &BulkAction) -> Block {
    let address = page_of_action(action.id);
    let is_open = action.state.is_open();
    let (done, of) = (action.done(), action.counted);
    let text = format!(
        "{} of {}: {} succeeded, {} failed, {} were left out.",
        grouped(done),
        grouped(of),
        grouped(action.succeeded),
        grouped(action.failed),
        grouped(action.skipped),
    );
    let state = match action.state {
        Stage::Waiting => "Waiting",
        Stage::Running => "Under way",
        Stage::Stopped => "Stopped",
        Stage::Done => "Done",
    };
    let failures = action.failures.iter();
    let failures = failures.map(|failed| {
        vec![
            Cell::link(page_of(&failed.event_id), &failed.event_id),
            Cell::text(&failed.error),
        ]
    });
    Block::Live(Live {
        address: is_open.then(|| format!("{address}/progress")),
        again: address,
        label: "Look again",
        blocks: vec![
            Block::Progress {
                title: state.to_owned(),
                done,
                // A bar of nothing is none.
                of: of.max(1),
                text,
            },
            Block::Grid(Grid {
                title: "What failed".to_owned(),
                note: (action.failed > 50).then(|| "The first 50.".to_owned()),
                columns: vec!["Event", "Error"],
                rows: failures.collect(),
                empty: "Nothing failed.",
                next: None,
            }),
        ],
    })
}

fn facts(action: &BulkAction, names: &Names, (path, name): (&str, &str)) -> Block {
    let filter = &action.filter;
    let text = |text: &Option<String>| Cell::maybe(text.as_deref(), Cell::text);
    let rows = vec![
        ("State", badge(action.state)),
        ("Of", Cell::link(path, name)),
        ("Type", text(&filter.r#type)),
        (
            "Organization",
            Cell::maybe(filter.organization_id, |id| names.link(id)),
        ),
        ("Reason", text(&filter.reason)),
        ("Received since", Cell::maybe(filter.since, Cell::time)),
        ("and before", Cell::maybe(filter.until, Cell::time)),
        ("Asked for", Cell::time(action.created_at)),
        (
            "By",
            match action.requested_by {
                Some(operator) => Cell::text(operator.to_string()),
                None => Cell::text("a key or the command line; the audit log says whose"),
            },
        ),
        ("Began", Cell::maybe(action.started_at, Cell::time)),
        ("Ended", Cell::maybe(action.ended_at, Cell::time)),
    ];
    Block::Facts {
        title: "What it is about".to_owned(),
        rows,
    }
}

/// How far it is, for the script of its page: numbers and failures, of whoever opened it.
pub async fn moving(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Result<Path<Uuid>, Problem>,
) -> Result<Response, Refusal> {
    let Path(id) = path.map_err(|_| Problem::not_found("There is no such bulk action."))?;
    let action = console.webhooks.bulk_progress(id).await?;
    match progress(&action) {
        Block::Live(live) => Ok(live.answer(&signed)),
        _ => unreachable!("progress is live"),
    }
}

/// What a form of a list says: its filter.
struct Chosen {
    act: Act,
    filter: Filter,
    /// As the form had it.
    hidden: Vec<(&'static str, String)>,
}

const FIELDS: [&str; 5] = ["type", "org", "reason", "since", "until"];

impl Chosen {
    async fn of(console: &Console, posted: &Posted, act: Act) -> Result<Self, Problem> {
        let own = |name| posted.fields.get(name).map(str::to_owned);
        let time = |name: &'static str| {
            let at = own(name).map(|at| at.parse()).transpose();
            at.map_err(|_| webhooks::not_a_time(name))
        };
        let filter = Filter {
            r#type: own("type"),
            organization_id: organizations::named(console, own("org").as_deref()).await?,
            reason: own("reason"),
            since: time("since")?,
            until: time("until")?,
        };
        let hidden = FIELDS.into_iter();
        Ok(Self {
            act,
            filter,
            hidden: hidden.filter_map(|name| Some((name, own(name)?))).collect(),
        })
    }

    /// The list that it was chosen on.
    fn list(&self) -> String {
        let hidden = self.hidden.iter();
        let fields: Vec<_> = hidden
            .map(|(name, value)| (*name, Some(value.as_str())))
            .collect();
        address(section(self.act).0, &fields)
    }
}

pub async fn act(
    State(console): State<Arc<Console>>,
    Acting(posted): Acting,
) -> Result<Response, Refusal> {
    let asked = match posted.fields.get("do") {
        Some("ask-replay") => Act::ReplayDeadLetters,
        Some("ask-discard") => Act::DiscardDeadLetters,
        Some("ask-events") => Act::ReplayEvents,
        Some("start") => {
            let act = posted.fields.get("act").and_then(Act::of);
            let act = act.ok_or_else(unknown_act)?;
            return start(&console, &posted, act).await;
        }
        _ => return Err(unknown_act().into()),
    };
    let chosen = Chosen::of(&console, &posted, asked).await?;
    let signed = &posted.signed;
    let counted = console
        .webhooks
        .matching(&signed.operator, chosen.act, &chosen.filter)
        .await?;
    let ids = counted.sample.iter().filter_map(|one| one.organization_id);
    let names = Names::of(&console, ids).await?;
    let (path, name) = section(asked);
    let screen = Screen::new(signed, path, title(asked))
        .above(&chosen.list(), name)
        .with(question(&chosen, &counted))
        .with(sample(&chosen, &counted, &names));
    Ok(screen.answer())
}

fn question(chosen: &Chosen, counted: &Counted) -> Block {
    let Some(through) = counted.through else {
        return notice(Tone::Warn, "Nothing matches", "There is nothing to do.");
    };
    let one = counted.count == 1;
    let (verb, what, tone) = match chosen.act {
        Act::ReplayDeadLetters => ("Replay", "dead letter", Tone::Main),
        Act::DiscardDeadLetters => ("Discard", "dead letter", Tone::Bad),
        Act::ReplayEvents => ("Replay", "processed event", Tone::Main),
    };
    let text = match chosen.act {
        Act::ReplayDeadLetters => {
            "The handler of each runs again; those that fail stay dead letters."
        }
        Act::DiscardDeadLetters => "They are marked as processed and change nothing.",
        Act::ReplayEvents => {
            "The handler of each runs again. What is newer than an event stays as it is."
        }
    };
    let mut hidden = chosen.hidden.clone();
    hidden.push(("act", chosen.act.as_str().to_owned()));
    // What comes after the count is not done.
    hidden.push(("through", through.to_string()));
    Block::Form(Form {
        title: format!(
            "{verb} {} {what}{}?",
            grouped(counted.count),
            if one { "" } else { "s" }
        ),
        text: format!(
            "{text} They are done one after another, the oldest first, in the background; you can \
             watch, and stop it."
        ),
        action: PATH.to_owned(),
        hidden,
        buttons: vec![button("start", &format!("{verb} them"), tone)],
        back: Some(chosen.list()),
        ..Form::default()
    })
}

fn sample(chosen: &Chosen, counted: &Counted, names: &Names) -> Block {
    let shown = i64::try_from(counted.sample.len()).unwrap_or(i64::MAX);
    let rows = counted.sample.iter().map(|event| {
        vec![
            Cell::time(event.at),
            Cell::link(page_of(&event.event_id), &event.event_id),
            Cell::text(&event.event_type),
            Cell::maybe(event.organization_id, |id| names.link(id)),
        ]
    });
    let when = match chosen.act {
        Act::ReplayEvents => "Received",
        _ => "Given up",
    };
    Block::Grid(Grid {
        title: "Some of them".to_owned(),
        note: (shown < counted.count).then(|| format!("The {shown} oldest.")),
        columns: vec![when, "Event", "Type", "Organization"],
        rows: rows.collect(),
        empty: "No event matches.",
        next: None,
    })
}

async fn start(console: &Console, posted: &Posted, act: Act) -> Result<Response, Refusal> {
    let through = posted.fields.get("through").map(str::parse::<Timestamp>);
    let Some(Ok(through)) = through else {
        return Err(not_counted().into());
    };
    let chosen = Chosen::of(console, posted, act).await?;
    let begun = console
        .webhooks
        .start_bulk(&posted.signed.operator, act, &chosen.filter, Some(through))
        .await?;
    Ok(led_to(&page_of_action(begun.id)))
}

/// Nothing is done with what nobody was asked about.
fn not_counted() -> Problem {
    Problem::new(
        axum::http::StatusCode::BAD_REQUEST,
        "invalid_request",
        "The form does not say what was counted. Ask again from the page of the events.",
    )
}

pub async fn stop(
    State(console): State<Arc<Console>>,
    path: Result<Path<Uuid>, Problem>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let Path(id) = path.map_err(|_| Problem::not_found("There is no such bulk action."))?;
    if fields.get("do") != Some("stop") {
        return Err(unknown_act().into());
    }
    let actions = &console.webhooks;
    let stopped = actions.stop_bulk(&signed.operator, id).await;
    let (first, status) = match stopped {
        Ok(_) => return Ok(led_to(&page_of_action(id))),
        Err(problem) if problem.status() == axum::http::StatusCode::CONFLICT => {
            let status = problem.status();
            let why = problem.detail().to_owned();
            (notice(Tone::Warn, "It was not stopped", &why), status)
        }
        Err(problem) => return Err(problem.into()),
    };
    let action = actions.bulk_action(&signed.operator, id).await?;
    let screen = screen(&console, &signed, &action, Some(first)).await?;
    Ok(screen.answer_as(status))
}
