//! Finds the organization that an event belongs to.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::store;
use super::store::unclaimed::Unclaimed;
use super::types::{Context, Handled, HandlerError, NewAlert};
use crate::config::UnknownCustomers;
use crate::event_log::StoredEvent;
use crate::stripe::event::ORGANIZATION_KEYS;
use crate::stripe::objects::BillingObject;

/// The result of looking for owners.
pub struct Found {
    /// The results of events without an organization, by position in the batch.
    pub unowned: Vec<(usize, Result<Handled, HandlerError>)>,
    pub alerts: Vec<NewAlert>,
    /// New customers, with the organizations that they join.
    pub joined: HashMap<String, Uuid>,
}

/// Sets each event's owner: by its customer, otherwise by the metadata
/// `organization_id` or `tenant_id`, otherwise (for objects that name no
/// customer) by the related object, if it is stored or another event of the
/// batch shows it. A customer belongs to one organization, whatever its other
/// objects name. A second customer of an organization raises an alert, since
/// metadata then decides its plan.
pub async fn find(
    conn: &mut PgConnection,
    context: &Context<'_>,
    events: &mut [Decoded<'_>],
) -> Result<Found, sqlx::Error> {
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
    let claimed_by = |event: &Decoded<'_>| {
        claims(&event.object)
            .filter_map(|text| text.parse::<Uuid>().ok())
            .find(|id| existing.contains(id))
    };
    let mut taken = taken(conn, events, &by_customer, claimed_by).await?;
    let mut by_object = owners_of_subjects(conn, events).await?;

    let mut joined: HashMap<String, Uuid> = HashMap::new();
    let mut others: HashMap<usize, (Uuid, String)> = HashMap::new();
    for event in &mut *events {
        let customer = customer_of(&event.object);
        event.owner = customer
            .and_then(|id| by_customer.get(id).or_else(|| joined.get(id)))
            .copied();
        if event.owner.is_none() {
            event.owner = claimed_by(&*event);
        }
        if let (Some(owner), Some(customer)) = (event.owner, customer)
            && !by_customer.contains_key(customer)
        {
            let has = taken
                .entry(owner)
                .or_insert_with(|| customer.to_owned())
                .clone();
            joined.insert(customer.to_owned(), owner);
            if has != customer {
                others.insert(event.index, (owner, has));
            }
        }
        if let (true, Some(owner)) = (is_subject(&event.object), event.owner) {
            by_object.insert(event.object.id().to_owned(), owner);
        }
    }
    let mut found = Found {
        unowned: Vec::new(),
        alerts: Vec::new(),
        joined,
    };
    for event in events {
        let other = others.get(&event.index);
        if event.owner.is_none() {
            event.owner = subject(&event.object)
                .and_then(|id| by_object.get(id))
                .copied();
        }
        if event.owner.is_none() {
            let result = no_owner(context, &event.object);
            found.unowned.push((event.index, result));
        }
        found
            .alerts
            .extend(other.and_then(|(owner, has)| second_customer(event, *owner, has)));
    }
    Ok(found)
}

/// The stored owners of the objects that events of the batch relate to.
async fn owners_of_subjects(
    conn: &mut PgConnection,
    events: &[Decoded<'_>],
) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    let subjects: Vec<&str> = events.iter().filter_map(|e| subject(&e.object)).collect();
    if subjects.is_empty() {
        return Ok(HashMap::new());
    }
    store::unclaimed::organizations_of_objects(conn, &subjects).await
}

