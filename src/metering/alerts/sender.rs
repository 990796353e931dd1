//! Sending alerts: at least once, with backoff, by whatever replica is first.

use std::time::Duration;

use billing_domain::retry::{self, NextStep};
use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::store::{self, Due, Sent};
use super::webhook;
use crate::config::Application;
use crate::db::WorkerTx;
use crate::telemetry::metrics;

/// How often it is looked for alerts.
const POLL: Duration = Duration::from_secs(2);
const BATCH: i64 = 20;
/// Longer than a batch of attempts takes.
const LEASE_SECS: i32 = 300;

/// Attempts after the first: about nine hours of them.
const MAX_RETRIES: u32 = 20;

/// Sends what is due, until `stop`.
pub async fn keep_sending(
    pool: PgPool,
    client: reqwest::Client,
    application: Application,
    stop: CancellationToken,
) {
    loop {
        let sent = send_due(&pool, &client, &application, &stop).await;
        let more = match sent {
            Ok(sent) => sent == usize::try_from(BATCH).unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "usage alerts could not be sent");
                false
            }
        };
        if more && !stop.is_cancelled() {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn send_due(
    pool: &PgPool,
    client: &reqwest::Client,
    application: &Application,
    stop: &CancellationToken,
) -> Result<usize, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let due = store::claim(tx.conn(), BATCH, LEASE_SECS).await?;
    tx.commit().await?;
    for alert in &due {
        // Who takes over sends the others when their lease ends.
        if stop.is_cancelled() {
            break;
        }
        let sent = match send(client, application, alert).await {
            Ok(()) => Sent::Delivered,
            Err(error) => failed(alert, error),
        };
        metrics::usage_alert(match sent {
            Sent::Delivered => "delivered",
            Sent::Again { .. } => "retried",
            Sent::GivenUp { .. } => "failed",
        });
        let mut tx = WorkerTx::begin(pool).await?;
        store::record(tx.conn(), alert, &sent).await?;
        tx.commit().await?;
    }
    Ok(due.len())
}

async fn send(
    client: &reqwest::Client,
    application: &Application,
    alert: &Due,
) -> Result<(), String> {
    let body = serde_json::to_string(&webhook::message(alert)).map_err(|e| e.to_string())?;
    let id = alert.id.to_string();
    let now = Timestamp::now().as_second();
    let signature = webhook::sign(&application.secret, &id, now, &body);
    let answer = client
        .post(application.url.clone())
        .header("content-type", "application/cloudevents+json")
        .header("webhook-id", id)
        .header("webhook-timestamp", now.to_string())
        .header("webhook-signature", signature)
        .body(body)
        .send()
        .await
        .map_err(|error| error.without_url().to_string())?;
    let status = answer.status();
    if status.is_success() {
        Ok(())
    } else if status.is_redirection() {
        Err(format!(
            "the application answered {status}; a redirect takes no webhook: APPLICATION_WEBHOOK_URL \
             must name the address itself"
        ))
    } else {
        Err(format!("the application answered {status}"))
    }
}

fn failed(alert: &Due, error: String) -> Sent {
    let before = u32::try_from(alert.attempts).unwrap_or(u32::MAX);
    match retry::after_failure(before, MAX_RETRIES, rand::random()) {
        NextStep::RetryAfter(delay) => {
            let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::from_hours(1));
            let at = Timestamp::now()
                .saturating_add(delay)
                .unwrap_or(Timestamp::MAX);
            Sent::Again { error, at }
        }
        NextStep::DeadLetter => {
            tracing::error!(alert = %alert.id, error, "a usage alert was given up; `usage alerts --resend` sends it again");
            Sent::GivenUp { error }
        }
    }
}
