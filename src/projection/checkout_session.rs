//! Projects checkout sessions. They also name the organization of a new
//! customer.

use billing_domain::event_order::EventOrder;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::store;
use super::types::{Effects, Results};
use super::versions::{Mirrored, merge};
use crate::stripe::objects::{BillingObject, CheckoutSession};

impl Mirrored for CheckoutSession {
    const RESOURCE: &'static str = "checkout_session";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::CheckoutSession(session) => Some(session),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, event_type: &str, created: i64) -> EventOrder {
        // An asynchronous payment ends after its session.
        let rank = match event_type {
            "checkout.session.completed" | "checkout.session.expired" => 0,
            _ => 1,
        };
        EventOrder {
            terminal: rank == 1,
            created,
            rank,
        }
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let keys: Vec<merge::ObjectKey> = results.by_object::<CheckoutSession>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::checkout_sessions::load(conn, &keys).await?;
    let merged =
        merge::merge_events::<CheckoutSession>(conn, results, effects, &stored, |_, o, _| {
            summary(o)
        })
        .await?;
    store::checkout_sessions::save(conn, &merged).await
}

fn summary(session: &CheckoutSession) -> Value {
    json!({
        "status": session.status,
        "paymentStatus": session.payment_status,
        "mode": session.mode,
        "totalAmount": session.total,
        "currency": session.currency,
        "stripeCustomerId": session.customer_id,
        "stripeSubscriptionId": session.subscription_id,
        "stripeInvoiceId": session.invoice_id,
    })
}
