//! The audit log of all organizations, and whether a chain holds.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::organizations::Names;
use super::query::{address, filled};
use super::screen::{Block, Cell, Field, Filter, Form, Grid, Refusal, Screen, Tone, grouped};
use super::session::{Acting, Posted, Signed};
use super::webhooks::{button, notice, unknown_act};
use super::{Console, organizations};
use crate::audit::{self, ActorFilter, Entry, Report};
use crate::db::WorkerTx;
use crate::server::extract::Query;
use crate::server::pagination::page::{Limit, ListQuery};
use crate::server::problem::Problem;

pub const PATH: &str = "/console/audit-log";
pub const VERIFY: &str = "/console/audit-log/verification";
/// The audit actions for an operator who read the log, or had a chain verified.
pub const LISTED: &str = "audit_log_listed";
pub const VERIFIED: &str = "audit_log_verified";

/// How far back all organizations' entries are shown unless it is said.
const RECENT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The longest chain that is verified while a page waits.
const AT_ONCE: i64 = 100_000;

/// The filter, as it is in the page's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    #[serde(default, deserialize_with = "filled")]
    org: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    action: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    actor: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    resource: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    since: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    until: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

impl ListQuery for LogFilter {
    fn limit(&self) -> Limit {
        Limit::default()
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        let who = (&self.org, &self.actor);
        json!((who, &self.action, &self.resource, &self.since, &self.until))
    }
}

impl LogFilter {
    fn fields(&self) -> [(&'static str, &'static str, Option<&str>, &'static str); 6] {
        [
            (
                "org",
                "Organization",
                self.org.as_deref(),
                "id or external id",
            ),
            ("action", "Action", self.action.as_deref(), "plan_changed"),
            (
                "actor",
                "Actor",
                self.actor.as_deref(),
                "user, system, webhook, or an id",
            ),
            (
                "resource",
                "Type of resource",
                self.resource.as_deref(),
                "subscription",
            ),
            (
                "since",
                "Since",
                self.since.as_deref(),
                "2026-01-31T12:00:00Z",
            ),
            (
                "until",
                "Before",
                self.until.as_deref(),
                "2026-02-01T00:00:00Z",
            ),
        ]
    }

    fn block(&self) -> Block {
        let fields = self.fields().into_iter();
        Block::Filter(Filter {
            action: PATH,
            label: "Find entries",
            submit: "Find",
            fields: fields
                .map(|(name, label, value, example)| Field::text(name, label, value, example))
                .collect(),
        })
    }

    fn filter(&self, organization: Option<Uuid>) -> Result<audit::Filter, Problem> {
        let to = time("Before", self.until.as_deref())?;
        let from = time("Since", self.since.as_deref())?;
        // Of all organizations at once, nothing is read from end to end.
        let recent = || to.unwrap_or_else(Timestamp::now) - RECENT;
        let from = from.or_else(|| organization.is_none().then(recent));
        Ok(audit::Filter {
            organization_id: organization,
            action: self.action.clone(),
            actor: self.actor.as_ref().map(|actor| match actor.parse() {
                Ok(id) => ActorFilter::Id(id),
                Err(_) => ActorFilter::Kind(actor.clone()),
            }),
            resource_type: self.resource.clone(),
            from,
            to,
            before: None,
        })
    }

    fn next(&self, cursor: &str) -> String {
        let fields = self.fields().into_iter();
        let mut fields: Vec<_> = fields.map(|(name, _, value, _)| (name, value)).collect();
        fields.push(("cursor", Some(cursor)));
        address(PATH, &fields)
    }
}

fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid_query",
            format!("{name}: expected a time such as 2026-01-31T12:00:00Z"),
        )
    })
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<LogFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(log) = query?;
    let organization = organizations::named(&console, log.org.as_deref()).await?;
    let shared = &console.shared;
    let scope = organization.unwrap_or_default();
    let page = shared
        .page::<Entry>(scope, "console audit log", &log)
        .await?;
    let filter = audit::Filter {
        before: page.after,
        ..log.filter(organization)?
    };
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let rows = audit::list(tx.conn(), &filter, page.rows()).await?;
    let mut entry = did(&signed, LISTED, organization);
    entry.metadata = json!({"operator": true, "filters": log.filters()});
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    let page = page.of(rows);
    let ids = page.data.iter().map(|entry| entry.organization_id);
    let names = Names::of(&console, ids).await?;
    let grid = Grid {
        title: "Entries".to_owned(),
        note: Some(match organization.is_some() || log.since.is_some() {
            true => "Newest first. This look is the next entry.".to_owned(),
            false => {
                "Newest first, of the last seven days: name an organization, or since when, to \
                      see more. This look is the next entry."
                    .to_owned()
            }
        }),
        columns: vec![
            "When",
            "Action",
            "Who",
            "About",
            "Organization",
            "Before and after",
        ],
        rows: page.data.iter().map(|entry| row(entry, &names)).collect(),
        empty: "No entry matches.",
        next: page.next_cursor.map(|cursor| log.next(&cursor)),
    };
    let screen = Screen::new(&signed, PATH, "Audit log")
        .lead("Every change and every look of operators. Entries are appended, and never changed.")
        .with(log.block())
        .with_all(signed.may_act().then(|| verification(organization)))
        .with(Block::Grid(grid));
    Ok(screen.answer())
}