/// The current customers of the organizations that new customers name.
async fn taken(
    conn: &mut PgConnection,
    events: &[Decoded<'_>],
    by_customer: &HashMap<String, Uuid>,
    claimed_by: impl Fn(&Decoded<'_>) -> Option<Uuid>,
) -> Result<HashMap<Uuid, String>, sqlx::Error> {
    let new = events.iter().filter(|event| {
        customer_of(&event.object).is_some_and(|customer| !by_customer.contains_key(customer))
    });
    let named: HashSet<Uuid> = new.filter_map(claimed_by).collect();
    if named.is_empty() {
        return Ok(HashMap::new());
    }
    store::customers::customers_of(conn, &Vec::from_iter(named)).await
}

fn second_customer(event: &Decoded<'_>, owner: Uuid, has: &str) -> Option<NewAlert> {
    let customer = customer_of(&event.object)?;
    Some(NewAlert {
        organization_id: owner,
        kind: "second_customer",
        key: customer.to_owned(),
        resource_type: "customer",
        resource_id: customer.to_owned(),
        message: format!(
            "the metadata of the Stripe customer {customer} names this organization, which already has \
             the customer {has}: correct the metadata, or link it (organizations link-customer)"
        ),
        occurred_at: event.stored.created,
    })
}

/// Stores the customers of `joined` whose organizations are locked, so that
/// events without metadata find them too. Events of a customer that was
/// concurrently stored otherwise are left out and retried.
pub async fn remember_customers(
    conn: &mut PgConnection,
    joined: &HashMap<String, Uuid>,
    events: &mut Vec<Decoded<'_>>,
    results: &mut [Option<Result<Handled, HandlerError>>],
) -> Result<(), sqlx::Error> {
    let joining: HashMap<&str, Uuid> = events
        .iter()
        .filter_map(|event| joined.get_key_value(customer_of(&event.object)?))
        .map(|(customer, owner)| (customer.as_str(), *owner))
        .collect();
    let lost = store::customers::remember_customers(conn, &joining).await?;
    if lost.is_empty() {
        return Ok(());
    }
    events.retain(|event| {
        let customer = customer_of(&event.object).filter(|customer| lost.contains(*customer));
        if let Some(customer) = customer {
            results[event.index] = Some(Err(HandlerError::Refused(format!(
                "the owner of the Stripe customer {customer} was decided concurrently by another event"
            ))));
        }
        customer.is_none()
    });
    Ok(())
}

/// Stores which events of the batch have no owner yet.
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

/// Makes events due again whose owner became known with this batch.
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
        BillingObject::SubscriptionSchedule(o) => o.customer_id.as_deref(),
        BillingObject::Discount(o) => o.customer_id.as_deref(),
        BillingObject::Dispute(_) | BillingObject::Refund(_) | BillingObject::InvoicePayment(_) => {
            None
        }
    }
}

/// The organizations that the object names, in metadata written by anyone with
/// the account's key.
fn claims(object: &BillingObject) -> impl Iterator<Item = &str> {
    let (metadata, inherited, reference) = match object {
        BillingObject::Subscription(o) => (Some(&o.metadata), None, None),
        BillingObject::Invoice(o) => (Some(&o.metadata), Some(&o.subscription_metadata), None),
        BillingObject::Charge(o) => (Some(&o.metadata), None, None),
        BillingObject::PaymentMethod(o) => (Some(&o.metadata), None, None),
        BillingObject::Customer(o) => (Some(&o.metadata), None, None),
        BillingObject::Dispute(o) => (Some(&o.metadata), None, None),
        BillingObject::Refund(o) => (Some(&o.metadata), None, None),
        BillingObject::CheckoutSession(o) => (Some(&o.metadata), None, o.reference()),
        BillingObject::SubscriptionSchedule(o) => (Some(&o.metadata), None, None),
        BillingObject::Discount(_) | BillingObject::InvoicePayment(_) => (None, None, None),
    };
    metadata
        .into_iter()
        .chain(inherited)
        .flat_map(organizations_in)
        .chain(reference)
}

/// What metadata call the organization, under each of the keys.
pub fn organizations_in(metadata: &Map<String, Value>) -> impl Iterator<Item = &str> {
    ORGANIZATION_KEYS
        .iter()
        .filter_map(|key| metadata.get(*key)?.as_str())
}

/// For an object that names no customer: the object that has the same owner.
fn subject(object: &BillingObject) -> Option<&str> {
    match object {
        BillingObject::PaymentMethod(o) if o.customer_id.is_none() => Some(&o.id),
        BillingObject::Dispute(o) => Some(&o.charge_id),
        BillingObject::Refund(o) => o.charge_id.as_deref(),
        BillingObject::InvoicePayment(o) => Some(&o.invoice_id),
        _ => None,
    }
}

/// Whether it can be the subject of another object.
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
            format!("its metadata's organization_id {text:?} is not a UUID")
        }
        Some(text) => format!("its metadata names organization {text}, which does not exist"),
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
                 `organizations create --stripe-customer {customer}` creates one"
            ),
        }),
        None if claimed.is_some() && context.unknown_customers == UnknownCustomers::Retry => {
            // Its organization may be created later.
            Err(HandlerError::UnknownOrganization {
                customer_id: None,
                problem: format!("it names no Stripe customer, and {claim}"),
            })
        }
        // A guest's payment, or another product that shares the account.
        None => unclaimed(subject(object)),
    }
}
