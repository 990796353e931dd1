//! Payment methods: what the mirror has of them, the ways to add, choose and
//! remove one, and Stripe's customer portal. The acts themselves are
//! `subscriptions::cards`, since a change of plan has the only card charged.

mod acts;
mod portal;
pub mod routes;
mod store;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use portal::{PortalOffer, inspect as inspect_portal};

use crate::server::Shared;
use crate::server::return_address::ReturnAddresses;
use crate::subscriptions::Subscriptions;
use portal::Portal;

/// What the handlers need.
#[derive(Clone)]
pub struct PaymentMethods {
    shared: Shared,
    subscriptions: Subscriptions,
    addresses: Arc<ReturnAddresses>,
    portal: Portal,
}

impl PaymentMethods {
    pub fn new(
        shared: Shared,
        subscriptions: Subscriptions,
        addresses: Arc<ReturnAddresses>,
    ) -> Self {
        Self {
            portal: Portal::new(addresses.default_address()),
            shared,
            subscriptions,
            addresses,
        }
    }
}

/// A payment method of the organization's customer. At most the last four digits
/// of its number are known.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentMethod {
    /// Stripe's id (pm_…).
    pub id: String,
    /// Stripe's type, such as card or sepa_debit.
    pub r#type: String,
    /// Whether invoices are charged to it: the subscription's own, else the customer's
    /// default, else the only one.
    pub is_default: bool,
    #[schema(required)]
    pub brand: Option<String>,
    #[schema(required)]
    pub last4: Option<String>,
    #[schema(required)]
    pub expiry_month: Option<i16>,
    #[schema(required)]
    pub expiry_year: Option<i16>,
    #[schema(required)]
    pub funding: Option<String>,
    #[schema(required)]
    pub country: Option<String>,
    pub created_at: Timestamp,
}

/// A payment method's position in the list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    created_at: Timestamp,
    id: String,
}
