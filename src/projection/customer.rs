//! Projects customers: whether they exist, and their default payment method.

use billing_domain::event_order::EventOrder;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::event_types::action;
use super::types::{Effects, NewAlert, Results};
use super::versions::{Mirrored, Version, merge};
use super::{discount, store};
use crate::audit::{Actor, NewEntry};
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

/// Mirrors a customer as Stripe answered at `at`, within a transaction that holds the
/// organization's audit chain. Returns the audit entry of what changed.
pub async fn mirror(
    conn: &mut PgConnection,
    organization_id: Uuid,
    customer: Customer,
    at: Timestamp,
) -> Result<Option<NewEntry>, sqlx::Error> {
    let shown = discount::in_customer(organization_id, &customer, at);
    discount::remember(conn, shown).await?;
    let key = (organization_id, customer.id.clone());
    let stored = store::customers::load(conn, std::slice::from_ref(&key)).await?;
    let stored = stored.get(&key);
    let order = customer.order("customer.updated", at.as_second());
    if stored.is_some_and(|newer| order < newer.version.order()) {
        return Ok(None);
    }
    let (before, after) = (stored.map(|one| one.summary.clone()), summary(&customer));
    let resource_id = customer.id.clone();
    let merged = merge::MergedObject {
        organization_id,
        version: Version::at(order, at, format!("request:{}", Uuid::now_v7())),
        snapshot: customer,
        undecided: false,
    };
    store::customers::save(conn, &[merged]).await?;
    let changed = before.as_ref() != Some(&after);
    Ok(changed.then(|| NewEntry {
        organization_id,
        action: action("customer.updated"),
        actor: Actor::System,
        resource_type: Customer::RESOURCE,
        resource_id,
        before,
        after: Some(after),
        metadata: json!({}),
        client: None,
        reason: None,
    }))
}

fn summary(customer: &Customer) -> Value {
    json!({
        "deleted": customer.deleted,
        "delinquent": customer.delinquent,
        "currency": customer.currency,
        "defaultPaymentMethodId": customer.default_payment_method_id,
        "discounts": customer.discount_ids,
        "taxLocated": customer.tax_located,
    })
}
