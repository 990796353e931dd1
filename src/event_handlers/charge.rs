//! Charges: how each attempt to collect money ended.

use billing_domain::event_order::Place;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::fold;
use super::history::Mirrored;
use super::{Effects, Results, store};
use crate::stripe::objects::{BillingObject, Charge};

impl Mirrored for Charge {
    const RESOURCE: &'static str = "charge";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::Charge(charge) => Some(charge),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self, _event_type: &str, created: i64) -> Place {
        // A bank debit may fail after it succeeded.
        let rank = match self.status.as_str() {
            "pending" => 0,
            "succeeded" => 1,
            _ => 2,
        };
        Place {
            terminal: false,
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
    let keys: Vec<fold::Key> = results.by_object::<Charge>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::charges::load(conn, &keys).await?;
    let folded = fold::fold_objects::<Charge>(conn, results, effects, &stored, |_, charge, _| {
        summary(charge)
    })
    .await?;
    store::charges::save(conn, &folded).await
}

fn summary(charge: &Charge) -> Value {
    json!({
        "status": charge.status,
        "amount": charge.amount,
        "amountRefunded": charge.amount_refunded,
        "currency": charge.currency,
        "failureCode": charge.failure_code,
        "failureMessage": charge.failure_message,
    })
}
