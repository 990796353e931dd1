//! One endpoint: how it does, and what is done with it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use uuid::Uuid;

use super::super::Console;
use super::super::organizations::Names;
use super::super::query::address;
use super::super::screen::{Block, Cell, Field, Form, Refusal, Screen, Tone, grouped};
use super::super::session::{Acting, Fields, Posted, Signed};
use super::super::webhooks::{button, notice, unknown_act};
use super::{DELIVERIES, PATH, page_of, shown_once, state_of, types_of};
use crate::outbox::endpoints::{self, Endpoint};
use crate::outbox::routes::{ENDPOINTS_LISTED, by};
use crate::outbox::{self, Answer};
use crate::server::extract::Path;
use crate::server::problem::Problem;

/// How long the former secret signs beside the new one.
const OVERLAP: Duration = Duration::from_secs(24 * 3_600);

fn missing() -> Problem {
    Problem::not_found("There is no such endpoint.")
}

pub async fn page(
    State(console): State<Arc<Console>>,
    signed: Signed,
    path: Result<Path<Uuid>, Problem>,
) -> Result<Response, Refusal> {
    let Path(id) = path.map_err(|_| missing())?;
    Ok(screen(&console, &signed, id, None).await?.answer())
}

async fn screen(
    console: &Console,
    signed: &Signed,
    id: Uuid,
    asked: Option<Block>,
) -> Result<Screen, Refusal> {
    let all = endpoints::list(&console.shared.pool)
        .await
        .map_err(Problem::from)?;
    let endpoint = all.into_iter().find(|one| one.id == id);
    let endpoint = endpoint.ok_or_else(missing)?;
    console
        .events
        .looked(&signed.operator, ENDPOINTS_LISTED, "event_endpoint")
        .await?;
    let names = Names::of(console, endpoint.organization_id).await?;
    let acts = signed.may_act().then(|| {
        let recovery = (endpoint.source != "listen").then(|| recovery(id));
        [Some(actions(&endpoint)), recovery].into_iter().flatten()
    });
    let screen = Screen::new(signed, PATH, &endpoint.url)
        .above(PATH, "Events out")
        .with_all(asked)
        .with(facts(&endpoint, &names))
        .with_all(acts.into_iter().flatten());
    Ok(screen)
}

fn facts(endpoint: &Endpoint, names: &Names) -> Block {
    let id = endpoint.id.to_string();
    let deliveries = |status| {
        let query = [("endpoint", Some(id.as_str())), ("status", status)];
        address(DELIVERIES, &query)
    };
    let mut rows = vec![
        ("State", state_of(endpoint)),
        ("Types", types_of(endpoint)),
        (
            "Organization",
            match endpoint.organization_id {
                Some(id) => names.link(id),
                None => Cell::text("all"),
            },
        ),
        (
            "What for",
            Cell::maybe(endpoint.description.as_deref(), Cell::text),
        ),
        ("Made by", Cell::text(&endpoint.source)),
        ("Since", Cell::time(endpoint.created_at)),
        (
            "Deliveries",
            Cell::Many(vec![
                Cell::link(deliveries(None), "all"),
                Cell::link(deliveries(Some("pending")), "pending"),
                Cell::link(deliveries(Some("failed")), "failed"),
            ]),
        ),
    ];
    let times = [
        ("Failing since", endpoint.failing_since),
        ("Disabled", endpoint.disabled_at),
        ("Former secret signs until", endpoint.previous_secret_until),
    ];
    rows.extend(
        times
            .into_iter()
            .filter_map(|(name, at)| Some((name, Cell::time(at?)))),
    );
    let texts = [
        ("Why disabled", &endpoint.disabled_reason),
        ("Last error", &endpoint.last_error),
    ];
    rows.extend(
        texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, Cell::text(text.as_deref()?)))),
    );
    Block::Facts {
        title: "The endpoint".to_owned(),
        rows,
    }
}

fn actions(endpoint: &Endpoint) -> Block {
    let mut buttons = vec![button("test", "Send a test", Tone::Plain)];
    match endpoint.disabled_at {
        Some(_) => buttons.push(button("enable", "Enable", Tone::Main)),
        None => buttons.push(button("ask-disable", "Disable", Tone::Plain)),
    }
    if endpoint.source == "operator" {
        buttons.push(button("ask-rotate", "Give it a new secret", Tone::Plain));
        buttons.push(button("ask-remove", "Remove", Tone::Bad));
    }
    Block::Form(Form {
        title: "Act on it".to_owned(),
        text: "A test is sent at once, and changes nothing there.".to_owned(),
        action: page_of(endpoint.id),
        buttons,
        ..Form::default()
    })
}

fn recovery(id: Uuid) -> Block {
    Block::Form(Form {
        title: "Recover".to_owned(),
        text: "Sends what it has not got of the events of a time: those that failed, and \
                   those from before it was made."
            .to_owned(),
        action: page_of(id),
        buttons: vec![button("recover", "Recover them", Tone::Plain)],
        fields: vec![
            Field::text("since", "Since", None, "2026-01-31T12:00:00Z"),
            Field::text("until", "Before; empty: now", None, "2026-02-01T00:00:00Z"),
        ],
        ..Form::default()
    })
}

