//! `/api/operator/bulk-actions`: what is done with all events that match, in the background.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{OperatorState, enter};
use crate::server::extract::{self, Path, Query};
use crate::server::pagination::page::{Limit, ListQuery, Listed, Page};
use crate::server::problem::Problem;
use crate::tenancy::auth::Operator;
use crate::webhooks::bulk::{self, Act, BulkAction, BulkError, By, Counted, Filter};

/// A page of bulk actions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BulkList {
    #[serde(default)]
    #[param(inline)]
    pub limit: Limit,
    /// `nextCursor` of the previous page.
    pub cursor: Option<String>,
}

impl ListQuery for BulkList {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

impl Listed for BulkAction {
    type Position = Uuid;

    fn position(&self) -> Uuid {
        self.id
    }
}

impl From<BulkError> for Problem {
    fn from(error: BulkError) -> Self {
        let (status, code) = match error {
            BulkError::NotFor { .. } => (StatusCode::BAD_REQUEST, "invalid_request"),
            BulkError::NoneMatch => (StatusCode::UNPROCESSABLE_ENTITY, "none_match"),
            BulkError::TooMany => (StatusCode::UNPROCESSABLE_ENTITY, "too_many_match"),
            BulkError::TooManyOpen => (StatusCode::CONFLICT, "bulk_actions_open"),
            BulkError::Ended(_) => (StatusCode::CONFLICT, "bulk_action_ended"),
            BulkError::Unknown => return Self::not_found(error.to_string()),
            BulkError::Database(error) => return error.into(),
        };
        Self::new(status, code, error.to_string())
    }
}

impl OperatorState {
    /// How many events match, and the first of them. The look is in the audit log.
    pub async fn matching(
        &self,
        operator: &Operator,
        act: Act,
        filter: &Filter,
    ) -> Result<Counted, Problem> {
        let counted = bulk::count(&self.shared.pool, act, filter).await?;
        let mut entry = operator.did(bulk::LISTED, None, "webhook_event", "all".to_owned());
        entry.metadata = json!({"operator": true, "action": act, "filters": filter});
        enter(self.begin().await?, entry).await?;
        Ok(counted)
    }

    pub async fn bulk_actions(
        &self,
        operator: &Operator,
        query: &BulkList,
    ) -> Result<Page<BulkAction>, Problem> {
        let shared = &self.shared;
        let page = shared.page(Uuid::nil(), "bulk-actions", query).await?;
        let mut tx = self.begin().await?;
        let rows = bulk::list(tx.conn(), page.after, page.rows()).await?;
        let all = "all".to_owned();
        enter(tx, operator.did(bulk::LISTED, None, "bulk_action", all)).await?;
        Ok(page.of(rows))
    }

    pub async fn bulk_action(&self, operator: &Operator, id: Uuid) -> Result<BulkAction, Problem> {
        let mut tx = self.begin().await?;
        let found = bulk::get(tx.conn(), id).await?;
        let found = found.ok_or(BulkError::Unknown)?;
        let entry = operator.did(bulk::SHOWN, None, "bulk_action", id.to_string());
        enter(tx, entry).await?;
        Ok(found)
    }

    /// How far one is, without an entry: numbers, for whoever has its page open.
    pub async fn bulk_progress(&self, id: Uuid) -> Result<BulkAction, Problem> {
        let mut tx = self.begin().await?;
        let found = bulk::get(tx.conn(), id).await?;
        tx.commit().await?;
        Ok(found.ok_or(BulkError::Unknown)?)
    }

    pub async fn start_bulk(
        &self,
        operator: &Operator,
        act: Act,
        filter: &Filter,
        through: Option<Timestamp>,
    ) -> Result<BulkAction, Problem> {
        let by = By::Operator(operator);
        Ok(bulk::start(&self.shared.pool, act, filter, through, by).await?)
    }

