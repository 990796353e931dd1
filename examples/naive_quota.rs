//! What `make bench` compares quota checks with: an endpoint that runs one
//! `UPDATE … RETURNING` for each request, on the same server, without
//! credentials, events or periods. Beside it stands an agent that answers with
//! what it was sent, as the upstream of the gateway.
//!
//! DATABASE_URL names the database; it listens on the address that is its
//! argument.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio_util::sync::CancellationToken;
use valuecanvas_billing::server;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("name an address")?;
    let pool = PgPoolOptions::new()
        .max_connections(64)
        .acquire_timeout(Duration::from_secs(30))
        .connect(&std::env::var("DATABASE_URL")?)
        .await?;
    let router = Router::new()
        .route("/consume/{counter}", post(consume))
        .route("/api/agents/execute", post(async |body: String| body))
        .with_state(pool);
    let listener = tokio::net::TcpListener::bind(address).await?;
    server::serve(listener, server::bare(router), CancellationToken::new()).await;
    Ok(())
}

async fn consume(
    State(pool): State<PgPool>,
    Path(counter): Path<i32>,
) -> Result<String, StatusCode> {
    let used = sqlx::query_scalar::<_, i64>(
        "UPDATE naive_counters SET used = used + 1 WHERE id = $1 AND used < quota RETURNING used",
    )
    .bind(counter)
    .fetch_optional(&pool)
    .await
    .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    used.map(|used| format!("{{\"used\":{used}}}"))
        .ok_or(StatusCode::PAYMENT_REQUIRED)
}
