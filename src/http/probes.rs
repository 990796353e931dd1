//! `GET /healthz`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use sqlx::postgres::PgPool;
use utoipa::{OpenApi, ToSchema};

use crate::audit;
use crate::db::{self, WorkerTx};
use crate::grace_periods;
use crate::inbox;
use crate::metrics;
use crate::migrations::{self, State as MigrationState};

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What probes and scrapes ask.
#[derive(Clone)]
pub struct Probes {
    pub pool: PgPool,
    pub metrics: PrometheusHandle,
}

#[derive(OpenApi)]
#[openapi(paths(alive, ready, scrape))]
pub struct ProbesApi;

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
pub fn health_router(probes: Probes) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(Arc::new(probes))
}

/// `GET /metrics`.
pub fn metrics_router(probes: Probes) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(Arc::new(probes))
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", tag = "Operation",
    responses((status = 200, description = "It does.", body = Health)))]
async fn alive() -> Json<Health> {
    Health::of("ok")
}

/// Whether requests can be served
///
/// The database answers and has every migration of this program.
#[utoipa::path(get, path = "/readyz", tag = "Operation",
    responses((status = 200, description = "They can.", body = Health),
              (status = 503, description = "They cannot, and why.", body = Health)))]
async fn ready(State(probes): State<Arc<Probes>>) -> Response {
    let reasons = match tokio::time::timeout(PROBE_TIMEOUT, pending_migrations(&probes.pool)).await
    {
        Ok(Ok(pending)) if pending.is_empty() => {
            return Health::of("ready").into_response();
        }
        Ok(Ok(pending)) => vec![format!(
            "migrations: {} not applied; run `migrate up`",
            pending.join(", ")
        )],
        // Which host or role it was stays in the log.
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready");
            vec!["database: it refuses the service, or cannot be reached".to_owned()]
        }
        Err(_) => vec!["database: no answer in time".to_owned()],
    };
    let status = "unavailable";
    let body = Json(Health { status, reasons });
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn pending_migrations(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = match WorkerTx::begin(pool).await.map_err(db::opening_refusal) {
        Ok(tx) => tx,
        // Before the first migration there is no such role.
        Err(error)
            if error
                .as_database_error()
                .is_some_and(|e| e.code().as_deref() == Some("22023")) =>
        {
            return Ok(migrations::MIGRATIONS
                .iter()
                .map(|m| m.version.to_owned())
                .collect());
        }
        Err(error) => return Err(error),
    };
    let statuses = migrations::status(tx.conn()).await?;
    Ok(statuses
        .into_iter()
        .filter(|status| status.state == MigrationState::Pending)
        .map(|status| status.version)
        .collect())
}

/// What is counted, for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "Operation",
    responses((status = 200, description = "Prometheus' text format.", body = String,
               content_type = "text/plain")))]
async fn scrape(State(probes): State<Arc<Probes>>) -> Response {
    metrics::connections(probes.pool.size(), probes.pool.num_idle());
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
        Ok(Err(error)) => tracing::warn!(%error, "the inbox could not be counted for the metrics"),
        Err(_) => tracing::warn!("the inbox could not be counted for the metrics in time"),
    }
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, probes.metrics.render()).into_response()
}

type Counted = (inbox::Backlog, BTreeMap<String, i64>, i64);

async fn backlog(pool: &PgPool) -> Result<Counted, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let backlog = inbox::backlog(tx.conn()).await?;
    let graces = grace_periods::active_by_metric(tx.conn()).await?;
    Ok((backlog, graces, audit::bytes(tx.conn()).await?))
}
