//! `/api/operator/event-endpoints` and `/api/operator/event-deliveries`. Every access is in
//! the audit log.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::document;
use super::endpoints::{self, By, Endpoint, EndpointError, Kind, NewEndpoint, WithSecret};
use super::{Delivery, Filter, Position, Recovered};
use crate::audit;
use crate::config::OutboundConfig;
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::extract::{self, Path, Query};
use crate::server::number;
use crate::server::pagination::page::{Limit, ListQuery, Listed, Page};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};
use crate::tenancy::auth::Operator;

pub const ENDPOINTS_LISTED: &str = "event_endpoints_listed";
pub const DELIVERIES_LISTED: &str = "event_deliveries_listed";

/// What the handlers need.
#[derive(Clone)]
pub struct EventState {
    pub shared: Shared,
    pub config: Arc<OutboundConfig>,
}

pub fn routes() -> Routes<EventState> {
    document::schemas(Routes::new())
        .route(routes!(list), operator())
        .route(routes!(create), operator().secret())
        .route(routes!(rotate), operator().secret())
        .route(routes!(disable), operator())
        .route(routes!(enable), operator())
        .route(routes!(test), operator())
        .route(routes!(recover), operator())
        .route(routes!(remove), operator())
        .route(routes!(deliveries), operator())
        .route(routes!(resend), operator())
}

/// Whom the audit log names.
pub fn by(operator: Operator) -> By {
    By {
        actor: operator.actor(),
        client: Some(operator.client),
    }
}

impl EventState {
    /// Enters that an operator looked.
    pub async fn looked(
        &self,
        operator: &Operator,
        action: &'static str,
        kind: &'static str,
    ) -> Result<(), Problem> {
        let mut tx = WorkerTx::begin(&self.shared.pool).await?;
        let entry = operator.did(action, None, kind, "all".to_owned());
        audit::record_one(&mut tx, entry).await?;
        Ok(tx.commit().await?)
    }
}

/// The endpoints that events are sent to
#[utoipa::path(
    get,
    path = "/api/operator/event-endpoints",
    operation_id = "listEventEndpoints",
    tag = "Operators",
    responses((status = 200, description = "All of them.", body = Page<Endpoint>)),
)]
async fn list(
    State(state): State<EventState>,
    operator: Operator,
) -> Result<Json<Page<Endpoint>>, Problem> {
    let all = endpoints::list(&state.shared.pool).await?;
    state
        .looked(&operator, ENDPOINTS_LISTED, "event_endpoint")
        .await?;
    Ok(Json(Page::only(all)))
}

/// An endpoint to be made.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = NewEventEndpoint)]
struct CreateBody {
    /// An `https://` address that is public, or allowed by the settings.
    #[schema(
        format = "uri",
        max_length = 2000,
        example = "https://app.example.com/billing-events"
    )]
    url: String,
    /// The types to send; empty, or left out: all.
    #[serde(default)]
    types: Vec<String>,
    /// Only the events of this organization.
    organization_id: Option<Uuid>,
    /// What it is for.
    #[schema(max_length = 500)]
    description: Option<String>,
}

/// Create an endpoint
///
/// Its secret is in this answer and in no other.
#[utoipa::path(
    post,
    path = "/api/operator/event-endpoints",
    operation_id = "createEventEndpoint",
    tag = "Operators",
    request_body = CreateBody,
    responses((status = 201, description = "The endpoint, with its secret.", body = WithSecret)),
)]
async fn create(
    State(state): State<EventState>,
    operator: Operator,
    extract::Json(body): extract::Json<CreateBody>,
) -> Result<(StatusCode, Json<WithSecret>), Problem> {
    let new = NewEndpoint {
        url: body.url,
        description: body.description,
        types: body.types,
        organization_id: body.organization_id,
    };
    let allowed = &state.config.allowed;
    let (pool, by) = (&state.shared.pool, by(operator));
    let made = endpoints::create(pool, new, Kind::Operator, allowed, &by).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RotateEventEndpoint)]
struct RotateBody {
    /// For how many hours the former secret still signs beside the new one.
    #[serde(deserialize_with = "number::whole")]
    #[schema(minimum = 0, maximum = 720, example = 24)]
    overlap_hours: u32,
}

