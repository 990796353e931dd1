//! Which organization an event belongs to.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::store::unclaimed::Unclaimed;
use super::{Context, Handled, HandlerError, StoredEvent, UnknownCustomers, store};
use crate::stripe::event::ORGANIZATION_KEYS;
use crate::stripe::objects::BillingObject;

/// Sets each event's owner: by the billing customer, else by the metadata
/// `organization_id` or `tenant_id`, else (for objects that name no customer)
/// by the object that they are about, as far as it is known or another event
/// of the batch shows it. Returns what becomes of the events for which there
/// is none, by their place in the batch.
pub async fn find(
    conn: &mut PgConnection,
    context: &Context<'_>,
    events: &mut [Decoded<'_>],
) -> Result<Vec<(usize, Result<Handled, HandlerError>)>, sqlx::Error> {
    let customers: HashSet<&str> = events
        .iter()
        .filter_map(|e| customer_of(&e.object))
        .collect();
    let by_customer = store::customers::organizations_of_customers(conn, &customers).await?;
    let claimed: HashSet<Uuid> = events
        .iter()
        .flat_map(|e| claims(&e.object).filter_map(|text| text.parse().ok()))
        .collect();
    let existing = store::existing_organizations(conn, &claimed).await?;
    let subjects: Vec<&str> = events.iter().filter_map(|e| subject(&e.object)).collect();
    let mut by_object = if subjects.is_empty() {
        HashMap::new()
    } else {
        store::unclaimed::organizations_of_objects(conn, &subjects).await?
    };

    for event in &mut *events {
        event.owner = customer_of(&event.object)
            .and_then(|id| by_customer.get(id))
            .or_else(|| {
                claims(&event.object).find_map(|text| existing.get(&text.parse::<Uuid>().ok()?))
            })
            .copied();
        if let (true, Some(owner)) = (is_subject(&event.object), event.owner) {
            by_object.insert(event.object.id().to_owned(), owner);
        }
    }
    let mut unowned = Vec::new();
    for event in events {
        if event.owner.is_none() {
            event.owner = subject(&event.object)
                .and_then(|id| by_object.get(id))
                .copied();
        }
        if event.owner.is_none() {
            unowned.push((event.index, no_owner(context, &event.object)));
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
    store::customers::remember_customers(conn, &found).await
}

/// Remembers which events of the batch are nobody's yet.
pub async fn remember_unclaimed(
    conn: &mut PgConnection,
    events: &[&StoredEvent],
    results: &[Option<Result<Handled, HandlerError>>],
) -> Result<(), sqlx::Error> {
    let unclaimed: Vec<Unclaimed<'_>> = events
        .iter()
        .zip(results)
        .filter_map(|(event, result)| match result {
            Some(Ok(Handled::Unclaimed {
                waiting_for: Some(waiting_for),
            })) => Some(Unclaimed {
                bucket: event.bucket,
                event_id: &event.id,
                waiting_for,
            }),
            _ => None,
        })
        .collect();
    store::unclaimed::remember(conn, &unclaimed).await
}

/// Lets events be processed again that were nobody's until those of the batch
/// said whose they are.
pub async fn wake_unclaimed(
    conn: &mut PgConnection,
    events: &[Decoded<'_>],
) -> Result<(), sqlx::Error> {
    let named = events.iter().flat_map(|event| {
        let id = is_subject(&event.object).then(|| event.object.id());
        let by_claim = claims(&event.object).next().is_some();
        let customer = customer_of(&event.object).filter(|_| by_claim);
        [id, customer].into_iter().flatten()
    });
    let named: HashSet<&str> = named.collect();
    store::unclaimed::wake(conn, &Vec::from_iter(named)).await?;
    Ok(())
}

fn customer_of(object: &BillingObject) -> Option<&str> {
    match object {
        BillingObject::Subscription(o) => Some(&o.customer_id),
        BillingObject::Invoice(o) => o.customer_id.as_deref(),
        BillingObject::Charge(o) => o.customer_id.as_deref(),
        BillingObject::PaymentMethod(o) => o.customer_id.as_deref(),
        BillingObject::Customer(o) => Some(&o.id),
        BillingObject::CheckoutSession(o) => o.customer_id.as_deref(),
        BillingObject::Dispute(_) | BillingObject::InvoicePayment(_) => None,
    }
}

/// What the object says of its organization: by metadata, which whoever has
/// the account's key wrote.
fn claims(object: &BillingObject) -> impl Iterator<Item = &str> {
    let (metadata, inherited, reference) = match object {
        BillingObject::Subscription(o) => (Some(&o.metadata), None, None),
        BillingObject::Invoice(o) => (Some(&o.metadata), Some(&o.subscription_metadata), None),
        BillingObject::Charge(o) => (Some(&o.metadata), None, None),
        BillingObject::PaymentMethod(o) => (Some(&o.metadata), None, None),
        BillingObject::Customer(o) => (Some(&o.metadata), None, None),
        BillingObject::Dispute(o) => (Some(&o.metadata), None, None),
        BillingObject::CheckoutSession(o) => (Some(&o.metadata), None, o.reference()),
        BillingObject::InvoicePayment(_) => (None, None, None),
    };
    metadata
        .into_iter()
        .chain(inherited)
        .flat_map(organizations_in)
        .chain(reference)
}

fn organizations_in(metadata: &Map<String, Value>) -> impl Iterator<Item = &str> {
    ORGANIZATION_KEYS
        .iter()
        .filter_map(|key| metadata.get(*key)?.as_str())
}

/// The object whose owner owns this one, which names no customer.
fn subject(object: &BillingObject) -> Option<&str> {
    match object {
        BillingObject::PaymentMethod(o) if o.customer_id.is_none() => Some(&o.id),
        BillingObject::Dispute(o) => Some(&o.charge_id),
        BillingObject::InvoicePayment(o) => Some(&o.invoice_id),
        _ => None,
    }
}

/// Whether it may be another object's subject.
fn is_subject(object: &BillingObject) -> bool {
    matches!(
        object,
        BillingObject::PaymentMethod(_) | BillingObject::Charge(_) | BillingObject::Invoice(_)
    )
}

fn no_owner(context: &Context<'_>, object: &BillingObject) -> Result<Handled, HandlerError> {
    let is_uuid = |text: &&str| text.parse::<Uuid>().is_ok();
    let claimed = claims(object).find(is_uuid).or(claims(object).next());
    let claim = match claimed {
        None => "its metadata names no organization_id".to_owned(),
        Some(text) if !is_uuid(&text) => {
            format!("its metadata's organization_id {text:?} is no UUID")
        }
        Some(text) => format!("there is no organization {text}, which its metadata names"),
    };
    let unclaimed = |waiting_for: Option<&str>| {
        Ok(Handled::Unclaimed {
            waiting_for: waiting_for.map(str::to_owned),
        })
    };
    match customer_of(object) {
        Some(customer) if context.unknown_customers == UnknownCustomers::Ignore => {
            unclaimed(Some(customer))
        }
        Some(customer) => Err(HandlerError::UnknownOrganization {
            customer_id: Some(customer.to_owned()),
            problem: format!(
                "no organization has the Stripe customer {customer}, and {claim}; \
                 `organizations create --stripe-customer {customer}` makes one"
            ),
        }),
        None if claimed.is_some() && context.unknown_customers == UnknownCustomers::Retry => {
            // Its organization may yet be made.
            Err(HandlerError::UnknownOrganization {
                customer_id: None,
                problem: format!("it names no Stripe customer, and {claim}"),
            })
        }
        // Shops have guests, and other products share the account.
        None => unclaimed(subject(object)),
    }
}
