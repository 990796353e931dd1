//! Sends recorded reports to Stripe, each until it is certain that Stripe has it.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::store::{self, Attempt, UnsentReport};
use crate::catalogue::Catalogue;
use crate::db::WorkerTx;
use crate::metering::ledger::store::{TotalKey, count_late};
use crate::stripe::client::{Client, ErrorKind, Params, StripeError};
use crate::telemetry::metrics;

/// Stripe's error code for an identifier that it already has.
const DUPLICATE: &str = "duplicate_meter_event";

#[derive(Default)]
pub(super) struct SendCounts {
    pub(super) sent: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
}

/// Sends an organization's reports one after the other. Those that the database
/// refuses, or that another transaction holds, have failed and wait for the next run.
pub(super) async fn send_all(
    pool: &PgPool,
    client: &Client,
    catalogue: &Catalogue,
    rows: Vec<UnsentReport>,
) -> SendCounts {
    let mut counts = SendCounts::default();
    for row in rows {
        match send_one(pool, client, catalogue, &row).await {
            Ok(SendOutcome::Sent) => counts.sent += 1,
            Ok(SendOutcome::Failed(_)) => counts.failed += 1,
            Ok(SendOutcome::Refused) => counts.refused += 1,
            Err(error) => {
                tracing::warn!(
                    organization_id = %row.organization_id, metric = row.metric,
                    identifier = row.identifier, %error, "Usage could not be marked as reported"
                );
                counts.failed += 1;
            }
        }
    }
    counts
}

/// The outcome of sending a report.
pub(super) enum SendOutcome {
    Sent,
    Failed(StripeError),
    /// The customer was deleted.
    Refused,
}

/// Whether Stripe rejected a report because its customer was deleted. A customer
/// that Stripe does not know at all may belong to another account, whose key
/// could still report it.
async fn is_deleted(client: &Client, row: &UnsentReport, error: &StripeError) -> bool {
    let about_customer = error.param.as_deref() == Some("payload[stripe_customer_id]");
    if !about_customer && !error.is_missing_customer() {
        return false;
    }
    let found = client.customer(&row.stripe_customer_id).await;
    found.is_ok_and(|customer| customer.deleted)
}

/// Sends a report and records the outcome.
pub(super) async fn send_one(
    pool: &PgPool,
    client: &Client,
    catalogue: &Catalogue,
    row: &UnsentReport,
) -> Result<SendOutcome, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let attempt = store::mark_attempted(tx.conn(), row).await?;
    tx.commit().await?;
    let Some(attempt) = attempt else {
        return Ok(SendOutcome::Sent);
    };
    let response = send(client, row).await;
    let deleted = match &response {
        Err(error) => is_deleted(client, row, error).await,
        Ok(()) => false,
    };
    let mut tx = WorkerTx::begin(pool).await?;
    let outcome = match response {
        Ok(()) => {
            if store::mark_sent(tx.conn(), row).await? {
                told_too_late(&mut tx, catalogue, row).await?;
            }
            // A correction downwards does not reduce the counter.
            metrics::usage_reported(row.units.max(Decimal::ZERO).to_u64().unwrap_or(u64::MAX));
            SendOutcome::Sent
        }
        Err(error) if deleted => {
            tracing::error!(
                %error, organization_id = %row.organization_id, metric = row.metric,
                units = %row.units, stripe_customer_id = row.stripe_customer_id,
                "Usage is lost: its customer was deleted in Stripe before it was reported"
            );
            store::mark_refused(tx.conn(), row, &error.to_string()).await?;
            SendOutcome::Refused
        }
        Err(error) => {
            tracing::warn!(
                %error, organization_id = %row.organization_id, metric = row.metric,
                identifier = row.identifier, "Usage could not be reported"
            );
            // An error response is certain, of this attempt; after anything else Stripe
            // may have counted the report.
            let unseen = !error.may_have_acted() && attempt == Attempt::First;
            store::mark_failed(tx.conn(), row, &error.to_string(), unseen).await?;
            SendOutcome::Failed(error)
        }
    };
    tx.commit().await?;
    Ok(outcome)
}

/// A report that was recorded before its total's invoice and could not be sent until
/// after it is on none: what it told is found as unbilled.
async fn told_too_late(
    tx: &mut WorkerTx,
    catalogue: &Catalogue,
    row: &UnsentReport,
) -> Result<(), sqlx::Error> {
    let Some(metric) = catalogue.metric(&row.metric) else {
        return Ok(());
    };
    let total = TotalKey {
        organization_id: row.organization_id,
        metric: &row.metric,
        start: row.period_start.as_second(),
    };
    count_late(tx.conn(), total, metric.aggregation).await
}

async fn send(client: &Client, row: &UnsentReport) -> Result<(), StripeError> {
    let params = Params::new()
        .set("event_name", &row.event_name)
        .set("identifier", &row.identifier)
        .set("timestamp", row.at.as_second())
        .set("payload[stripe_customer_id]", &row.stripe_customer_id)
        .set("payload[value]", row.units.normalize().to_string());
    // The identifier keeps the report from being counted twice. The idempotency
    // key differs for each attempt, since Stripe replays failures for a key.
    let key = format!("{}-{}", row.identifier, Uuid::now_v7().simple());
    match client.create_meter_event(&params, &key).await {
        // An earlier attempt succeeded and its response was lost.
        Err(error) if is_duplicate(&error) => Ok(()),
        response => response,
    }
}

fn is_duplicate(error: &StripeError) -> bool {
    error.kind == ErrorKind::InvalidRequest
        && (error.code.as_deref() == Some(DUPLICATE)
            || error.message.contains("already exists with identifier"))
}