/// Give an endpoint a new secret
#[utoipa::path(
    post,
    path = "/api/operator/event-endpoints/{endpoint}/rotate",
    operation_id = "rotateEventEndpoint",
    tag = "Operators",
    params(("endpoint" = Uuid, Path, description = "The endpoint's id.")),
    request_body = RotateBody,
    responses((status = 200, description = "The endpoint, with its secret.", body = WithSecret)),
)]
async fn rotate(
    State(state): State<EventState>,
    operator: Operator,
    Path(endpoint): Path<Uuid>,
    extract::Json(body): extract::Json<RotateBody>,
) -> Result<Json<WithSecret>, Problem> {
    if body.overlap_hours > 720 {
        return Err(invalid("overlapHours: a number from 0 to 720 is needed"));
    }
    let overlap = Duration::from_secs(u64::from(body.overlap_hours) * 3_600);
    let (pool, by) = (&state.shared.pool, by(operator));
    Ok(Json(endpoints::rotate(pool, endpoint, overlap, &by).await?))
}

/// Send an endpoint nothing until it is enabled
#[utoipa::path(
    post,
    path = "/api/operator/event-endpoints/{endpoint}/disable",
    operation_id = "disableEventEndpoint",
    tag = "Operators",
    params(("endpoint" = Uuid, Path, description = "The endpoint's id.")),
    responses((status = 200, description = "The endpoint.", body = Endpoint)),
)]
async fn disable(
    State(state): State<EventState>,
    operator: Operator,
    Path(endpoint): Path<Uuid>,
) -> Result<Json<Endpoint>, Problem> {
    let (pool, by) = (&state.shared.pool, by(operator));
    Ok(Json(
        endpoints::disable(pool, endpoint, "by an operator", &by).await?,
    ))
}

/// Send to an endpoint again, what waited first
#[utoipa::path(
    post,
    path = "/api/operator/event-endpoints/{endpoint}/enable",
    operation_id = "enableEventEndpoint",
    tag = "Operators",
    params(("endpoint" = Uuid, Path, description = "The endpoint's id.")),
    responses((status = 200, description = "The endpoint.", body = Endpoint)),
)]
async fn enable(
    State(state): State<EventState>,
    operator: Operator,
    Path(endpoint): Path<Uuid>,
) -> Result<Json<Endpoint>, Problem> {
    let (pool, by) = (&state.shared.pool, by(operator));
    Ok(Json(endpoints::enable(pool, endpoint, &by).await?))
}

/// What came of a test.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventEndpointTest)]
struct Tested {
    delivered: bool,
    #[schema(required)]
    response_status: Option<u16>,
    /// The beginning of the answer.
    #[schema(required)]
    response_excerpt: Option<String>,
    #[schema(required)]
    error: Option<String>,
}

/// Send an endpoint an event of the type endpoint.test, at once
#[utoipa::path(
    post,
    path = "/api/operator/event-endpoints/{endpoint}/test",
    operation_id = "testEventEndpoint",
    tag = "Operators",
    params(("endpoint" = Uuid, Path, description = "The endpoint's id.")),
    responses((status = 200, description = "What came of it.", body = Tested)),
)]
async fn test(
    State(state): State<EventState>,
    operator: Operator,
    Path(endpoint): Path<Uuid>,
) -> Result<Json<Tested>, Problem> {
    let config = &state.config;
    let secret = config.application.as_ref().map(|one| &one.secret);
    let (pool, now, by) = (&state.shared.pool, Timestamp::now(), by(operator));
    let answer = endpoints::test(pool, endpoint, &config.allowed, secret, now, &by).await?;
    Ok(Json(Tested {
        delivered: answer.error.is_none(),
        response_status: answer.status,
        response_excerpt: answer.excerpt,
        error: answer.error,
    }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RecoverEvents)]
struct RecoverBody {
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Left out: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// Send an endpoint what it has not got of the events of a time
#[utoipa::path(
    post,
    path = "/api/operator/event-endpoints/{endpoint}/recover",
    operation_id = "recoverEvents",
    tag = "Operators",
    params(("endpoint" = Uuid, Path, description = "The endpoint's id.")),
    request_body = RecoverBody,
    responses((status = 200, description = "How many are sent.", body = Recovered)),
)]
async fn recover(
    State(state): State<EventState>,
    operator: Operator,
    Path(endpoint): Path<Uuid>,
    extract::Json(body): extract::Json<RecoverBody>,
) -> Result<Json<Recovered>, Problem> {
    let until = body.until.unwrap_or_else(Timestamp::now);
    if until <= body.since {
        return Err(invalid("until: must be after since"));
    }
    let (pool, by) = (&state.shared.pool, by(operator));
    Ok(Json(
        super::recover(pool, endpoint, body.since, until, &by).await?,
    ))
}

