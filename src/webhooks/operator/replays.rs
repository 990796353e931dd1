//! Replays dead letters, one or many.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::OperatorState;
use super::dead_letters::{is_dead, none_such};
use crate::server::extract::{self, Path};
use crate::server::pagination::page::{Limit, ListQuery, Page};
use crate::server::problem::Problem;
use crate::tenancy::auth::Operator;
use crate::webhooks::dead_letters::rehearsal::{self, Rehearsed};
use crate::webhooks::dead_letters::replay::{self, Replayed};
use crate::webhooks::inspect;
use crate::webhooks::{DeadLetterFilter, list_dead_letters};

/// The most events per request, so that it ends soon.
const MAX_REPLAYS: usize = 100;

/// A replayed event with its result.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayedEvent {
    pub event_id: String,
    #[serde(flatten)]
    pub result: Replayed,
}

/// Replay a dead letter
///
/// The event is applied again. If that fails, it stays a dead letter with one more attempt.
#[utoipa::path(
    post,
    path = "/api/operator/dead-letters/{id}/replay",
    operation_id = "replayDeadLetter",
    tag = "Operators",
    params(("id" = String, Path, description = "Stripe's id.", example = "evt_1")),
    responses((status = 200, description = "What came of it.", body = ReplayedEvent)),
)]
pub async fn one(
    State(state): State<OperatorState>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<ReplayedEvent>, Problem> {
    let mut tx = state.begin().await?;
    let found = inspect::show(tx.conn(), &id).await?;
    drop(tx);
    let letter = found.filter(is_dead).ok_or_else(none_such)?;
    state.replay(letter.event_id, &operator).await.map(Json)
}

impl OperatorState {
    /// Replays a dead letter or a processed event.
    pub async fn replay(
        &self,
        event_id: String,
        operator: &Operator,
    ) -> Result<ReplayedEvent, Problem> {
        let processor = self.processor.clone();
        let result = replay::replay_apart(processor, event_id.clone(), operator.clone()).await?;
        Ok(ReplayedEvent { event_id, result })
    }

    /// What a replay would come to; nothing is changed.
    pub async fn rehearse(
        &self,
        event_id: String,
        operator: &Operator,
    ) -> Result<Rehearsed, Problem> {
        let processor = self.processor.clone();
        Ok(rehearsal::rehearse_apart(processor, event_id, operator.clone()).await?)
    }
}

/// Rehearse the replay of a dead letter or a processed event
///
/// Its handler runs in a transaction that is rolled back. The answer has the rows that would be
/// added, changed or removed, and the entries of the audit log. It does not have what follows later:
/// events out, calls to Stripe, other events that are woken.
#[utoipa::path(
    post,
    path = "/api/operator/webhook-events/{id}/rehearse",
    operation_id = "rehearseWebhookEvent",
    tag = "Operators",
    params(("id" = String, Path, description = "Stripe's id.", example = "evt_1")),
    responses((status = 200, description = "What a replay would come to.", body = Rehearsed)),
)]
pub async fn rehearsal(
    State(state): State<OperatorState>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<Rehearsed>, Problem> {
    let rehearsed = state.rehearse(id, &operator).await?;
    match rehearsed.result {
        Replayed::Unknown => Err(Problem::not_found(
            "no such event; list the events to see which exist",
        )),
        _ => Ok(Json(rehearsed)),
    }
}

/// What to replay: the events named, or the oldest dead letters of a type.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selection {
    /// At most 100 dead letters or processed events; without them, a page of all dead letters.
    #[schema(max_items = 100, min_items = 1)]
    event_ids: Option<Vec<String>>,
    /// Such as `invoice.finalized`.
    r#type: Option<String>,
    #[serde(default)]
    #[schema(inline)]
    limit: Limit,
    /// `nextCursor` of the previous replay.
    cursor: Option<String>,
}

impl ListQuery for Selection {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        self.r#type.as_deref().into()
    }
}

/// Replay many dead letters
///
/// Each one separately: a failure does not affect the others. Continue with `nextCursor` until it
/// is null.
#[utoipa::path(
    post,
    path = "/api/operator/dead-letters/replay",
    operation_id = "replayDeadLetters",
    tag = "Operators",
    request_body = Selection,
    responses((status = 200, description = "What came of each.", body = Page<ReplayedEvent>)),
)]
pub async fn many(
    State(state): State<OperatorState>,
    operator: Operator,
    extract::Json(selection): extract::Json<Selection>,
) -> Result<Json<Page<ReplayedEvent>>, Problem> {
    let chosen = select(&state, selection).await?;
    let mut data = Vec::with_capacity(chosen.data.len());
    for event_id in chosen.data {
        data.push(state.replay(event_id, &operator).await?);
    }
    let next_cursor = chosen.next_cursor;
    Ok(Json(Page { data, next_cursor }))
}

async fn select(state: &OperatorState, selection: Selection) -> Result<Page<String>, Problem> {
    if let Some(ids) = selection.event_ids {
        let alone = selection.r#type.is_none() && selection.cursor.is_none();
        if !alone || ids.is_empty() || ids.len() > MAX_REPLAYS {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                format!("eventIds: expected 1 to {MAX_REPLAYS} events, without type and cursor"),
            ));
        }
        return Ok(Page {
            data: ids,
            next_cursor: None,
        });
    }
    let shared = &state.shared;
    let page = shared.page(Uuid::nil(), "dead-letters/replay", &selection);
    let mut page = page.await?;
    let filter = DeadLetterFilter {
        after: page.after.take(),
        event_type: selection.r#type,
        organization_id: None,
        reason: None,
        ..DeadLetterFilter::default()
    };
    let mut tx = state.begin().await?;
    let rows = list_dead_letters(tx.conn(), &filter, page.rows()).await?;
    Ok(page.of(rows).map(|letter| letter.event_id))
}
