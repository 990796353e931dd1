//! Events out: where they are sent, what came of each delivery, and what an operator does
//! about it. The same functions as those of `/api/operator/event-endpoints`.

mod deliveries;
mod endpoint;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use uuid::Uuid;

pub use deliveries::{DELIVERIES, act as act_on_delivery, list as deliveries, one as delivery};
pub use endpoint::{act as act_on_endpoint, page as endpoint, rotate};

use super::organizations::Names;
use super::screen::{Block, Cell, Field, Form, Grid, Refusal, Screen, Tone};
use super::session::{Acting, Posted, Signed};
use super::webhooks::{button, notice, unknown_act};
use super::{Console, organizations};
use crate::outbox::endpoints::{self, Endpoint, Kind, NewEndpoint, WithSecret};
use crate::outbox::routes::{ENDPOINTS_LISTED, by};
use crate::server::problem::Problem;

pub const PATH: &str = "/console/events-out";

/// The page of an endpoint.
pub fn page_of(id: Uuid) -> String {
    format!("{PATH}/{id}")
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
) -> Result<Response, Refusal> {
    let all = endpoints::list(&console.shared.pool)
        .await
        .map_err(Problem::from)?;
    console
        .events
        .looked(&signed.operator, ENDPOINTS_LISTED, "event_endpoint")
        .await?;
    let names = Names::of(&console, all.iter().filter_map(|one| one.organization_id)).await?;
    let screen = Screen::new(&signed, PATH, "Events out")
        .lead("Where the product is told what changed.")
        .with(Block::Facts {
            title: "See also".to_owned(),
            rows: vec![("Deliveries", Cell::link(DELIVERIES, "of all endpoints"))],
        })
        .with(Block::Grid(Grid {
            title: "Endpoints".to_owned(),
            columns: vec![
                "Address",
                "State",
                "Types",
                "Organization",
                "What for",
                "Since",
            ],
            rows: all.iter().map(|one| row(one, &names)).collect(),
            empty: "There is none: nothing is sent.",
            ..Grid::default()
        }))
        .with_all(signed.may_act().then(creation));
    Ok(screen.answer())
}

/// How an endpoint does.
fn state_of(endpoint: &Endpoint) -> Cell {
    let tone = match endpoint.status {
        "enabled" => Tone::Good,
        "failing" => Tone::Warn,
        _ => Tone::Bad,
    };
    Cell::Badge(tone, endpoint.status.to_owned())
}

fn types_of(endpoint: &Endpoint) -> Cell {
    match endpoint.types.is_empty() {
        true => Cell::text("all"),
        false => Cell::text(endpoint.types.join(", ")),
    }
}

fn row(endpoint: &Endpoint, names: &Names) -> Vec<Cell> {
    vec![
        Cell::link(page_of(endpoint.id), &endpoint.url),
        state_of(endpoint),
        types_of(endpoint),
        match endpoint.organization_id {
            Some(id) => names.link(id),
            None => Cell::text("all"),
        },
        Cell::maybe(endpoint.description.as_deref(), Cell::text),
        Cell::time(endpoint.created_at),
    ]
}

fn creation() -> Block {
    Block::Form(Form {
        title: "Create an endpoint".to_owned(),
        text: "It gets what happens from now on. Its secret is shown once, on the page that \
                   follows."
            .to_owned(),
        action: PATH.to_owned(),
        buttons: vec![button("create", "Create it", Tone::Main)],
        fields: vec![
            Field::text("url", "Address", None, "https://app.example.com/events"),
            Field::text(
                "types",
                "Types; empty: all",
                None,
                "plan.changed, invoice.paid",
            ),
            Field::text("org", "Only of organization", None, "id or external id"),
            Field::text("description", "What it is for", None, ""),
        ],
        ..Form::default()
    })
}

pub async fn create(
    State(console): State<Arc<Console>>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    if fields.get("do") != Some("create") {
        return Err(unknown_act().into());
    }
    let types = fields.get("types").unwrap_or_default();
    let types = types.split([',', ' ']).filter(|name| !name.is_empty());
    let new = NewEndpoint {
        url: fields.get("url").unwrap_or_default().trim().to_owned(),
        description: fields.get("description").map(str::to_owned),
        types: types.map(str::to_owned).collect(),
        organization_id: organizations::named(&console, fields.get("org")).await?,
    };
    let (pool, allowed) = (&console.shared.pool, &console.events.config.allowed);
    let by = by(signed.operator.clone());
    let made = endpoints::create(pool, new, Kind::Operator, allowed, &by)
        .await
        .map_err(Problem::from)?;
    Ok(shown_once(&signed, "Endpoint created", &made))
}

/// An endpoint with its secret: the answer is kept nowhere.
fn shown_once(signed: &Signed, title: &str, made: &WithSecret) -> Response {
    let endpoint = &made.endpoint;
    Screen::new(signed, PATH, title)
        .above(&page_of(endpoint.id), &endpoint.url)
        .with(notice(
            Tone::Warn,
            "Copy the secret now",
            "It is shown this once. Whoever has it can sign as this service.",
        ))
        .with(Block::Facts {
            title: "The endpoint".to_owned(),
            rows: vec![
                ("Secret", Cell::Code(made.secret.clone())),
                ("Address", Cell::text(&endpoint.url)),
                ("Types", types_of(endpoint)),
            ],
        })
        .answer()
}
