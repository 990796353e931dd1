//! Usage that Stripe accepted and rejected afterwards. It says so in events that name
//! neither an organization nor what was wrong: that is asked of Stripe.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgPool;

use super::store::{self, MeterError};
use crate::db::{self, WorkerTx};
use crate::stripe::client::{Client, StripeError};
use crate::telemetry::metrics;

/// Events about rejected usage: of a meter, and of none.
pub const EVENT_TYPES: [&str; 2] = [
    "v1.billing.meter.error_report_triggered",
    "v1.billing.meter.no_meter_found",
];
/// The codes of Stripe that are known; it may send others.
pub const CODES: [&str; 10] = [
    "archived_meter",
    "meter_event_customer_not_found",
    "meter_event_dimension_count_too_high",
    "meter_event_invalid_value",
    "meter_event_no_customer_defined",
    "meter_event_value_too_many_digits",
    "missing_dimension_payload_keys",
    "no_meter",
    "timestamp_in_future",
    "timestamp_too_far_in_past",
];
/// The label of every other code.
pub const OTHER: &str = "other";
/// Events read in one round.
const ROUND: i64 = 20;
/// How long a round waits for reports that another transaction holds.
const LOCK_TIMEOUT: &str = "1s";
/// The length of the identifiers of our reports. Stripe may name the key of the call, which
/// begins with it.
const IDENTIFIER: (&str, usize) = ("usage-", 46);

/// What Stripe says about an event: how much usage it rejected, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    pub count: i64,
    pub summary: Option<String>,
    pub errors: Vec<Rejection>,
}

/// Usage that Stripe rejected for one reason, with some of the reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    pub code: String,
    pub count: i64,
    pub message: Option<String>,
    pub identifiers: Vec<String>,
}

