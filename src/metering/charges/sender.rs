//! Has Stripe charge the usage that a change made in Stripe left without a price: by
//! an invoice item on the subscription's next invoice.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::INVOICED;
use super::store::{self, Attempt, FailedAttempt, OpenCharge};
use crate::audit::{self, Actor, NewEntry};
use crate::db::{self, WorkerTx};
use crate::stripe::client::{Client, ErrorKind, Params, StripeError};

/// How long Stripe is guaranteed to remember an idempotency key, less an hour.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(23);
/// How long after an attempt another one may still be under way.
const ATTEMPT_LIFETIME: SignedDuration = SignedDuration::from_mins(10);
/// The metadata of an invoice item that names its charge.
const CHARGE_KEY: &str = "billing_usage_charge";

/// What a run did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sent {
    pub charged: u64,
    pub failed: u64,
}

/// Makes the invoice items of the charges that have none yet, each once, of one
/// organization or of all. What Stripe refuses is no failure: it is found as unbilled.
pub async fn send_open(
    pool: &PgPool,
    client: &Client,
    organization_id: Option<Uuid>,
) -> Result<Sent, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), organization_id).await?;
    tx.commit().await?;
    let mut sent = Sent::default();
    for charge in open {
        match send(pool, client, &charge).await {
            Ok(Some(true)) => sent.charged += 1,
            Ok(Some(false)) => sent.failed += 1,
            Ok(None) => {}
            Err(error) if db::is_outage(&error) => return Err(error),
            // What holds up one organization's charge holds up no other's.
            Err(error) => {
                sent.failed += 1;
                warn(&charge, &error.to_string());
            }
        }
    }
    Ok(sent)
}

/// Makes one charge's invoice item. Returns whether that succeeded; `None` if there was
/// nothing to do, or Stripe refused.
async fn send(
    pool: &PgPool,
    client: &Client,
    charge: &OpenCharge,
) -> Result<Option<bool>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let attempted = store::mark_attempted(tx.conn(), charge).await?;
    tx.commit().await?;
    // Another process has made it meanwhile.
    let Some(attempt) = attempted else {
        return Ok(None);
    };
    let made = invoice_item(client, charge, attempt).await;
    let mut tx = WorkerTx::begin(pool).await?;
    let outcome = match made {
        Ok(id) => {
            audit::record_one(&mut tx, entry(charge, &id)).await?;
            store::mark_charged(tx.conn(), charge, &id).await?;
            tracing::info!(
                organization_id = %charge.organization_id,
                metric = charge.metric,
                amount = charge.amount,
                currency = charge.currency,
                "Usage was charged at the price that the subscription had"
            );
            Some(true)
        }
        Err(Unmade { reason, outcome }) => {
            store::mark_failed(tx.conn(), charge, attempt, &reason, outcome).await?;
            warn(charge, &reason);
            (outcome != FailedAttempt::Refused).then_some(false)
        }
    };
    tx.commit().await?;
    Ok(outcome)
}

fn warn(charge: &OpenCharge, error: &str) {
    tracing::warn!(
        organization_id = %charge.organization_id,
        metric = charge.metric,
        error,
        "Usage at a former price could not be charged"
    );
}

fn entry(charge: &OpenCharge, invoice_item: &str) -> NewEntry {
    NewEntry {
        organization_id: charge.organization_id,
        action: INVOICED,
        actor: Actor::System,
        resource_type: "usage_charge",
        resource_id: charge.id.to_string(),
        before: None,
        after: Some(json!({
            "metric": charge.metric,
            "amount": charge.amount,
            "currency": charge.currency,
            "stripeInvoiceItemId": invoice_item,
        })),
        metadata: json!({"stripe_subscription_id": charge.stripe_subscription_id}),
        client: None,
        reason: None,
    }
}

/// Why there is no invoice item.
struct Unmade {
    reason: String,
    outcome: FailedAttempt,
}

impl Unmade {
    fn new(error: &StripeError, outcome: FailedAttempt) -> Self {
        Self {
            reason: error.to_string(),
            outcome,
        }
    }
}

/// Makes the invoice item of a charge. Attempts share a key while Stripe remembers it;
/// before another key is used, Stripe is asked whether it has the item.
async fn invoice_item(
    client: &Client,
    charge: &OpenCharge,
    attempt: Attempt,
) -> Result<String, Unmade> {
    let unknown = |error: StripeError| Unmade::new(&error, FailedAttempt::Unknown);
    let age = Timestamp::now().duration_since(attempt.since);
    let forgotten = age > KEY_LIFETIME;
    if forgotten || (attempt.first && charge.tried) {
        if let Some(id) = find(client, charge).await.map_err(unknown)? {
            return Ok(id);
        }
        if forgotten {
            return Err(Unmade {
                reason: "Stripe did not make it; the next run tries again".to_owned(),
                outcome: FailedAttempt::Over,
            });
        }
    }
    let name = name_of(charge);
    let params = Params::new()
        .set("customer", &charge.stripe_customer_id)
        .set("subscription", &charge.stripe_subscription_id)
        .set("amount", charge.amount)
        .set("currency", &charge.currency)
        .set("description", describe(charge))
        .set("period[start]", charge.period_start.as_second())
        .set("period[end]", charge.changed_at.as_second())
        .set(format!("metadata[{CHARGE_KEY}]"), &name);
    let key = format!("usage-charge-{name}-{}", attempt.since.as_microsecond());
    match client.create_invoice_item(&params, &key).await {
        Ok(id) => Ok(id),
        // Stripe repeats its answer for the same key. It may be a proxy's: no other key is
        // used while an attempt may be under way.
        Err(error) if error.kind == ErrorKind::Server => {
            let outcome = match age > ATTEMPT_LIFETIME {
                true => FailedAttempt::Over,
                false => FailedAttempt::Unknown,
            };
            let made = find(client, charge).await.map_err(unknown)?;
            made.ok_or_else(|| Unmade::new(&error, outcome))
        }
        Err(error) => Err(match error.kind {
            ErrorKind::NotFound | ErrorKind::InvalidRequest => {
                Unmade::new(&error, FailedAttempt::Refused)
            }
            // The same key again is as good as another.
            _ => Unmade::new(&error, FailedAttempt::Unknown),
        }),
    }
}

fn name_of(charge: &OpenCharge) -> String {
    format!("{}:{}", charge.id, charge.metric)
}

/// The invoice item that Stripe has of a charge.
async fn find(client: &Client, charge: &OpenCharge) -> Result<Option<String>, StripeError> {
    let name = Value::from(name_of(charge));
    let items = client.invoice_items(&charge.stripe_customer_id).await?;
    let mut items = items.iter();
    let made = items.find(|item| item["metadata"][CHARGE_KEY] == name);
    Ok(made.and_then(|item| item["id"].as_str()).map(str::to_owned))
}

/// What the customer reads on the invoice.
fn describe(charge: &OpenCharge) -> String {
    let (units, rate) = (charge.units.normalize(), charge.overage_rate.normalize());
    format!(
        "{units} {} over the quota, at {rate} {} each",
        charge.metric,
        charge.currency.to_uppercase()
    )
}
