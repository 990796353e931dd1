//! `/api/operator/webhook-events`.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{OperatorState, Position, enter};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Limit, Page};
use crate::server::problem::Problem;
use crate::tenancy::auth::Operator;
use crate::webhooks::LISTED;
use crate::webhooks::inspect::{self, Details, EventFilter, Listed};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Such as `invoice.finalized`.
    r#type: Option<String>,
    organization_id: Option<Uuid>,
    processed: Option<bool>,
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
}

impl EventsQuery {
    /// The filters that a cursor is bound to.
    fn filters(&self) -> Value {
        json!({
            "type": self.r#type,
            "organizationId": self.organization_id,
            "processed": self.processed,
        })
    }
}

/// List webhook events, newest first
#[utoipa::path(
    get,
    path = "/api/operator/webhook-events",
    operation_id = "listWebhookEvents",
    tag = "Operators",
    params(EventsQuery),
    responses((status = 200, description = "A page of events.", body = Page<Listed>)),
)]
pub async fn list(
    State(state): State<OperatorState>,
    operator: Operator,
    Query(query): Query<EventsQuery>,
) -> Result<Json<Page<Listed>>, Problem> {
    let lists = &state.shared.cursors;
    let filters = query.filters();
    let cursors = lists.of(Uuid::nil(), "webhook-events", &filters).await?;
    let mut entry = operator.did(LISTED, None, "webhook_event", "all".to_owned());
    entry.metadata = json!({"operator": true, "filters": filters});
    let filter = EventFilter {
        before: cursors.place::<Position>(query.cursor.as_deref())?,
        event_type: query.r#type,
        organization_id: query.organization_id,
        processed: query.processed,
    };
    let mut tx = state.begin().await?;
    let rows = inspect::page(tx.conn(), &filter, query.limit.rows()).await?;
    enter(tx, entry).await?;
    let place = |event: &Listed| (event.received_at, event.event_id.clone());
    Ok(Json(Page::of(rows, query.limit, &cursors, place)))
}

/// Get a webhook event with its payload and each failed attempt
#[utoipa::path(
    get,
    path = "/api/operator/webhook-events/{id}",
    operation_id = "getWebhookEvent",
    tag = "Operators",
    params(("id" = String, Path, description = "Stripe's id.", example = "evt_1")),
    responses((status = 200, description = "All that is known of it.", body = Details)),
)]
pub async fn show(
    State(state): State<OperatorState>,
    operator: Operator,
    Path(id): Path<String>,
) -> Result<Json<Details>, Problem> {
    let found = state.show(&operator, &id, |_| true).await?;
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found("no such event; list the events to see which exist"))
}
