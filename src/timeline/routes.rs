//! `/api/operator/organizations/{organization}/timeline`

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{Happened, Kind, LISTED, Position, page};
use crate::audit;
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Limit, ListQuery, Listed, Page};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};
use crate::tenancy::auth::Operator;
use crate::tenancy::organizations;

pub fn routes() -> Routes<Shared> {
    Routes::new().route(routes!(list), operator())
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TimelineQuery {
    /// Of one kind alone.
    #[param(inline)]
    pub kind: Option<Kind>,
    #[serde(default)]
    #[param(inline)]
    pub limit: Limit,
    /// `nextCursor` of the previous page.
    pub cursor: Option<String>,
}

impl ListQuery for TimelineQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!(self.kind)
    }
}

impl Listed for Happened {
    type Position = Position;

    fn position(&self) -> Position {
        Self::position(self)
    }
}

/// What happened to an organization, newest first
///
/// Entries of its audit log, Stripe's events, those that became dead letters, requests to Stripe, and
/// deliveries of events out.
#[utoipa::path(
    get,
    path = "/api/operator/organizations/{organization}/timeline",
    operation_id = "listTimeline",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id."), TimelineQuery),
    responses((status = 200, description = "A page of what happened.", body = Page<Happened>)),
)]
async fn list(
    State(shared): State<Shared>,
    operator: Operator,
    Path(organization): Path<Uuid>,
    Query(query): Query<TimelineQuery>,
) -> Result<Json<Page<Happened>>, Problem> {
    of(&shared, &operator, organization, &query).await.map(Json)
}

/// A page of what happened to an organization; the look is in its audit log.
pub async fn of(
    shared: &Shared,
    operator: &Operator,
    organization: Uuid,
    query: &TimelineQuery,
) -> Result<Page<Happened>, Problem> {
    let asked = shared.page(organization, "timeline", query).await?;
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let known = organizations::find(tx.conn(), &organization.to_string()).await?;
    if known.is_none() {
        return Err(Problem::not_found("There is no such organization."));
    }
    let before = asked.after.as_ref();
    let rows = page(tx.conn(), organization, query.kind, before, asked.rows()).await?;
    let mut entry = operator.did(LISTED, Some(organization), "timeline", "all".to_owned());
    entry.metadata = json!({"operator": true, "filters": query.filters()});
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(asked.of(rows))
}
