//! `GET /api/billing/audit-log`: in pages, or all of it as CSV.

mod concealed;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::audit::{ActorFilter, Entry, Filter, Position, csv as lines, list};
use crate::server::Shared;
use crate::server::extract::{self, Query};
use crate::server::layers::media::{self, Wanted};
use crate::server::pagination::page::{Limit, ListQuery, Listed, Page};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, Share, tenant};
use crate::tenancy::auth::{Permission, Principal};

/// Entries that an export reads at a time.
const ENTRIES_AT_ONCE: i64 = 500;

pub fn routes() -> Routes<Shared> {
    let rules = tenant(Permission::BillingRead).share(Share::Exports);
    Routes::new().route(routes!(audit_log), rules)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// For example `plan_changed`.
    action: Option<String>,
    /// `user`, `system`, `webhook`, `api_key`, or the id of a user or key.
    actor: Option<String>,
    /// For example `subscription`.
    resource_type: Option<String>,
    /// From this time on.
    #[serde(default, deserialize_with = "extract::time")]
    from: Option<Timestamp>,
    /// Before this time.
    #[serde(default, deserialize_with = "extract::time")]
    to: Option<Timestamp>,
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
}

impl ListQuery for AuditQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        let texts = (&self.action, &self.actor, &self.resource_type);
        json!((texts, self.from, self.to))
    }
}

impl Listed for Entry {
    type Position = Position;

    fn position(&self) -> Position {
        Self::position(self)
    }
}

impl AuditQuery {
    /// All of the log, from where a page of it ended.
    pub fn after(cursor: Option<String>) -> Self {
        Self {
            cursor,
            ..Self::default()
        }
    }

    fn filter(&self, organization_id: Uuid) -> Filter {
        let actor = self.actor.as_ref().map(|actor| match actor.parse() {
            Ok(id) => ActorFilter::Id(id),
            Err(_) => ActorFilter::Kind(actor.clone()),
        });
        Filter {
            organization_id: Some(organization_id),
            action: self.action.clone(),
            actor,
            resource_type: self.resource_type.clone(),
            from: self.from,
            to: self.to,
            before: None,
        }
    }
}

/// The audit log, newest first
///
/// `ipAddress`, `userAgent` and e-mail addresses are shown to callers with the permission
/// `billing.audit` only. With `Accept: text/csv`, the response has all matching entries, unpaged.
#[utoipa::path(
    get,
    path = "/api/billing/audit-log",
    operation_id = "listAuditLog",
    tag = "Audit",
    params(AuditQuery),
    responses((status = 200, description = "A page of entries, or all of them as CSV.",
               content((Page<Entry> = "application/json"), (String = "text/csv")))),
)]
async fn audit_log(
    State(shared): State<Shared>,
    caller: Principal,
    Query(query): Query<AuditQuery>,
    wanted: Option<Extension<Wanted>>,
) -> Result<Response, Problem> {
    if wanted.is_some_and(|Extension(wanted)| wanted.is(media::CSV)) {
        let filter = query.filter(caller.organization_id);
        return Ok(export(shared, &caller, filter));
    }
    let page = page(&shared, &caller, &query).await?;
    Ok(Json(page).into_response())
}

/// A page of what the caller may see of their organization's log, newest first.
pub async fn page(
    shared: &Shared,
    caller: &Principal,
    query: &AuditQuery,
) -> Result<Page<Entry>, Problem> {
    let organization = caller.organization_id;
    let mut filter = query.filter(organization);
    let mut page = shared.page(organization, "audit-log", query).await?;
    filter.before = page.after.take();
    let mut tx = shared.read(organization).await?;
    let rows = Shows::to(caller).list(tx.conn(), &filter, page.rows());
    Ok(page.of(rows.await?))
}

/// How much of each entry a caller may see.
#[derive(Clone, Copy)]
enum Shows {
    All,
    /// Without network and e-mail addresses.
    Concealed,
}

impl Shows {
    fn to(caller: &Principal) -> Self {
        if caller.may(Permission::BillingAudit) {
            Self::All
        } else {
            Self::Concealed
        }
    }

    async fn list(
        self,
        conn: &mut PgConnection,
        filter: &Filter,
        limit: i64,
    ) -> Result<Vec<Entry>, sqlx::Error> {
        let mut entries = list(conn, filter, limit).await?;
        if matches!(self, Self::Concealed) {
            entries.iter_mut().for_each(concealed::conceal);
        }
        Ok(entries)
    }
}

/// All that the caller may see of their organization's log, as CSV.
pub fn csv(shared: &Shared, caller: &Principal) -> Response {
    let filter = AuditQuery::default().filter(caller.organization_id);
    export(shared.clone(), caller, filter)
}

/// Streams entries as fast as the client reads. Each part is read in its own
/// transaction, so that a slow client holds none open.
fn export(shared: Shared, caller: &Principal, filter: Filter) -> Response {
    let (organization, shows) = (caller.organization_id, Shows::to(caller));
    let headings = format!("{}\r\n", lines::HEADINGS.join(","));
    let rest = stream::try_unfold(Some(filter), move |filter| {
        let shared = shared.clone();
        async move {
            let Some(mut filter) = filter else {
                return Ok(None);
            };
            let mut tx = shared.read(organization).await.map_err(|_| Interrupted)?;
            let entries = shows.list(tx.conn(), &filter, ENTRIES_AT_ONCE).await;
            let entries = entries.map_err(|error| {
                tracing::warn!(%error, "an export of the audit log was cut off");
                Interrupted
            })?;
            let text: String = entries
                .iter()
                .map(|entry| format!("{}\r\n", lines::line(entry)))
                .collect();
            let next = entries.last().map(|last| {
                filter.before = Some(last.position());
                filter
            });
            Ok(Some((text, next)))
        }
    });
    let text = stream::once(async { Ok::<_, Interrupted>(headings) }).chain(rest);
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"audit-log.csv\"",
        ),
    ];
    (headers, Body::from_stream(text)).into_response()
}

/// Breaks the connection of an export that cannot be completed.
#[derive(Debug, thiserror::Error)]
#[error("the export was cut off")]
struct Interrupted;
