//! How far an import is: what a run that goes on with it begins with.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::db::words::{Worded as _, words};

words! {
    /// What is imported, one after the other: what names others comes after them. The word is
    /// the kind of object.
    pub enum Phase {
        Customers = "customers",
        Subscriptions = "subscriptions",
        PaymentMethods = "payment_methods",
        Invoices = "invoices",
        OpenInvoices = "open_invoices",
        Charges = "charges",
        Refunds = "refunds",
        Disputes = "disputes",
    }
}

impl Phase {
    pub fn next(self) -> Option<Self> {
        let at = Self::ALL.iter().position(|phase| *phase == self)?;
        Self::ALL.get(at + 1).copied()
    }
}

/// What an import was asked for, which a run that goes on with it keeps to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Whether each customer that nothing names an organization for becomes one.
    pub create_organizations: bool,
    /// Since when invoices, charges, refunds and disputes are imported.
    pub since: Timestamp,
    /// Whether customers are told their organizations, in their metadata.
    pub stamp: bool,
    /// Of the map; empty without one.
    pub map_digest: String,
    #[serde(flatten)]
    pub source: Source,
}

/// Where it is imported from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The Stripe account; `None` if the key may not read it.
    pub account: Option<String>,
    #[serde(default)]
    pub livemode: bool,
}
