//! Payment methods: read only. The projection writes them from Stripe's events.

pub mod routes;
mod store;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A payment method of the organization's customer. At most the last four digits
/// of its number are known.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentMethod {
    /// Stripe's id (pm_…).
    pub id: String,
    /// Stripe's type, such as card or sepa_debit.
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

/// A payment method's position in the list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    created_at: Timestamp,
    id: String,
}

impl Position {
    fn of(method: &PaymentMethod) -> Self {
        Self {
            created_at: method.created_at,
            id: method.id.clone(),
        }
    }
}