/// Asks before something is done.
fn question(id: Uuid, title: &str, text: &str, value: &'static str, label: &str) -> Block {
    let action = match value {
        "rotate" => format!("{}/secret", page_of(id)),
        _ => page_of(id),
    };
    let tone = if value == "remove" {
        Tone::Bad
    } else {
        Tone::Main
    };
    Block::Form(Form {
        title: title.to_owned(),
        text: text.to_owned(),
        action,
        buttons: vec![button(value, label, tone)],
        back: Some(page_of(id)),
        ..Form::default()
    })
}

pub async fn act(
    State(console): State<Arc<Console>>,
    path: Result<Path<Uuid>, Problem>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let Path(id) = path.map_err(|_| missing())?;
    let asked = match fields.get("do") {
        Some("ask-disable") => question(
            id,
            "Disable this endpoint?",
            "Nothing is sent to it until it is enabled; what waits stays.",
            "disable",
            "Disable it",
        ),
        Some("ask-rotate") => question(
            id,
            "Give it a new secret?",
            "The former one signs beside it for 24 hours.",
            "rotate",
            "Make the secret",
        ),
        Some("ask-remove") => question(
            id,
            "Remove this endpoint?",
            "Its deliveries are removed with it. This cannot be undone.",
            "remove",
            "Remove it",
        ),
        _ => return done(&console, &signed, id, &fields).await,
    };
    Ok(screen(&console, &signed, id, Some(asked)).await?.answer())
}

/// Does it. What came of it stands alone: it is kept, and shown again when the form is.
async fn done(
    console: &Console,
    signed: &Signed,
    id: Uuid,
    fields: &Fields,
) -> Result<Response, Refusal> {
    let (pool, by) = (&console.shared.pool, by(signed.operator.clone()));
    let (came, above) = match fields.get("do") {
        Some("test") => {
            let config = &console.events.config;
            let secret = config.application.as_ref().map(|one| &one.secret);
            let now = Timestamp::now();
            let tested = endpoints::test(pool, id, &config.allowed, secret, now, &by).await;
            (answered(&tested.map_err(Problem::from)?), true)
        }
        Some("enable") => {
            endpoints::enable(pool, id, &by)
                .await
                .map_err(Problem::from)?;
            let text = "What waited is sent first.";
            (vec![notice(Tone::Good, "Enabled", text)], true)
        }
        Some("disable") => {
            let reason = "by an operator";
            let disabled = endpoints::disable(pool, id, reason, &by).await;
            disabled.map_err(Problem::from)?;
            let text = "Nothing is sent to it until it is enabled.";
            (vec![notice(Tone::Good, "Disabled", text)], true)
        }
        Some("remove") => {
            endpoints::remove(pool, id, &by)
                .await
                .map_err(Problem::from)?;
            let text = "Its deliveries went with it.";
            (vec![notice(Tone::Good, "Removed", text)], false)
        }
        Some("recover") => {
            let (since, until) = span(fields)?;
            let recovered = outbox::recover(pool, id, since, until, &by).await;
            let recovered = recovered.map_err(Problem::from)?;
            let text = format!(
                "{} of the {} events of that time had not been delivered to it, and are sent.",
                grouped(recovered.deliveries),
                grouped(recovered.events)
            );
            (vec![notice(Tone::Good, "Recovered", &text)], true)
        }
        _ => return Err(unknown_act().into()),
    };
    let screen = Screen::new(signed, PATH, "Events out").with_all(came);
    let screen = match above {
        true => screen.above(&page_of(id), "The endpoint"),
        false => screen.above(PATH, "Events out"),
    };
    Ok(screen.answer())
}

fn answered(answer: &Answer) -> Vec<Block> {
    let came = match &answer.error {
        None => notice(Tone::Good, "The test was delivered", ""),
        Some(error) => notice(Tone::Bad, "The test was not delivered", error),
    };
    let status = answer.status.map(|status| Cell::Number(status.to_string()));
    let rows = vec![
        ("Status", status.unwrap_or(Cell::None)),
        (
            "The beginning of the answer",
            Cell::maybe(answer.excerpt.clone(), Cell::Code),
        ),
    ];
    let title = "The answer".to_owned();
    vec![came, Block::Facts { title, rows }]
}

fn span(fields: &Fields) -> Result<(Timestamp, Timestamp), Problem> {
    let invalid =
        |detail: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail);
    let read = |name: &str| match fields.get(name) {
        None => Ok(None),
        Some(text) => text.trim().parse().map(Some).map_err(|_| {
            invalid(&format!(
                "{name}: expected a time such as 2026-01-31T12:00:00Z"
            ))
        }),
    };
    let since = read("since")?.ok_or_else(|| invalid("since: say from when on"))?;
    let until: Timestamp = read("until")?.unwrap_or_else(Timestamp::now);
    match since < until {
        true => Ok((since, until)),
        false => Err(invalid("until: must be after since")),
    }
}

/// A new secret, which is shown once.
pub async fn rotate(
    State(console): State<Arc<Console>>,
    path: Result<Path<Uuid>, Problem>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let Path(id) = path.map_err(|_| missing())?;
    if fields.get("do") != Some("rotate") {
        return Err(unknown_act().into());
    }
    let (pool, by) = (&console.shared.pool, by(signed.operator.clone()));
    let made = endpoints::rotate(pool, id, OVERLAP, &by)
        .await
        .map_err(Problem::from)?;
    Ok(shown_once(&signed, "It has a new secret", &made))
}
