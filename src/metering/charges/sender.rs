//! Has Stripe charge the usage that a change made in Stripe left without a price: by
//! an invoice item on the subscription's next invoice.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sqlx::postgres::PgPool;

use super::store::{self, OpenCharge};
use crate::db::WorkerTx;
use crate::stripe::client::{Client, ErrorKind, Params, StripeError};

/// How long Stripe is guaranteed to remember an idempotency key, less an hour.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(23);
/// The metadata of an invoice item that names its charge.
const CHARGE_KEY: &str = "billing_usage_charge";

/// What a run did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sent {
    pub charged: u64,
    pub failed: u64,
}

/// Makes the invoice items of the charges that have none yet, each once.
pub async fn send_open(pool: &PgPool, client: &Client) -> Result<Sent, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn()).await?;
    tx.commit().await?;
    let mut sent = Sent::default();
    for charge in open {
        let mut tx = WorkerTx::begin(pool).await?;
        let attempted = store::mark_attempted(tx.conn(), &charge).await?;
        tx.commit().await?;
        // Another process has made it meanwhile.
        let Some(attempted_at) = attempted else {
            continue;
        };
        let made = invoice_item(client, &charge, attempted_at).await;
        let mut tx = WorkerTx::begin(pool).await?;
        match made {
            Ok(id) => {
                sent.charged += 1;
                store::mark_charged(tx.conn(), &charge, &id).await?;
                tracing::info!(
                    organization_id = %charge.organization_id,
                    metric = charge.metric,
                    amount = charge.amount,
                    currency = charge.currency,
                    "Usage was charged at the price that the subscription had"
                );
            }
            Err(Unmade { reason, certain }) => {
                sent.failed += 1;
                store::mark_failed(tx.conn(), &charge, &reason, certain).await?;
                tracing::warn!(
                    organization_id = %charge.organization_id,
                    metric = charge.metric,
                    error = reason,
                    "Usage at a former price could not be charged"
                );
            }
        }
        tx.commit().await?;
    }
    Ok(sent)
}

/// Why there is no invoice item, and whether it is certain that there is none.
struct Unmade {
    reason: String,
    certain: bool,
}

/// Makes the invoice item of a charge; `attempted_at`: when it was first tried, if its
/// outcome is unknown. Attempts share a key while Stripe remembers it.
async fn invoice_item(
    client: &Client,
    charge: &OpenCharge,
    attempted_at: Timestamp,
) -> Result<String, Unmade> {
    let unknown = |error: StripeError| Unmade {
        reason: error.to_string(),
        certain: false,
    };
    if Timestamp::now().duration_since(attempted_at) > KEY_LIFETIME {
        let made = find(client, charge).await.map_err(unknown)?;
        return made.ok_or_else(|| Unmade {
            reason: "Stripe did not make it; the next run tries again".to_owned(),
            certain: true,
        });
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
    let key = format!("usage-charge-{name}-{}", attempted_at.as_microsecond());
    match client.create_invoice_item(&params, &key).await {
        Ok(id) => Ok(id),
        // Stripe has answered, and repeats that answer for the same key.
        Err(error) if error.kind == ErrorKind::Server => {
            match find(client, charge).await.map_err(unknown)? {
                Some(id) => Ok(id),
                None => Err(Unmade {
                    reason: error.to_string(),
                    certain: true,
                }),
            }
        }
        Err(error) => Err(Unmade {
            certain: !error.may_have_acted(),
            reason: error.to_string(),
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

fn describe(charge: &OpenCharge) -> String {
    let (units, rate) = (charge.units.normalize(), charge.overage_rate.normalize());
    format!(
        "{units} {} over the quota, at {rate} {} each",
        charge.metric,
        charge.currency.to_uppercase()
    )
}
