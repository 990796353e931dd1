//! Projects invoice payments, which link a charge to its invoice where the charge
//! itself does not.

use billing_domain::event_order::EventOrder;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::store;
use super::types::{Effects, Results};
use super::versions::{Mirrored, merge};
use crate::stripe::objects::{BillingObject, InvoicePayment};

impl Mirrored for InvoicePayment {
    const RESOURCE: &'static str = "invoice_payment";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::InvoicePayment(payment) => Some(payment),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, _event_type: &str, created: i64) -> EventOrder {
        EventOrder {
            terminal: false,
            created,
            rank: 0,
        }
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let keys: Vec<merge::ObjectKey> = results.by_object::<InvoicePayment>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::invoice_payments::load(conn, &keys).await?;
    let merged =
        merge::merge_events::<InvoicePayment>(conn, results, effects, &stored, |_, o, _| {
            summary(o)
        })
        .await?;
    store::invoice_payments::save(conn, &merged).await
}

fn summary(payment: &InvoicePayment) -> Value {
    json!({
        "invoiceId": payment.invoice_id,
        "paymentIntentId": payment.payment_intent_id,
        "chargeId": payment.charge_id,
        "status": payment.status,
        "paidAmount": payment.amount_paid,
        "currency": payment.currency,
    })
}
