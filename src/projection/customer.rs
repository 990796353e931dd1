//! Customers: whether they are still there, and what they pay with.

use billing_domain::event_order::Place;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::versions::Mirrored;
use super::versions::apply;
use super::{Effects, NewAlert, Results, store};
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

    fn place(&self, _event_type: &str, created: i64) -> Place {
        // Who was deleted does not come back.
        Place {
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
    let keys: Vec<apply::Key> = results.by_object::<Customer>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::customers::load(conn, &keys).await?;
    let folded =
        apply::fold_objects::<Customer>(conn, results, effects, &stored, |_, o, _| summary(o))
            .await?;
    store::customers::save(conn, &folded).await?;
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
                    "the Stripe customer {} was deleted; nothing can be charged to it any more. \
                     `organizations link-customer` gives the organization another",
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
