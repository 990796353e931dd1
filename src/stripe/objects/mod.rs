//! The objects inside of events, read from both shapes of Stripe's API: each
//! field is looked for where versions since 2025-03-31.basil have it, then
//! where older ones do. They serialize under the names of their columns.

use serde_json::{Map, Value};

mod charge;
mod fields;
mod invoice;
mod payment_method;
mod subscription;

pub use charge::Charge;
pub use fields::ShapeError;
pub use invoice::{Invoice, InvoiceLine};
pub use payment_method::PaymentMethod;
pub use subscription::{Subscription, SubscriptionItem};

#[cfg(test)]
mod tests;

type Metadata = Map<String, Value>;

/// What an event shows of its object. Amounts are in the currency's minor unit.
#[derive(Debug, Clone)]
pub enum BillingObject {
    Subscription(Box<Subscription>),
    Invoice(Box<Invoice>),
    Charge(Box<Charge>),
    PaymentMethod(Box<PaymentMethod>),
}

impl BillingObject {
    pub fn id(&self) -> &str {
        match self {
            Self::Subscription(object) => &object.id,
            Self::Invoice(object) => &object.id,
            Self::Charge(object) => &object.id,
            Self::PaymentMethod(object) => &object.id,
        }
    }
}
