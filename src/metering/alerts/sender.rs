//! Sends alerts at least once, with backoff. Any replica may send any alert.

use std::time::{Duration, Instant};

use billing_domain::retry::{self, NextStep};
use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::store::{self, DueAlert, SendOutcome};
use super::webhook;
use crate::config::Application;
use crate::db::{self, WorkerTx};
use crate::telemetry::metrics;

/// How often to poll for unsent alerts.
pub const POLL: Duration = Duration::from_secs(2);
const BATCH: i64 = 20;
/// Longer than sending a batch takes.
const LEASE_SECS: i32 = 300;

/// How long an outcome is recorded again where the database is away: a restart
/// or a failover.
const RECORD_PATIENCE: Duration = Duration::from_secs(60);
const RECORD_PAUSE: Duration = Duration::from_millis(500);

/// Attempts after the first, spread over about nine hours.
const MAX_RETRIES: u32 = 20;

/// Sends a batch of due alerts. Returns whether more may be due.
pub async fn send_due(
    pool: &PgPool,
    client: &reqwest::Client,
    application: &Application,
    stop: &CancellationToken,
) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let due = store::claim(tx.conn(), BATCH, LEASE_SECS).await?;
    tx.commit().await?;
    for alert in &due {
        // Another replica sends the rest when their lease ends.
        if stop.is_cancelled() {
            break;
        }
        let outcome = match send(client, application, alert).await {
            Ok(()) => SendOutcome::Delivered,
            Err(error) => retry_or_give_up(alert, error),
        };
        metrics::usage_alert(match outcome {
            SendOutcome::Delivered => "delivered",
            SendOutcome::Retry { .. } => "retried",
            SendOutcome::GivenUp { .. } => "failed",
        });
        record(pool, alert, &outcome, stop).await?;
    }
    Ok(due.len() == usize::try_from(BATCH).unwrap_or_default())
}

/// Records what became of an alert; again while the database is away, since the
/// alert would otherwise wait for its lease and be sent a second time.
async fn record(
    pool: &PgPool,
    alert: &DueAlert,
    outcome: &SendOutcome,
    stop: &CancellationToken,
) -> Result<(), sqlx::Error> {
    let since = Instant::now();
    loop {
        match try_record(pool, alert, outcome).await {
            Err(error)
                if db::is_outage(&error)
                    && since.elapsed() < RECORD_PATIENCE
                    && !stop.is_cancelled() =>
            {
                tokio::time::sleep(RECORD_PAUSE).await;
            }
            recorded => return recorded,
        }
    }
}

async fn try_record(
    pool: &PgPool,
    alert: &DueAlert,
    outcome: &SendOutcome,
) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::record(tx.conn(), alert, outcome).await?;
    tx.commit().await
}

async fn send(
    client: &reqwest::Client,
    application: &Application,
    alert: &DueAlert,
) -> Result<(), String> {
    let body = serde_json::to_string(&webhook::message(alert)).map_err(|e| e.to_string())?;
    let id = alert.id.to_string();
    let now = Timestamp::now().as_second();
    let signature = webhook::sign(&application.secret, &id, now, &body);
    let response = client
        .post(application.url.clone())
        .header("content-type", "application/cloudevents+json")
        .header("webhook-id", id)
        .header("webhook-timestamp", now.to_string())
        .header("webhook-signature", signature)
        .body(body)
        .send()
        .await
        .map_err(|error| error.without_url().to_string())?;
    let status = response.status();
    if status.is_success() {
        Ok(())
    } else if status.is_redirection() {
        Err(format!(
            "the application answered {status}; redirects are not followed: set \
             APPLICATION_WEBHOOK_URL to the final address"
        ))
    } else {
        Err(format!("the application answered {status}"))
    }
}

fn retry_or_give_up(alert: &DueAlert, error: String) -> SendOutcome {
    let attempts = u32::try_from(alert.attempts).unwrap_or(u32::MAX);
    match retry::after_failure(attempts, MAX_RETRIES, rand::random()) {
        NextStep::RetryAfter(delay) => {
            let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::from_hours(1));
            let at = Timestamp::now()
                .saturating_add(delay)
                .unwrap_or(Timestamp::MAX);
            SendOutcome::Retry { error, at }
        }
        NextStep::DeadLetter => {
            tracing::error!(alert = %alert.id, error, "gave up sending a usage alert; `usage alerts --resend` sends it again");
            SendOutcome::GivenUp { error }
        }
    }
}
