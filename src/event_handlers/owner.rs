//! Which organization an event belongs to.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::{HandlerError, store};
use crate::stripe::event::ORGANIZATION_KEYS;
use crate::stripe::objects::BillingObject;

/// Sets each event's owner: by the billing customer, else by the metadata
/// `organization_id` or `tenant_id`, else (for a detached payment method that
/// names no customer) by what is known of the object, or by another event of
/// the batch. Returns the events for which there is none, by their place in
/// the batch.
pub async fn find(
    conn: &mut PgConnection,
    events: &mut [Decoded<'_>],
) -> Result<Vec<(usize, HandlerError)>, sqlx::Error> {
    let customers: HashSet<&str> = events
        .iter()
        .filter_map(|e| customer_of(&e.object))
        .collect();
    let by_customer = store::organizations_of_customers(conn, &customers).await?;
    let claimed: HashSet<Uuid> = events
        .iter()
        .flat_map(|e| claims(&e.object).filter_map(|text| text.parse().ok()))
        .collect();
    let existing = store::existing_organizations(conn, &claimed).await?;
    let unnamed: Vec<&str> = events
        .iter()
        .filter_map(|e| unnamed_payment_method(&e.object))
        .collect();
    let mut by_payment_method = if unnamed.is_empty() {
        HashMap::new()
    } else {
        store::organizations_of_payment_methods(conn, &unnamed).await?
    };

    for event in &mut *events {
        event.owner = customer_of(&event.object)
            .and_then(|id| by_customer.get(id))
            .or_else(|| {
                claims(&event.object).find_map(|text| existing.get(&text.parse::<Uuid>().ok()?))
            })
            .copied();
        if let (BillingObject::PaymentMethod(method), Some(owner)) = (&event.object, event.owner) {
            by_payment_method.insert(method.id.clone(), owner);
        }
    }
    let mut unowned = Vec::new();
    for event in events {
        if event.owner.is_none() {
            let method = unnamed_payment_method(&event.object);
            event.owner = method.and_then(|id| by_payment_method.get(id)).copied();
        }
        if event.owner.is_none() {
            unowned.push((event.index, no_owner(&event.object)));
        }
    }
    Ok(unowned)
}

/// Remembers the customers of events whose organization was found by their
/// metadata, so that events without metadata find it too.
pub async fn remember_customers(
    conn: &mut PgConnection,
    events: &[Decoded<'_>],
) -> Result<(), sqlx::Error> {
    let found: HashMap<&str, Uuid> = events
        .iter()
        .filter(|event| claims(&event.object).next().is_some())
        .filter_map(|event| Some((customer_of(&event.object)?, event.owner?)))
        .collect();
    store::remember_customers(conn, &found).await
}

fn customer_of(object: &BillingObject) -> Option<&str> {
    match object {
        BillingObject::Subscription(o) => Some(&o.customer_id),
        BillingObject::Invoice(o) => o.customer_id.as_deref(),
        BillingObject::Charge(o) => o.customer_id.as_deref(),
        BillingObject::PaymentMethod(o) => o.customer_id.as_deref(),
    }
}

/// What the object's metadata says of its organization.
fn claims(object: &BillingObject) -> impl Iterator<Item = &str> {
    let (metadata, inherited) = match object {
        BillingObject::Subscription(o) => (&o.metadata, None),
        BillingObject::Invoice(o) => (&o.metadata, Some(&o.subscription_metadata)),
        BillingObject::Charge(o) => (&o.metadata, None),
        BillingObject::PaymentMethod(o) => (&o.metadata, None),
    };
    std::iter::once(metadata)
        .chain(inherited)
        .flat_map(organizations_in)
}

fn organizations_in(metadata: &Map<String, Value>) -> impl Iterator<Item = &str> {
    ORGANIZATION_KEYS
        .iter()
        .filter_map(|key| metadata.get(*key)?.as_str())
}

fn unnamed_payment_method(object: &BillingObject) -> Option<&str> {
    match object {
        BillingObject::PaymentMethod(o) if o.customer_id.is_none() => Some(&o.id),
        _ => None,
    }
}

fn no_owner(object: &BillingObject) -> HandlerError {
    let is_uuid = |text: &&str| text.parse::<Uuid>().is_ok();
    let claimed = claims(object).find(is_uuid).or(claims(object).next());
    let claim = match claimed {
        None => "its metadata names no organization_id".to_owned(),
        Some(text) if !is_uuid(&text) => {
            format!("its metadata's organization_id {text:?} is no UUID")
        }
        Some(text) => format!("there is no organization {text}, which its metadata names"),
    };
    match customer_of(object) {
        Some(customer) => HandlerError::UnknownOrganization {
            customer_id: Some(customer.to_owned()),
            problem: format!(
                "no organization has the Stripe customer {customer}, and {claim}; \
                 `organizations create --stripe-customer {customer}` makes one"
            ),
        },
        // It may yet be named by an event of the object that is on its way, or
        // its organization be made.
        None if claimed.is_some() || unnamed_payment_method(object).is_some() => {
            HandlerError::UnknownOrganization {
                customer_id: None,
                problem: format!("it names no Stripe customer, and {claim}"),
            }
        }
        None => HandlerError::Permanent(format!("it names no Stripe customer, and {claim}")),
    }
}
