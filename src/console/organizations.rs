//! Organizations: found by id, external id, name, e-mail address, or by a Stripe customer or
//! subscription.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Console;
use super::query::{address, filled};
use super::screen::{Block, Cell, Field, Filter, Grid, Refusal, Screen, Tone};
use super::session::Signed;
use crate::audit;
use crate::db::WorkerTx;
use crate::server::extract::Query;
use crate::server::pagination::page::{Limit, ListQuery};
use crate::server::problem::Problem;
use crate::tenancy::organizations::{self, LISTED, Organization};

pub const PATH: &str = "/console/organizations";

/// The search, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    #[serde(default, deserialize_with = "filled")]
    query: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

impl ListQuery for Search {
    fn limit(&self) -> Limit {
        Limit::default()
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!(self.query)
    }
}

/// The names of the organizations that a page mentions.
pub struct Names(HashMap<Uuid, String>);

impl Names {
    pub async fn of(
        console: &Console,
        ids: impl IntoIterator<Item = Uuid>,
    ) -> Result<Self, Problem> {
        let ids: BTreeSet<Uuid> = ids.into_iter().collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let mut tx = WorkerTx::begin(&console.shared.pool).await?;
        let names = organizations::names(tx.conn(), &ids).await?;
        tx.commit().await?;
        Ok(Self(names))
    }

    /// A link to the organization's page.
    pub fn link(&self, id: Uuid) -> Cell {
        let name = self.0.get(&id);
        Cell::link(page_of(id), name.cloned().unwrap_or_else(|| id.to_string()))
    }
}

/// The page of an organization.
pub fn page_of(id: Uuid) -> String {
    format!("{PATH}/{id}")
}

/// The organization of a filter's id or external id.
pub async fn named(console: &Console, name: Option<&str>) -> Result<Option<Uuid>, Problem> {
    let Some(name) = name else { return Ok(None) };
    let mut tx = WorkerTx::begin(&console.shared.pool).await?;
    let found = organizations::find_logged(tx.conn(), name).await?;
    tx.commit().await?;
    let missing = || Problem::not_found(format!("There is no organization {name}."));
    found.map(Some).ok_or_else(missing)
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<Search>, Problem>,
) -> Result<Response, Refusal> {
    let Query(search) = query?;
    let shared = &console.shared;
    let page = shared
        .page(Uuid::nil(), "console organizations", &search)
        .await?;
    let text = search.query.as_deref();
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let rows = organizations::search(tx.conn(), text, page.after, page.rows()).await?;
    let entry = signed
        .operator
        .did(LISTED, None, "organization", "all".to_owned());
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    let page = page.of(rows);
    let next = page
        .next_cursor
        .map(|cursor| address(PATH, &[("query", text), ("cursor", Some(cursor.as_str()))]));
    let screen = Screen::new(&signed, PATH, "Organizations")
        .lead("A name, an external id or an address is found by its beginning; ids are exact.")
        .with(Block::Filter(Filter {
            action: PATH,
            label: "Find organizations",
            submit: "Find",
            fields: vec![Field::text(
                "query",
                "Name, external id, e-mail, cus_…, sub_… or id",
                text,
                "Acme",
            )],
        }))
        .with(Block::Grid(Grid {
            title: "Organizations".to_owned(),
            note: Some("Oldest first.".to_owned()),
            columns: vec!["Name", "Plan", "External id", "E-mail", "Customer", "Since"],
            rows: page.data.iter().map(row).collect(),
            empty: "No organization matches.",
            next,
        }));
    Ok(screen.answer())
}

fn row(organization: &Organization) -> Vec<Cell> {
    let name = Cell::link(page_of(organization.id), &organization.name);
    let archived = organization
        .archived_at
        .map(|_| Cell::Badge(Tone::Warn, "archived".to_owned()));
    vec![
        Cell::Many([name].into_iter().chain(archived).collect()),
        Cell::text(&organization.plan_tier),
        Cell::maybe(organization.external_id.as_deref(), Cell::text),
        Cell::maybe(organization.email.as_deref(), Cell::text),
        Cell::maybe(organization.stripe_customer_id.as_deref(), Cell::text),
        Cell::time(organization.created_at),
    ]
}
