//! `GET /healthz`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::Readiness;
use super::cached::Cached;
use crate::audit;
use crate::db::WorkerTx;
use crate::maintenance;
use crate::metering::grace;
use crate::server::budget::Budget;
use crate::server::routes::{Routes, public};
use crate::telemetry::metrics;
use crate::webhooks;

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What probes and scrapes ask.
#[derive(Clone)]
pub struct Probes {
    pub budget: Arc<Budget>,
    pub readiness: Readiness,
    /// Every pool of this process, by name.
    pub pools: Vec<(&'static str, PgPool)>,
    /// What scrapes read the backlog with.
    pub pool: PgPool,
    pub metrics: PrometheusHandle,
}

/// How the service is.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`, `ready` or `unavailable`.
    status: &'static str,
    /// Why it is unavailable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

impl Health {
    fn of(status: &'static str) -> Json<Self> {
        let reasons = Vec::new();
        Json(Self { status, reasons })
    }
}

/// Liveness and readiness.
pub fn health() -> Routes<Arc<Probes>> {
    Routes::new()
        .route(routes!(alive), public().unchecked())
        .route(routes!(ready), public().unchecked())
}

/// `GET /metrics`.
pub fn metrics() -> Routes<Arc<Scrapes>> {
    Routes::new().route(routes!(scrape), public().unchecked())
}

/// What a scrape asks, and what the last one was told.
pub struct Scrapes {
    probes: Arc<Probes>,
    last: Cached<Bytes>,
}

impl Scrapes {
    pub fn new(probes: Probes) -> Self {
        let (probes, last) = (Arc::new(probes), Cached::default());
        Self { probes, last }
    }
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", operation_id = "getLiveness", tag = "Operation",
    responses((status = 200, description = "It does.", body = Health)))]
async fn alive() -> Json<Health> {
    Health::of("ok")
}

/// Whether requests can be served
///
/// A new connection to the database can be opened, and becomes what the service
/// needs to be; the database takes writes, has every migration of this program,
/// and lets the service do all that they let it do.
#[utoipa::path(get, path = "/readyz", operation_id = "getReadiness", tag = "Operation",
    responses((status = 200, description = "They can.", body = Health),
              (status = 503, description = "They cannot, and why.", body = Health)))]
async fn ready(State(probes): State<Arc<Probes>>) -> Response {
    let reasons = probes.readiness.reasons().await;
    if reasons.is_empty() {
        return Health::of("ready").into_response();
    }
    let status = "unavailable";
    let body = Json(Health { status, reasons });
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

/// What is counted, for Prometheus
#[utoipa::path(get, path = "/metrics", operation_id = "getMetrics", tag = "Operation",
    responses((status = 200, description = "Prometheus' text format.", body = String,
               content_type = "text/plain")))]
async fn scrape(State(scrapes): State<Arc<Scrapes>>) -> Response {
    let probes = scrapes.probes.clone();
    let text = scrapes.last.get(async move { render(&probes).await }).await;
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, text).into_response()
}

async fn render(probes: &Probes) -> Bytes {
    probes.budget.measure();
    for (name, pool) in &probes.pools {
        let most = pool.options().get_max_connections();
        metrics::connections(name, pool.size(), pool.num_idle(), most);
    }
    metrics::ready(probes.readiness.reasons().await.is_empty());
    match tokio::time::timeout(PROBE_TIMEOUT, backlog(&probes.pool)).await {
        Ok(Ok((found, graces, audit_bytes))) => {
            metrics::audit_bytes(audit_bytes);
            metrics::graces(&graces);
            metrics::backlog(
                found.dead_letters,
                found.unprocessed,
                found.oldest_unprocessed_secs,
            );
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the webhook event log could not be counted for the metrics")
        }
        Err(_) => {
            tracing::warn!("the webhook event log could not be counted for the metrics in time")
        }
    }
    match tokio::time::timeout(PROBE_TIMEOUT, maintenance::measure(&probes.pool)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the jobs could not be read for the metrics"),
        Err(_) => tracing::warn!("the jobs could not be read for the metrics in time"),
    }
    probes.metrics.render().into()
}

type Counted = (webhooks::Backlog, BTreeMap<String, i64>, i64);

async fn backlog(pool: &PgPool) -> Result<Counted, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let backlog = webhooks::backlog(tx.conn()).await?;
    let graces = grace::active_by_metric(tx.conn()).await?;
    Ok((backlog, graces, audit::bytes(tx.conn()).await?))
}
