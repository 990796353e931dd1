//! What is kept for some time and then removed, in batches that hold no lock for
//! long: answers to Idempotency-Keys after a day, what slows down guessing and
//! ended sessions after 30 days.

use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use crate::server::layers::idempotency;
use crate::telemetry::metrics;
use crate::tenancy::auth;

const PURGE_EVERY: Duration = Duration::from_secs(10 * 60);
/// Rows of a batch, each of which may have an answer of 1 MiB.
const BATCH: i64 = 1_000;
/// Between two batches, for those who wait.
const PAUSE: Duration = Duration::from_millis(50);

/// Purges until `stop`.
pub async fn keep_purged(pool: PgPool, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = purge(&pool) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PURGE_EVERY) => {}
        }
    }
}

async fn purge(pool: &PgPool) {
    loop {
        let removed = [
            ("request_idempotency", idempotency::purge(pool, BATCH).await),
            ("login_throttles", auth::purge_throttles(pool, BATCH).await),
            ("user_sessions", auth::purge_sessions(pool, BATCH).await),
        ];
        let mut more = false;
        for (table, removed) in removed {
            match removed {
                Ok(rows) => {
                    metrics::purged(table, rows);
                    more |= rows >= BATCH.unsigned_abs();
                }
                Err(error) => tracing::warn!(table, %error, "old rows could not be removed"),
            }
        }
        if !more {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
