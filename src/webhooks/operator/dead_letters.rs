//! `/api/operator/dead-letters`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{OperatorState, Position, enter};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Limit, ListQuery, Listed, Page};
use crate::server::problem::Problem;
use crate::tenancy::auth::Operator;
use crate::webhooks::dead_letters::discard;
use crate::webhooks::dead_letters::reason::Reason;
use crate::webhooks::inspect::{DeadLetter, Details, EventState};
use crate::webhooks::{
    DEAD_LETTERS_LISTED, DeadLetterFilter, DeadLetterGroup, dead_letter_groups, list_dead_letters,
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct LettersQuery {
    /// Such as `invoice.finalized`.
    pub r#type: Option<String>,
    pub organization_id: Option<Uuid>,
    /// An error, whose ids do not count: those that failed for the same reason.
    pub reason: Option<String>,
    #[serde(default)]
    #[param(inline)]
    pub limit: Limit,
    /// `nextCursor` of the previous page.
    pub cursor: Option<String>,
}

impl ListQuery for LettersQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!({
            "type": self.r#type,
            "organizationId": self.organization_id,
            "reason": self.reason,
        })
    }
}

impl Listed for DeadLetter {
    type Position = Position;

    fn position(&self) -> Position {
        (self.dead_lettered_at, self.event_id.clone())
    }
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
    state.letters(&operator, query).await.map(Json)
}

impl OperatorState {
    /// A page of dead letters, the oldest first.
    pub async fn letters(
        &self,
        operator: &Operator,
        query: LettersQuery,
    ) -> Result<Page<DeadLetter>, Problem> {
        let state = self;
        let shared = &state.shared;
        let mut page = shared.page(Uuid::nil(), "dead-letters", &query).await?;
        let mut entry = operator.did(DEAD_LETTERS_LISTED, None, "webhook_event", "all".to_owned());
        entry.metadata = json!({"operator": true, "filters": query.filters()});
        let filter = DeadLetterFilter {
            after: page.after.take(),
            event_type: query.r#type,
            organization_id: query.organization_id,
            reason: query.reason.as_deref().map(Reason::of),
            through: None,
        };
        let mut tx = state.begin().await?;
        let rows = list_dead_letters(tx.conn(), &filter, page.rows()).await?;
        enter(tx, entry).await?;
        Ok(page.of(rows))
    }

    /// All dead letters by type and reason, the largest group first.
    pub async fn letter_groups(
        &self,
        operator: &Operator,
    ) -> Result<Vec<DeadLetterGroup>, Problem> {
        let mut entry = operator.did(DEAD_LETTERS_LISTED, None, "webhook_event", "all".to_owned());
        entry.metadata = json!({"operator": true, "grouped": true});
        let mut tx = self.begin().await?;
        let groups = dead_letter_groups(tx.conn()).await?;
        enter(tx, entry).await?;
        Ok(groups)
    }

    /// Discards a dead letter; false if there is none.
    pub async fn discard(&self, operator: &Operator, event_id: &str) -> Result<bool, Problem> {
        Ok(discard::discard(&self.shared.pool, event_id, operator).await?)
    }
}

pub fn is_dead(event: &Details) -> bool {
    event.state == EventState::DeadLetter
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
    match state.discard(&operator, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(none_such()),
    }
}
