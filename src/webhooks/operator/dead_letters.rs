//! `/api/operator/dead-letters`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{OperatorState, Position, enter};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Limit, Page};
use crate::server::problem::Problem;
use crate::tenancy::auth::Operator;
use crate::webhooks::inspect::{DeadLetter, Details};
use crate::webhooks::{self, DEAD_LETTERS_LISTED, DeadLetterFilter, list_dead_letters};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct LettersQuery {
    /// Such as `invoice.finalized`.
    r#type: Option<String>,
    organization_id: Option<Uuid>,
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
}

/// List dead letters, oldest first
#[utoipa::path(
    get,
    path = "/api/operator/dead-letters",
    operation_id = "listDeadLetters",
    tag = "Operators",
    params(LettersQuery),
    responses((status = 200, description = "A page of dead letters.", body = Page<DeadLetter>)),
)]
pub async fn list(
    State(state): State<OperatorState>,
    operator: Operator,
    Query(query): Query<LettersQuery>,
) -> Result<Json<Page<DeadLetter>>, Problem> {
    let lists = &state.shared.cursors;
    let filters = json!({"type": query.r#type, "organizationId": query.organization_id});
    let cursors = lists.of(Uuid::nil(), "dead-letters", &filters).await?;
    let mut entry = operator.did(DEAD_LETTERS_LISTED, None, "webhook_event", "all".to_owned());
    entry.metadata = json!({"operator": true, "filters": filters});
    let filter = DeadLetterFilter {
        after: cursors.place::<Position>(query.cursor.as_deref())?,
        event_type: query.r#type,
        organization_id: query.organization_id,
    };
    let mut tx = state.begin().await?;
    let rows = list_dead_letters(tx.conn(), &filter, query.limit.rows()).await?;
    enter(tx, entry).await?;
    let place = |letter: &DeadLetter| (letter.dead_lettered_at, letter.event_id.clone());
    Ok(Json(Page::of(rows, query.limit, &cursors, place)))
}

pub fn is_dead(event: &Details) -> bool {
    event.state == "dead_letter"
}

pub fn none_such() -> Problem {
    Problem::not_found("no such dead letter; it may have been replayed or discarded")
}

/// Get a dead letter with its payload and each failed attempt
#[utoipa::path(
    get,
    path = "/api/operator/dead-letters/{id}",
    operation_id = "getDeadLetter",
    tag = "Operators",
    params(("id" = String, Path, description = "Stripe's id.", example = "evt_1")),
    responses((status = 200, description = "All that is known of it.", body = Details)),
)]
pub async fn show(
    State(state): State<OperatorState>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<Details>, Problem> {
    let found = state.show(&operator, &id, is_dead).await?;
    found.map(Json).ok_or_else(none_such)
}

/// Discard a dead letter
///
/// It goes back to the event log as processed, with the outcome `discarded`, and changes nothing.
#[utoipa::path(
    delete,
    path = "/api/operator/dead-letters/{id}",
    operation_id = "discardDeadLetter",
    tag = "Operators",
    params(("id" = String, Path, description = "Stripe's id.", example = "evt_1")),
    responses((status = 204, description = "It is discarded.")),
)]
pub async fn discard(
    State(state): State<OperatorState>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    match webhooks::dead_letters::discard::discard(&state.shared.pool, &id, &operator).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(none_such()),
    }
}
