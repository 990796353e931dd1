//! Who did what, as the API's audit log shows it to this visitor.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::Portal;
use super::look::Around;
use super::text::{minute, words};
use super::visitor::Signed;
use crate::audit::{Actor, Entry};
use crate::pages::query::address;
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::tenancy::audit_log::{self, AuditQuery};

pub const PATH: &str = "/portal/activity";
pub const CSV: &str = "/portal/activity.csv";

#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Template)]
#[template(path = "portal/audit_log.html")]
struct Log {
    around: Around,
    rows: Vec<Row>,
    next: Option<String>,
    csv: &'static str,
}

struct Row {
    at: String,
    exact: String,
    what: String,
    about: String,
    id: String,
    by: &'static str,
    from: String,
}

pub async fn list(
    State(portal): State<Arc<Portal>>,
    signed: Signed,
    Query(asked): Query<Asked>,
) -> Response {
    let page = listed(&portal, &signed, asked).await;
    portal.shown(&signed, page)
}

/// All of it, for spreadsheets.
pub async fn csv(State(portal): State<Arc<Portal>>, signed: Signed) -> Response {
    audit_log::csv(&portal.shared, &signed.principal)
}

async fn listed(portal: &Portal, signed: &Signed, asked: Asked) -> Result<Response, Problem> {
    let query = AuditQuery::after(asked.cursor);
    let page = audit_log::page(&portal.shared, &signed.principal, &query).await?;
    let state = portal.state(signed).await?;
    let own = signed.principal.actor;
    let next = page.next_cursor.as_deref();
    let log = Log {
        around: signed.around(portal, &state, PATH, "Activity"),
        rows: page.data.iter().map(|entry| Row::of(entry, own)).collect(),
        next: next.map(|cursor| address(PATH, &[("cursor", Some(cursor))])),
        csv: CSV,
    };
    Ok(portal.look.answer(StatusCode::OK, &log))
}

impl Row {
    fn of(entry: &Entry, own: Actor) -> Self {
        let is_own = matches!(own, Actor::User(id) if entry.actor_id == Some(id));
        let by_operator = entry
            .metadata
            .as_ref()
            .is_some_and(|m| m["operator"] == true);
        let by = match entry.actor_type.as_str() {
            "user" if is_own => "You",
            "user" if by_operator => "Our support",
            "user" => "A user",
            "api_key" => "The product",
            "webhook" => "The payment service",
            _ => "The billing system",
        };
        Self {
            at: minute(entry.created_at),
            exact: entry.created_at.to_string(),
            what: words(&entry.action),
            about: words(&entry.resource_type),
            id: entry.resource_id.clone().unwrap_or_default(),
            by,
            from: entry.ip_address.clone().unwrap_or_default(),
        }
    }
}