/// Remove an endpoint with its deliveries
#[utoipa::path(
    delete,
    path = "/api/operator/event-endpoints/{endpoint}",
    operation_id = "removeEventEndpoint",
    tag = "Operators",
    params(("endpoint" = Uuid, Path, description = "The endpoint's id.")),
    responses((status = 200, description = "What it was.", body = Endpoint)),
)]
async fn remove(
    State(state): State<EventState>,
    operator: Operator,
    Path(endpoint): Path<Uuid>,
) -> Result<Json<Endpoint>, Problem> {
    let (pool, by) = (&state.shared.pool, by(operator));
    Ok(Json(endpoints::remove(pool, endpoint, &by).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct DeliveriesQuery {
    endpoint_id: Option<Uuid>,
    organization_id: Option<Uuid>,
    /// `pending`, `delivered` or `failed`.
    status: Option<String>,
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
}

impl ListQuery for DeliveriesQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        json!({"endpointId": self.endpoint_id, "organizationId": self.organization_id,
               "status": self.status})
    }
}

impl Listed for Delivery {
    type Position = Position;

    fn position(&self) -> Position {
        Position {
            created_at: self.created_at,
            sequence: self.sequence,
            id: self.id,
        }
    }
}

/// Deliveries of events, newest first
#[utoipa::path(
    get,
    path = "/api/operator/event-deliveries",
    operation_id = "listEventDeliveries",
    tag = "Operators",
    params(DeliveriesQuery),
    responses((status = 200, description = "A page of deliveries.", body = Page<Delivery>)),
)]
async fn deliveries(
    State(state): State<EventState>,
    operator: Operator,
    Query(query): Query<DeliveriesQuery>,
) -> Result<Json<Page<Delivery>>, Problem> {
    let shared = &state.shared;
    let page = shared.page(Uuid::nil(), "event-deliveries", &query).await?;
    let filter = Filter {
        endpoint_id: query.endpoint_id,
        organization_id: query.organization_id,
        status: query.status.clone(),
    };
    let rows = super::list(&shared.pool, &filter, page.after.as_ref(), page.rows()).await?;
    state
        .looked(&operator, DELIVERIES_LISTED, "event_delivery")
        .await?;
    Ok(Json(page.of(rows)))
}

/// Send an event again, under the same id
#[utoipa::path(
    post,
    path = "/api/operator/event-deliveries/{delivery}/resend",
    operation_id = "resendEventDelivery",
    tag = "Operators",
    params(("delivery" = Uuid, Path, description = "The delivery's id.")),
    responses((status = 204, description = "It is due.")),
)]
async fn resend(
    State(state): State<EventState>,
    operator: Operator,
    Path(delivery): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    let resent = super::resend(&state.shared.pool, &[delivery], &by(operator)).await?;
    match resent.is_empty() {
        true => Err(Problem::not_found("delivery not found")),
        false => Ok(StatusCode::NO_CONTENT),
    }
}

fn invalid(detail: &str) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid_event_endpoint",
        detail,
    )
}

impl From<EndpointError> for Problem {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::Database(error) => error.into(),
            EndpointError::Unknown(_) => Self::not_found("endpoint not found"),
            EndpointError::Refused(_)
            | EndpointError::UnknownType(_)
            | EndpointError::Description
            | EndpointError::UnknownOrganization(_) => invalid(&error.to_string()),
            error => Self::new(
                StatusCode::CONFLICT,
                "event_endpoint_conflict",
                error.to_string(),
            ),
        }
    }
}