fn verification(organization: Option<Uuid>) -> Block {
    let whose = match organization {
        Some(_) => "Verify this organization's chain",
        None => "Verify the operators' own chain",
    };
    let of = organization.unwrap_or(audit::OPERATORS).to_string();
    Block::Form(Form {
        title: "Verification".to_owned(),
        text: "All chains are verified daily; the home page says how it went.".to_owned(),
        action: VERIFY.to_owned(),
        hidden: vec![("org", of)],
        buttons: vec![button("verify", whose, Tone::Plain)],
        ..Form::default()
    })
}

fn did(signed: &Signed, action: &'static str, organization: Option<Uuid>) -> audit::NewEntry {
    let of = organization.filter(|id| *id != audit::OPERATORS);
    signed
        .operator
        .did(action, of, "audit_log", "all".to_owned())
}

fn row(entry: &Entry, names: &Names) -> Vec<Cell> {
    let mut who = vec![Cell::text(&entry.actor_type)];
    let from = [entry.actor_id.map(|id| id.to_string())].into_iter();
    let from = from.chain([entry.ip_address.clone(), entry.user_agent.clone()]);
    let from: Vec<String> = from.flatten().collect();
    if !from.is_empty() {
        who.push(Cell::hidden("who and from where", from.join("\n")));
    }
    let mut about = vec![Cell::text(&entry.resource_type)];
    about.extend(entry.resource_id.as_ref().map(|id| Cell::Code(id.clone())));
    let states = [&entry.before_state, &entry.after_state];
    let states = states
        .into_iter()
        .flatten()
        .filter(|state| !state.is_null());
    let states: Vec<String> = states
        .map(|state| serde_json::to_string_pretty(state).unwrap_or_default())
        .collect();
    let mut changed = Vec::new();
    if !states.is_empty() {
        changed.push(Cell::hidden("before and after", states.join("\n→\n")));
    }
    changed.extend(entry.reason.as_deref().map(Cell::text));
    let organization = match entry.organization_id {
        audit::OPERATORS => Cell::text("operators"),
        id => names.link(id),
    };
    vec![
        Cell::exact(entry.created_at),
        Cell::text(&entry.action),
        Cell::Many(who),
        Cell::Many(about),
        organization,
        Cell::Many(changed),
    ]
}

pub async fn verify(
    State(console): State<Arc<Console>>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let named = organizations::named(&console, fields.get("org")).await?;
    let of = named.ok_or_else(unknown_act)?;
    // A walk holds a connection and a snapshot.
    let _only = console.verifying.try_acquire().map_err(|_| busy())?;
    let pool = &console.shared.pool;
    let report = audit::verify_now(pool, of, AT_ONCE).await?;
    let report = report.ok_or_else(|| too_long(of))?;
    let mut tx = WorkerTx::begin(pool).await?;
    let mut entry = did(&signed, VERIFIED, Some(of));
    entry.metadata = json!({"operator": true, "holds": report.holds()});
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(judged(&signed, of, &report).answer())
}

fn busy() -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_requests",
        "Another chain is being verified. Try again when it is done.",
    )
    .retry_after(10)
}

fn too_long(of: Uuid) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "chain_too_long",
        format!(
            "The chain has more than {} entries, which takes longer than a page may: run \
             valuecanvas-billing audit verify --organization {of}.",
            grouped(AT_ONCE)
        ),
    )
}

fn judged(signed: &Signed, of: Uuid, report: &Report) -> Screen {
    let verdict = match report.breaks.first() {
        None if report.entries == 0 => notice(
            Tone::Warn,
            "The chain is empty",
            "It has no entry, and proves nothing.",
        ),
        None => notice(
            Tone::Good,
            "The chain holds",
            &format!(
                "{} entries follow one another unchanged.",
                grouped(report.entries)
            ),
        ),
        Some(broken) => notice(
            Tone::Bad,
            &format!("The chain breaks at entry {}", broken.sequence),
            &format!("{} docs/runbook.md says what to do.", broken.problem),
        ),
    };
    let repaired = report.repaired.iter().map(|one| {
        vec![
            Cell::Number(one.sequence.to_string()),
            Cell::text(&one.problem),
        ]
    });
    let of = of.to_string();
    let personal =
        (report.stray_personal_data > 0 || report.entries_with_addresses > 0).then(|| {
            notice(
                Tone::Warn,
                "Personal data is not where it should be",
                "valuecanvas-billing audit verify says what was found, and what to do.",
            )
        });
    Screen::new(signed, PATH, "Verification")
        .above(&address(PATH, &[("org", Some(&of))]), "Its audit log")
        .with(verdict)
        .with_all(personal)
        .with(Block::Grid(Grid {
            title: "Breaks that were accepted".to_owned(),
            columns: vec!["Entry", "Problem"],
            rows: repaired.collect(),
            empty: "There are none.",
            ..Grid::default()
        }))
}
