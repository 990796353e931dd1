//! Sessions as a table: where each is from, how it was begun, and its end.

use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::operators;
use super::query::{address, filled};
use super::screen::entry::RowForm;
use super::screen::{Block, Cell, Grid, Screen, Tone};
use super::session::Signed;
use super::webhooks::notice;
use crate::server::pagination::page::{Limit, ListQuery, Page};
use crate::tenancy::auth::OpenSession;

/// Where a list of sessions goes on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionQuery {
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

impl ListQuery for SessionQuery {
    fn limit(&self) -> Limit {
        Limit::default()
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

/// How somebody signed in, for people.
fn way_of(session: &OpenSession) -> String {
    match (session.signed_in_by, &session.issuer) {
        ("second_factor", _) => "password and code".to_owned(),
        ("oidc", Some(issuer)) => format!("identity provider {issuer}"),
        ("oidc", None) => "identity provider".to_owned(),
        _ => "password".to_owned(),
    }
}

/// A table of the sessions of the page at `path`, with a button to end each for who may.
pub fn sessions(
    open: Page<OpenSession>,
    own: Option<Uuid>,
    (path, ends): (&str, Option<&Signed>),
) -> Block {
    let row = |session: &OpenSession| {
        let device = session.user_agent.as_deref().unwrap_or("unknown");
        let address = session.ip_address.as_deref().unwrap_or("unknown");
        let end = ends.filter(|_| own != Some(session.id));
        let last = match end {
            Some(signed) => Cell::Act(RowForm {
                action: path.to_owned(),
                csrf: signed.session.form_token(),
                hidden: vec![("session", session.id.to_string())],
                value: "end-session",
                label: "End",
                about: format!("the session of {device} from {address}"),
                tone: Tone::Plain,
            }),
            None if own == Some(session.id) => Cell::Badge(Tone::Good, "this one".to_owned()),
            None => Cell::None,
        };
        vec![
            Cell::text(device),
            Cell::text(address),
            Cell::text(way_of(session)),
            Cell::time(session.created_at),
            Cell::time(session.last_used_at),
            last,
        ]
    };
    Block::Grid(Grid {
        title: "Sessions".to_owned(),
        note: Some("A session ends after two hours without use, and after a day.".to_owned()),
        columns: vec![
            "Device",
            "Address",
            "Signed in by",
            "Signed in",
            "Last seen",
            "To end it",
        ],
        rows: open.data.iter().map(row).collect(),
        empty: "There are none.",
        next: open
            .next_cursor
            .map(|cursor| address(path, &[("cursor", Some(&*cursor))])),
    })
}

/// What a button says that came too late.
pub fn ended_already(signed: &Signed, back: &str) -> Response {
    let said = notice(
        Tone::Warn,
        "It had ended",
        "There is no such session any more; nothing was done.",
    );
    Screen::new(signed, operators::PATH, "Sessions")
        .above(back, "Sessions")
        .with(said)
        .answer()
}
