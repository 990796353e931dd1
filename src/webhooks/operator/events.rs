//! `/api/operator/webhook-events`.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{OperatorState, Position, enter};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{self, Limit, ListQuery, Page};
use crate::server::problem::Problem;
use crate::tenancy::auth::Operator;
use crate::webhooks::LISTED;
use crate::webhooks::inspect::{self, Details, EventFilter, Listed};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Such as `invoice.finalized`.
    pub r#type: Option<String>,
    pub organization_id: Option<Uuid>,
    pub processed: Option<bool>,
    /// Those received from this time on.
    #[param(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Those received before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    #[serde(default)]
    #[param(inline)]
    pub limit: Limit,
    /// `nextCursor` of the previous page.
    pub cursor: Option<String>,
}

impl ListQuery for EventsQuery {
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
            "processed": self.processed,
            "since": self.since,
            "until": self.until,
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
    state.events(&operator, query).await.map(Json)
}

impl OperatorState {
    /// A page of webhook events, the newest first.
    pub async fn events(
        &self,
        operator: &Operator,
        query: EventsQuery,
    ) -> Result<Page<Listed>, Problem> {
        let state = self;
        let shared = &state.shared;
        let mut page = shared.page(Uuid::nil(), "webhook-events", &query).await?;
        let mut entry = operator.did(LISTED, None, "webhook_event", "all".to_owned());
        entry.metadata = json!({"operator": true, "filters": query.filters()});
        let filter = EventFilter {
            before: page.after.take(),
            event_type: query.r#type,
            organization_id: query.organization_id,
            processed: query.processed,
            since: query.since,
            until: query.until,
        };
        let mut tx = state.begin().await?;
        let rows = inspect::page(tx.conn(), &filter, page.rows()).await?;
        enter(tx, entry).await?;
        Ok(page.of(rows))
    }
}

impl page::Listed for Listed {
    type Position = Position;

    fn position(&self) -> Position {
        (self.received_at, self.event_id.clone())
    }
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
