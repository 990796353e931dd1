//! The HTTP server: the routes that belong to no feature, and what every
//! connection and answer has in common.

pub mod extract;
pub mod page;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use sqlx::postgres::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::db::WorkerTx;
use crate::error::Problem;
use crate::inbox;
use crate::metrics;
use crate::migrations::{self, State as MigrationState};

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A signature header may be long: Stripe lists a signature for each secret.
const MAX_HEADER_BYTES: usize = 1024 * 1024;
/// How long open requests may take once the service stops.
const DRAIN: Duration = Duration::from_secs(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The address of a connection's other end, in the extensions of each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// What probes and scrapes ask.
#[derive(Clone)]
pub struct Probes {
    pub pool: PgPool,
    pub metrics: PrometheusHandle,
}

/// Liveness and readiness.
pub fn health_router(probes: Probes) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/readyz", get(ready))
        .with_state(Arc::new(probes))
}

/// `GET /metrics`.
pub fn metrics_router(probes: Probes) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(Arc::new(probes))
}

/// What every route has in common: problems for what there is no route for,
/// and for what went wrong in a handler.
pub fn finish(router: Router) -> Router {
    router
        .fallback(async || {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing at this address",
            )
        })
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this address takes another method",
            )
        })
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                tracing::error!("a request handler panicked");
                Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "something went wrong; it was logged",
                )
                .into_response()
            },
        ))
}

async fn ready(State(probes): State<Arc<Probes>>) -> Response {
    let reasons = match tokio::time::timeout(PROBE_TIMEOUT, pending_migrations(&probes.pool)).await
    {
        Ok(Ok(pending)) if pending.is_empty() => {
            return Json(json!({"status": "ready"})).into_response();
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
    let body = Json(json!({"status": "unavailable", "reasons": reasons}));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn pending_migrations(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = match WorkerTx::begin(pool).await {
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

async fn scrape(State(probes): State<Arc<Probes>>) -> Response {
    metrics::connections(probes.pool.size(), probes.pool.num_idle());
    match tokio::time::timeout(PROBE_TIMEOUT, backlog(&probes.pool)).await {
        Ok(Ok(found)) => metrics::backlog(
            found.dead_letters,
            found.unprocessed,
            found.oldest_unprocessed_secs,
        ),
        Ok(Err(error)) => tracing::warn!(%error, "the inbox could not be counted for the metrics"),
        Err(_) => tracing::warn!("the inbox could not be counted for the metrics in time"),
    }
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, probes.metrics.render()).into_response()
}

async fn backlog(pool: &PgPool) -> Result<inbox::Backlog, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    inbox::backlog(tx.conn()).await
}

/// Serves `router` until `stop`, then lets open requests end.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES);
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => (stream, Peer(address)),
                Err(error) => {
                    // Out of file descriptors, say: others must close first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(tower_service(router.clone(), peer));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some requests were still open and are cut off");
    }
}

/// The router, taking bodies as hyper has them, and told who is at the other
/// end.
fn tower_service(
    router: Router,
    peer: Peer,
) -> impl tower::Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
+ Clone
+ Send {
    tower::ServiceExt::map_request(router, move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.map(axum::body::Body::new)
    })
}
