//! Projects payment methods.

use billing_domain::event_order::EventOrder;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::store;
use super::types::{Effects, Results};
use super::versions::{Mirrored, merge};
use crate::stripe::objects::{BillingObject, PaymentMethod};

impl Mirrored for PaymentMethod {
    const RESOURCE: &'static str = "payment_method";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::PaymentMethod(method) => Some(method),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, event_type: &str, created: i64) -> EventOrder {
        // A detached method cannot be attached again; one that is updated while
        // it is not attached can.
        let changed = event_type.ends_with("updated");
        EventOrder {
            terminal: self.status == "detached" && !changed,
            created,
            rank: u8::from(changed),
        }
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let keys: Vec<merge::ObjectKey> = results.by_object::<PaymentMethod>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::payment_methods::load(conn, &keys).await?;
    let merged =
        merge::merge_events::<PaymentMethod>(conn, results, effects, &stored, |_, method, _| {
            summary(method)
        })
        .await?;
    store::payment_methods::save(conn, &merged).await
}

/// Without a card's digits and country: nothing can be erased from the audit chain.
fn summary(method: &PaymentMethod) -> Value {
    json!({
        "status": method.status,
        "type": method.kind,
        "brand": method.brand,
        "funding": method.funding,
        "expMonth": method.exp_month,
        "expYear": method.exp_year,
    })
}
