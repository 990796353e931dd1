//! From a stored event to what its handler works on.

use billing_domain::event_order::Place;
use uuid::Uuid;

use super::history::Mirrored as _;
use super::{
    Context, EventData, Handled, HandlerError, Invoice, PaymentMethod, StoredEvent, Subscription,
};
use crate::stripe::objects::{BillingObject, Charge};

/// An event, read.
#[derive(Debug)]
pub struct Decoded<'a> {
    /// Its place in the batch.
    pub index: usize,
    pub stored: &'a StoredEvent,
    pub data: EventData,
    pub object: BillingObject,
    /// Its place among the events of its object.
    pub place: Place,
    /// The organization, once it is found.
    pub owner: Option<Uuid>,
}

/// Reads `event`, or says what becomes of it without.
pub fn decode<'a>(
    context: Context<'_>,
    index: usize,
    event: &'a StoredEvent,
) -> Result<Decoded<'a>, Result<Handled, HandlerError>> {
    if !super::HANDLED_TYPES.contains(&event.event_type.as_str()) {
        return Err(Ok(Handled::Ignored));
    }
    if event.account.is_some() {
        return Err(Ok(Handled::ForeignAccount));
    }
    if context
        .key_is_live
        .is_some_and(|live| live != event.livemode)
    {
        return Err(Ok(Handled::LivemodeMismatch));
    }
    let data = EventData::read(&event.payload)
        .map_err(|error| permanent(format!("the payload cannot be read: {error}")))?;
    let object = read_object(&event.event_type, &data)?;
    let created = event.created.as_second();
    let place = match &object {
        BillingObject::Subscription(object) => object.place(&event.event_type, created),
        BillingObject::Invoice(object) => object.place(&event.event_type, created),
        BillingObject::Charge(object) => object.place(&event.event_type, created),
        BillingObject::PaymentMethod(object) => object.place(&event.event_type, created),
    };
    Ok(Decoded {
        index,
        stored: event,
        data,
        object,
        place,
        owner: None,
    })
}

/// Reads the object of an event whose type has a handler.
pub fn read_object(
    event_type: &str,
    data: &EventData,
) -> Result<BillingObject, Result<Handled, HandlerError>> {
    let object = &data.object;
    let read = match event_type.split('.').next() {
        Some("customer") => {
            Subscription::read(object).map(|o| BillingObject::Subscription(Box::new(o)))
        }
        Some("invoice") => Invoice::read(object).map(|o| BillingObject::Invoice(Box::new(o))),
        Some("charge") => Charge::read(object).map(|o| BillingObject::Charge(Box::new(o))),
        _ => PaymentMethod::read(object, data.previous_attributes.as_ref())
            .map(|o| BillingObject::PaymentMethod(Box::new(o))),
    };
    read.map_err(|error| permanent(error.to_string()))
}

fn permanent(problem: String) -> Result<Handled, HandlerError> {
    Err(HandlerError::Permanent(problem))
}
