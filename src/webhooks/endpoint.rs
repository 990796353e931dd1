//! `POST /api/billing/webhooks/stripe`: verifies a delivery, stores it durably,
//! and only then responds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::intake::{Intake, IntakeError, Receipt};
use super::rejections::Rejections;
use crate::server::body::{self, BodyError};
use crate::server::problem::Problem;
use crate::server::routes::{Access, Routes, Rules};
use crate::stripe::event::{self, Envelope, PayloadError};
use crate::stripe::signature::{self, SignatureError, SigningSecret};
use crate::telemetry;
use crate::telemetry::metrics;

/// The path that Stripe delivers to.
pub const PATH: &str = "/api/billing/webhooks/stripe";
/// The header of deliveries without a signature that only try the endpoint.
pub const PROBE: &str = "x-billing-probe";
const UNSIGNED: &str = "signature_missing";

/// Shorter than Stripe waits for a response.
const DEADLINE: Duration = Duration::from_secs(5);

/// The endpoint's dependencies and settings.
pub struct Endpoint {
    pub intake: Intake,
    pub secrets: Vec<SigningSecret>,
    pub tolerance_secs: u32,
    pub rejections: Arc<Rejections>,
}

/// Stripe's signatures, one for each secret, make for long headers.
pub fn routes() -> Routes<Arc<Endpoint>> {
    let rules = Rules::of(Access::StripeSignature)
        .unchecked()
        .long_headers();
    Routes::new().route(routes!(receive), rules)
}

/// An event of Stripe's; it has more members than these.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `stripe::event` reads")]
struct StripeEvent {
    #[schema(example = "evt_1")]
    id: String,
    #[schema(example = "invoice.paid")]
    r#type: String,
    /// In seconds since 1970.
    created: i64,
    livemode: bool,
    #[schema(value_type = Object)]
    data: (),
}

/// The event is durably stored.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Received {
    received: bool,
    #[schema(example = "evt_1")]
    event_id: String,
    /// Whether it had been stored before.
    duplicate: bool,
}

/// Receive an event from Stripe
///
/// Responds with 2xx only once the event is durably stored; any other response makes Stripe send
/// it again.
#[utoipa::path(
    post,
    path = PATH,
    operation_id = "receiveStripeEvent",
    tag = "Webhooks",
    request_body(content = StripeEvent, content_type = "application/json",
                 description = "The event as Stripe signed it, at most 1 MiB."),
    responses((status = 200, description = "The event is stored.", body = Received)),
)]
async fn receive(
    State(endpoint): State<Arc<Endpoint>>,
    request: Request,
) -> Result<Json<Received>, Problem> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let result = accept(&endpoint, &parts, body).await;
    let label = match &result {
        Ok(received) if received.duplicate => "duplicate",
        Ok(_) => "stored",
        // `doctor` tries whether signatures are checked: that is nobody's delivery.
        Err(problem) if parts.headers.contains_key(PROBE) && problem.code() == UNSIGNED => {
            return result.map(Json);
        }
        Err(problem) => {
            endpoint.rejections.note(problem.code());
            problem.code()
        }
    };
    metrics::delivery(label, started.elapsed());
    result.map(Json)
}

async fn accept(endpoint: &Endpoint, parts: &Parts, body: Body) -> Result<Received, Problem> {
    let headers = &parts.headers;
    let signature = signature_header(headers)?.ok_or(SignatureError::Missing)?;
    let now = Timestamp::now().as_second();
    // A stranger's body is neither read nor hashed.
    signature::precheck(signature, now, endpoint.tolerance_secs)?;
    let body = read_body(parts, body).await?;
    let now = Timestamp::now().as_second();
    signature::verify(
        Some(signature),
        &body,
        &endpoint.secrets,
        now,
        endpoint.tolerance_secs,
    )?;
    let mut envelope = Envelope::read(&body, now)?;
    let organization_id = envelope.organization_id.map(tracing::field::display);
    envelope.trace = telemetry::trace_of(headers);
    let event_id = envelope.id.clone();
    let event_type = envelope.event_type.clone();
    let lacks_content = envelope.thin && !event::has_no_snapshot(&event_type);

    let storing = tokio::time::timeout(DEADLINE, endpoint.intake.store(envelope, body));
    let receipt = storing.await.unwrap_or(Err(IntakeError::Unavailable))?;
    let duplicate = receipt == Receipt::Duplicate;
    tracing::info!(
        event_id,
        event_type,
        organization_id,
        duplicate,
        "Webhook received"
    );
    if lacks_content && !duplicate {
        metrics::thin_event();
    }
    Ok(Received {
        received: true,
        event_id,
        duplicate,
    })
}

async fn read_body(parts: &Parts, body: Body) -> Result<Bytes, Problem> {
    body::read_delivery(parts, body)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                "an event has at most 1 MiB",
            ),
            // Not a 4xx, so that Stripe sends the event again.
            BodyError::TooSlow => Problem::unavailable(
                "body_timeout",
                "the body took too long to arrive; send it again",
            ),
            BodyError::Incomplete => Problem::new(
                StatusCode::BAD_REQUEST,
                "payload_invalid",
                "the body is incomplete",
            ),
            // Whatever used up the memory, Stripe should send the event again.
            BodyError::Short(_) => IntakeError::Full.into(),
        })
}

/// The one Stripe-Signature header.
fn signature_header(headers: &HeaderMap) -> Result<Option<&str>, SignatureError> {
    let mut values = headers.get_all("stripe-signature").iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(Some)
            .map_err(|_| SignatureError::Invalid),
        // Two headers are ambiguous.
        (Some(_), Some(_)) => Err(SignatureError::Invalid),
    }
}

impl From<SignatureError> for Problem {
    fn from(error: SignatureError) -> Self {
        let (code, advice) = match error {
            SignatureError::Missing => (UNSIGNED, "only Stripe posts here"),
            SignatureError::Invalid => (
                "signature_invalid",
                "check that STRIPE_WEBHOOK_SECRET is this endpoint's signing secret",
            ),
            SignatureError::OutOfTolerance => (
                "timestamp_out_of_tolerance",
                "check this host's clock, and WEBHOOK_TOLERANCE_SECONDS",
            ),
        };
        Self::new(StatusCode::BAD_REQUEST, code, format!("{error}; {advice}"))
    }
}

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "payload_invalid",
            error.to_string(),
        )
    }
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Full => Self::unavailable(
                "inbox_full",
                "too many events are waiting to be stored; send it again",
            ),
            IntakeError::Unavailable => Self::unavailable(
                "inbox_unavailable",
                "the event could not be stored; send it again",
            ),
            IntakeError::Payload(_) => Self::new(
                StatusCode::BAD_REQUEST,
                "payload_invalid",
                "the event is not JSON that PostgreSQL can store",
            ),
        }
    }
}
