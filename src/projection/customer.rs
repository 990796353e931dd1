//! Projects customers: whether they exist, and their default payment method.

use billing_domain::event_order::EventOrder;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::store;
use super::types::{Effects, NewAlert, Results};
use super::versions::{Mirrored, merge};
use crate::stripe::objects::{BillingObject, Customer};

impl Mirrored for Customer {
    const RESOURCE: &'static str = "customer";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::Customer(customer) => Some(customer),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, _event_type: &str, created: i64) -> EventOrder {
        // A deleted customer stays deleted.
        EventOrder {
            terminal: self.deleted,
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
    let keys: Vec<merge::ObjectKey> = results.by_object::<Customer>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::customers::load(conn, &keys).await?;
    let merged =
        merge::merge_events::<Customer>(conn, results, effects, &stored, |_, o, _| summary(o))
            .await?;
    store::customers::save(conn, &merged).await?;
    for event in results.decoded {
        let (Some(customer), Some(owner)) = (Customer::of(&event.object), event.owner) else {
            continue;
        };
        if customer.deleted {
            effects.alerts.push(NewAlert {
                organization_id: owner,
                kind: "customer_deleted",
                key: customer.id.clone(),
                resource_type: Customer::RESOURCE,
                resource_id: customer.id.clone(),
                message: format!(
                    "the Stripe customer {} was deleted and can no longer be charged; \
                     `organizations link-customer` gives the organization another one",
                    customer.id
                ),
                occurred_at: event.stored.created,
            });
        }
    }
    Ok(())
}

fn summary(customer: &Customer) -> Value {
    json!({
        "deleted": customer.deleted,
        "delinquent": customer.delinquent,
        "currency": customer.currency,
        "defaultPaymentMethodId": customer.default_payment_method_id,
    })
}