/// Why an event could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Stripe(#[from] StripeError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Asks Stripe about a round of events that are not explained yet. One that fails is tried
/// again later, and holds up no other.
pub async fn explain_new(pool: &PgPool, client: &Client) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let unexplained = store::unexplained(tx.conn(), ROUND).await?;
    tx.rollback().await?;
    for event_id in unexplained {
        let explained = db::impatiently(LOCK_TIMEOUT, explain(pool, client, &event_id)).await;
        let Err(error) = explained else { continue };
        tracing::warn!(
            event_id, %error, "Stripe could not be asked which usage it has rejected; trying again later"
        );
        let mut tx = WorkerTx::begin(pool).await?;
        store::postpone_explanation(tx.conn(), &event_id, &error.to_string()).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn explain(pool: &PgPool, client: &Client, event_id: &str) -> Result<(), ReadError> {
    let event = client.thin_event(event_id).await?;
    let explained = Explained::of(&event);
    let mut tx = WorkerTx::begin(pool).await?;
    let mut rejected = Vec::new();
    for error in &explained.errors {
        let why = format!(
            "{}: {}",
            error.code,
            error.message.as_deref().unwrap_or("-")
        );
        let identifiers = &error.identifiers;
        rejected.extend(store::mark_rejected(tx.conn(), identifiers, &error.code, &why).await?);
    }
    store::explained(tx.conn(), event_id, &explained).await?;
    tx.commit().await?;
    for error in &explained.errors {
        let known = CODES.into_iter().find(|code| *code == error.code);
        metrics::usage_rejected(known.unwrap_or(OTHER), error.count.unsigned_abs());
        tracing::error!(
            event_id,
            code = error.code,
            count = error.count,
            message = error.message,
            "Stripe has rejected usage that it had accepted: docs/runbook.md, UsageRejected, says what to do"
        );
    }
    for report in rejected {
        tracing::warn!(
            organization_id = %report.organization_id, metric = report.metric,
            identifier = report.identifier, units = %report.units, "Usage is not counted by Stripe"
        );
    }
    Ok(())
}

impl Explained {
    /// Reads a thin event that was fetched, and so has its data.
    fn of(event: &Value) -> Self {
        let data = &event["data"];
        let reason = &data["reason"];
        let errors = reason["error_types"].as_array().into_iter().flatten();
        let errors: Vec<Rejection> = errors.map(Rejection::of).collect();
        let counted = errors.iter().map(|error| error.count).sum();
        Self {
            count: reason["error_count"].as_i64().unwrap_or(counted),
            summary: text(&data["developer_message_summary"]),
            errors,
        }
    }
}

impl Rejection {
    fn of(error: &Value) -> Self {
        let samples: Vec<&Value> = error["sample_errors"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let named = samples.iter().filter_map(|sample| {
            let identifier = sample["request"]["identifier"].as_str()?;
            let (prefix, length) = IDENTIFIER;
            let ours = identifier
                .starts_with(prefix)
                .then(|| identifier.get(..length));
            Some(ours.flatten().unwrap_or(identifier).to_owned())
        });
        Self {
            code: text(&error["code"]).unwrap_or_else(|| OTHER.to_owned()),
            count: error["error_count"].as_i64().unwrap_or(0),
            message: samples
                .iter()
                .find_map(|sample| text(&sample["error_message"])),
            identifiers: named.collect(),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Lists what Stripe rejected of the usage that it still accepts, newest first, as far as
/// nobody has dealt with it.
pub async fn rejected(pool: &PgPool) -> Result<Vec<MeterError>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let found = store::meter_errors(tx.conn()).await?;
    tx.commit().await?;
    Ok(found)
}

/// Has the next run tell Stripe again what it rejected, as far as it says which reports
/// those were. Returns how many they are.
pub async fn tell_again(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let organizations = store::with_rejected(tx.conn()).await?;
    tx.rollback().await?;
    let mut told = 0;
    for organization_id in organizations {
        let mut tx = WorkerTx::begin(pool).await?;
        store::lock(tx.conn(), &[organization_id]).await?;
        told += store::take_back(tx.conn(), organization_id).await?;
        tx.commit().await?;
    }
    Ok(told)
}

/// Takes what Stripe rejected until `until` for dealt with.
pub async fn settle(pool: &PgPool, until: Timestamp) -> Result<u64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let settled = store::settle_meter_errors(tx.conn(), until).await?;
    tx.commit().await?;
    Ok(settled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As Stripe's documentation shows it.
    #[test]
    fn a_fetched_event_says_what_was_rejected() {
        let ours = format!("usage-{}", "0f".repeat(20));
        let event = json!({
            "object": "v2.core.event",
            "type": EVENT_TYPES[0],
            "data": {
                "developer_message_summary": "There is 1 invalid event",
                "reason": {"error_count": 2, "error_types": [{
                    "code": "meter_event_no_customer_defined",
                    "error_count": 2,
                    "sample_errors": [
                        {"error_message": "Customer mapping key stripe_customer_id not found in payload.",
                         "request": {"identifier": "cb447754-6880-45c2-8f2f-ef19b6ce81e9"}},
                        {"error_message": "The same.",
                         "request": {"identifier": format!("{ours}-0190")}},
                    ],
                }]},
            },
        });
        let explained = Explained::of(&event);
        assert_eq!(explained.count, 2);
        assert_eq!(
            explained.summary.as_deref(),
            Some("There is 1 invalid event")
        );
        let [error] = &*explained.errors else {
            panic!("{explained:?}");
        };
        assert_eq!(error.code, "meter_event_no_customer_defined");
        assert_eq!(error.identifiers[0], "cb447754-6880-45c2-8f2f-ef19b6ce81e9");
        assert_eq!(error.identifiers[1], ours);
    }

    #[test]
    fn an_event_that_says_nothing_is_an_event_all_the_same() {
        let explained = Explained::of(&json!({"data": null}));
        assert_eq!((explained.count, explained.errors.len()), (0, 0));
    }
}