    pub async fn stop_bulk(&self, operator: &Operator, id: Uuid) -> Result<BulkAction, Problem> {
        Ok(bulk::stop(&self.shared.pool, id, By::Operator(operator)).await?)
    }
}

/// List bulk actions, newest first
#[utoipa::path(
    get,
    path = "/api/operator/bulk-actions",
    operation_id = "listBulkActions",
    tag = "Operators",
    params(BulkList),
    responses((status = 200, description = "A page of bulk actions.", body = Page<BulkAction>)),
)]
pub async fn list(
    State(state): State<OperatorState>,
    operator: Operator,
    Query(query): Query<BulkList>,
) -> Result<Json<Page<BulkAction>>, Problem> {
    state.bulk_actions(&operator, &query).await.map(Json)
}

/// What to do with which events.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = NewBulkAction)]
pub struct Wanted {
    #[schema(inline)]
    action: Act,
    #[serde(default)]
    filter: Filter,
    /// Of the count: what came later is left alone.
    #[schema(value_type = Option<String>, format = DateTime)]
    through: Option<Timestamp>,
}

/// Begin a bulk action
///
/// The events that match are counted, and done one after another in the background, the oldest
/// first. Those that fail keep their state; one stopped keeps what was done. At most 100,000
/// events may match.
#[utoipa::path(
    post,
    path = "/api/operator/bulk-actions",
    operation_id = "startBulkAction",
    tag = "Operators",
    request_body = Wanted,
    responses((status = 202, description = "It is entered.", body = BulkAction)),
)]
pub async fn start(
    State(state): State<OperatorState>,
    operator: Operator,
    extract::Json(wanted): extract::Json<Wanted>,
) -> Result<(StatusCode, Json<BulkAction>), Problem> {
    let (act, filter) = (wanted.action, &wanted.filter);
    let begun = state
        .start_bulk(&operator, act, filter, wanted.through)
        .await?;
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct MatchingQuery {
    #[param(inline)]
    action: Act,
    /// Such as `invoice.finalized`.
    r#type: Option<String>,
    organization_id: Option<Uuid>,
    /// Of dead letters: an error, whose ids do not count.
    reason: Option<String>,
    /// Of processed events: those received from this time on.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Of processed events: those received before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// Count what a bulk action would be about
#[utoipa::path(
    get,
    path = "/api/operator/bulk-actions/matching",
    operation_id = "countBulkAction",
    tag = "Operators",
    params(MatchingQuery),
    responses((status = 200, description = "How many match, and the oldest of them.", body = Counted)),
)]
pub async fn matching(
    State(state): State<OperatorState>,
    operator: Operator,
    Query(query): Query<MatchingQuery>,
) -> Result<Json<Counted>, Problem> {
    let filter = Filter {
        r#type: query.r#type,
        organization_id: query.organization_id,
        reason: query.reason,
        since: query.since,
        until: query.until,
    };
    let counted = state.matching(&operator, query.action, &filter).await;
    counted.map(Json)
}

/// Get a bulk action: how far it is
#[utoipa::path(
    get,
    path = "/api/operator/bulk-actions/{bulkAction}",
    operation_id = "getBulkAction",
    tag = "Operators",
    params(("bulkAction" = Uuid, Path, description = "Its id.")),
    responses((status = 200, description = "How far it is.", body = BulkAction)),
)]
pub async fn show(
    State(state): State<OperatorState>,
    operator: Operator,
    Path(id): Path<Uuid>,
) -> Result<Json<BulkAction>, Problem> {
    state.bulk_action(&operator, id).await.map(Json)
}

/// Stop a bulk action
///
/// What was done stays done, and nothing more is done.
#[utoipa::path(
    post,
    path = "/api/operator/bulk-actions/{bulkAction}/stop",
    operation_id = "stopBulkAction",
    tag = "Operators",
    params(("bulkAction" = Uuid, Path, description = "Its id.")),
    responses((status = 200, description = "It is stopped.", body = BulkAction)),
)]
pub async fn stop(
    State(state): State<OperatorState>,
    operator: Operator,
    Path(id): Path<Uuid>,
) -> Result<Json<BulkAction>, Problem> {
    state.stop_bulk(&operator, id).await.map(Json)
}
