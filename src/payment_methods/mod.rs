//! Payment methods, as Stripe's events told of them.

pub mod routes;
mod store;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A payment method of the organization's customer; of its number, the last
/// four digits at most are known.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentMethod {
    /// Stripe's id (pm_…).
    pub id: String,
    /// Stripe's word, such as card or sepa_debit.
    pub r#type: String,
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

/// Where a page ends: lists are newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    created_at: Timestamp,
    id: String,
}

impl Place {
    fn of(method: &PaymentMethod) -> Self {
        Self {
            created_at: method.created_at,
            id: method.id.clone(),
        }
    }
}
