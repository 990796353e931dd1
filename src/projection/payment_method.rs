//! Projects payment methods.

use billing_domain::event_order::EventOrder;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::types::{Effects, Results};
use super::versions::{Mirrored, Version, merge};
use super::{erasure, store};
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

/// Ranks after the events of its second, those that our own request caused among them.
const RESPONSE_RANK: u8 = 2;

/// Mirrors a payment method as Stripe answered at `at`, within a transaction that holds
/// the organization's audit chain. Returns its summary before, and now.
pub async fn mirror(
    conn: &mut PgConnection,
    organization_id: Uuid,
    method: PaymentMethod,
    at: Timestamp,
) -> Result<(Option<Value>, Value), sqlx::Error> {
    let key = (organization_id, method.id.clone());
    let stored = store::payment_methods::load(conn, std::slice::from_ref(&key)).await?;
    let stored = stored.get(&key);
    let order = EventOrder {
        terminal: method.status == "detached",
        created: at.as_second(),
        rank: RESPONSE_RANK,
    };
    let before = stored.map(|one| one.summary.clone());
    if stored.is_some_and(|newer| order < newer.version.order()) {
        let now = before.clone().unwrap_or_default();
        return Ok((before, now));
    }
    let after = summary(&method);
    let merged = merge::MergedObject {
        organization_id,
        version: Version::at(order, at, format!("request:{}", Uuid::now_v7())),
        snapshot: method,
        undecided: false,
    };
    store::payment_methods::save(conn, &[merged]).await?;
    erasure::clear_again(conn, &[organization_id]).await?;
    Ok((before, after))
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
