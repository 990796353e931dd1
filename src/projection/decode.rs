//! Decodes stored events into typed objects.

use billing_domain::event_order::EventOrder;
use uuid::Uuid;

use super::event_types::read_object;
use super::types::{Context, Handled, HandlerError};
use super::versions::Mirrored as _;
use crate::event_log::StoredEvent;
use crate::metering::reports;
use crate::stripe::event;
use crate::stripe::event::EventData;
use crate::stripe::objects::BillingObject;

/// A decoded event.
#[derive(Debug)]
pub struct Decoded<'a> {
    /// The position in the batch.
    pub index: usize,
    pub stored: &'a StoredEvent,
    pub data: EventData,
    pub object: BillingObject,
    /// The order among the events of its object.
    pub order: EventOrder,
    /// The organization, once it is found.
    pub owner: Option<Uuid>,
}

/// Decodes `event`; an `Err` is the result of an event that is not applied.
pub fn decode<'a>(
    context: &Context<'_>,
    index: usize,
    event: &'a StoredEvent,
) -> Result<Decoded<'a>, Result<Handled, HandlerError>> {
    let is_noted = reports::REJECTION_TYPES.contains(&event.event_type.as_str());
    if !is_noted && !super::HANDLED_TYPES.contains(&event.event_type.as_str()) {
        return Err(Ok(Handled::Ignored));
    }
    if let Some(account) = &event.account {
        foreign(context, account)?;
    }
    if context
        .key_is_live
        .is_some_and(|live| live != event.livemode)
    {
        return Err(Ok(Handled::LivemodeMismatch));
    }
    if is_noted {
        return Err(Ok(Handled::Noted));
    }
    let data = EventData::read(&event.payload).map_err(|error| {
        // A thin event names an object without its content.
        if event::is_thin(&event.payload) {
            return Ok(Handled::Ignored);
        }
        permanent(format!("the payload cannot be read: {error}"))
    })?;
    let object = read_object(&event.event_type, &data)?;
    let order = order_of(&object, &event.event_type, event.created.as_second());
    Ok(Decoded {
        index,
        stored: event,
        data,
        object,
        order,
        owner: None,
    })
}

fn order_of(object: &BillingObject, event_type: &str, created: i64) -> EventOrder {
    match object {
        BillingObject::Subscription(object) => object.order(event_type, created),
        BillingObject::Invoice(object) => object.order(event_type, created),
        BillingObject::Charge(object) => object.order(event_type, created),
        BillingObject::PaymentMethod(object) => object.order(event_type, created),
        BillingObject::Customer(object) => object.order(event_type, created),
        BillingObject::Discount(_) => EventOrder {
            terminal: false,
            created,
            rank: 0,
        },
        BillingObject::Dispute(object) => object.order(event_type, created),
        BillingObject::Refund(object) => object.order(event_type, created),
        BillingObject::InvoicePayment(object) => object.order(event_type, created),
        BillingObject::CheckoutSession(object) => object.order(event_type, created),
        BillingObject::SubscriptionSchedule(object) => object.order(event_type, created),
    }
}

/// Excludes events of other accounts.
fn foreign(context: &Context<'_>, account: &str) -> Result<(), Result<Handled, HandlerError>> {
    match context.account.is(account) {
        Some(true) => Ok(()),
        Some(false) => Err(Ok(Handled::ForeignAccount)),
        None => Err(Err(HandlerError::Refused(format!(
            "could not ask Stripe whether {account} is our account"
        )))),
    }
}

fn permanent(problem: String) -> Result<Handled, HandlerError> {
    Err(HandlerError::Permanent(problem))
}
