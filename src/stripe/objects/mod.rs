//! The objects in events, read from all versions of Stripe's API: each field is
//! looked up where versions since 2025-03-31.basil have it, then where older ones
//! do. They serialize with the names of their columns.

use serde_json::{Map, Value};

mod charge;
mod checkout_session;
mod customer;
mod discount;
mod dispute;
mod fields;
mod invoice;
mod invoice_payment;
mod payment_method;
mod refund;
mod subscription;
mod subscription_schedule;

pub use charge::Charge;
pub use checkout_session::CheckoutSession;
pub use customer::Customer;
pub use discount::{CouponTerms, Discount};
pub use dispute::Dispute;
pub use fields::ShapeError;
pub use invoice::{Invoice, InvoiceLine};
pub use invoice_payment::InvoicePayment;
pub use payment_method::PaymentMethod;
pub use refund::Refund;
pub use subscription::{Subscription, SubscriptionItem};
pub use subscription_schedule::{PhaseItem, SchedulePhase, SubscriptionSchedule};

#[cfg(test)]
mod tests;

type Metadata = Map<String, Value>;

/// The object of an event. Amounts are in the currency's minor unit.
#[derive(Debug, Clone)]
pub enum BillingObject {
    Subscription(Box<Subscription>),
    Invoice(Box<Invoice>),
    Charge(Box<Charge>),
    PaymentMethod(Box<PaymentMethod>),
    Customer(Box<Customer>),
    Discount(Box<Discount>),
    Dispute(Box<Dispute>),
    Refund(Box<Refund>),
    InvoicePayment(Box<InvoicePayment>),
    CheckoutSession(Box<CheckoutSession>),
    SubscriptionSchedule(Box<SubscriptionSchedule>),
}

impl BillingObject {
    pub fn id(&self) -> &str {
        match self {
            Self::Subscription(object) => &object.id,
            Self::Invoice(object) => &object.id,
            Self::Charge(object) => &object.id,
            Self::PaymentMethod(object) => &object.id,
            Self::Customer(object) => &object.id,
            Self::Discount(object) => &object.id,
            Self::Dispute(object) => &object.id,
            Self::Refund(object) => &object.id,
            Self::InvoicePayment(object) => &object.id,
            Self::CheckoutSession(object) => &object.id,
            Self::SubscriptionSchedule(object) => &object.id,
        }
    }
}
