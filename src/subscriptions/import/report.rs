//! What an import finds, and what it has done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::progress::Source;

/// Why a customer is not imported, or what to know of one that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing says which organization it is.
    NoOrganization,
    /// Several customers are the same organization.
    TwoCustomers,
    /// Its metadata and those of its subscriptions name several organizations.
    TwoOrganizations,
    /// The map names another organization than the one that has it here.
    LinkedElsewhere,
    /// Its metadata name an external id that no new organization can have.
    ExternalId,
    /// Its organization is archived.
    Archived,
    /// The map names it, and it was deleted in Stripe.
    DeletedCustomer,
    /// The map names it, and Stripe has none of this id.
    MissingCustomer,
    /// It lives on a test clock.
    TestClock,
    /// Its organization pays for several subscriptions.
    TwoSubscriptions,
    /// It pays for a price that the catalogue does not know.
    UnknownPrice,
    /// Its invoices are sent, and paid by hand.
    SendInvoice,
    /// Usage of its organization was counted here before.
    UsageBefore,
    /// A schedule changes its subscription.
    Schedule,
    /// Something of it cannot be read or stored.
    Failed,
}

impl Reason {
    pub const ALL: [Self; 15] = [
        Self::NoOrganization,
        Self::TwoCustomers,
        Self::TwoOrganizations,
        Self::LinkedElsewhere,
        Self::ExternalId,
        Self::Archived,
        Self::DeletedCustomer,
        Self::MissingCustomer,
        Self::TestClock,
        Self::TwoSubscriptions,
        Self::UnknownPrice,
        Self::SendInvoice,
        Self::UsageBefore,
        Self::Schedule,
        Self::Failed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoOrganization => "no_organization",
            Self::TwoCustomers => "two_customers",
            Self::TwoOrganizations => "two_organizations",
            Self::Archived => "archived",
            Self::UsageBefore => "usage_before",
            Self::LinkedElsewhere => "linked_elsewhere",
            Self::ExternalId => "external_id",
            Self::DeletedCustomer => "deleted_customer",
            Self::MissingCustomer => "missing_customer",
            Self::TestClock => "test_clock",
            Self::TwoSubscriptions => "two_subscriptions",
            Self::UnknownPrice => "unknown_price",
            Self::SendInvoice => "send_invoice",
            Self::Schedule => "schedule",
            Self::Failed => "failed",
        }
    }

    /// Whether somebody said whose it is, and it is not imported all the same.
    pub fn is_contradiction(self) -> bool {
        matches!(
            self,
            Self::TwoCustomers
                | Self::TwoOrganizations
                | Self::LinkedElsewhere
                | Self::Archived
                | Self::ExternalId
                | Self::DeletedCustomer
                | Self::MissingCustomer
                | Self::Failed
        )
    }

    /// What an operator does about it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::NoOrganization => {
                "not imported: name it in the map, or give --create-organizations"
            }
            Self::TwoCustomers => {
                "not imported: name the one that pays in the map, and correct the metadata of the other"
            }
            Self::LinkedElsewhere => {
                "not imported: correct the map, or move it (organizations link-customer, unlink-customer)"
            }
            Self::TwoOrganizations => {
                "not imported: name the one that it is in the map, or correct the metadata"
            }
            Self::Archived => "not imported: bring the organization back, or correct the map",
            Self::UsageBefore => {
                "imported; what was counted here is reported to Stripe's meters: where another program told Stripe of the same usage, it is billed twice"
            }
            Self::ExternalId => "not imported: name it in the map, or correct its metadata",
            Self::DeletedCustomer | Self::MissingCustomer => {
                "not imported: take it out of the map, or use the key of its account"
            }
            Self::TestClock => "not imported: Stripe lists it apart; its events bring it",
            Self::TwoSubscriptions => {
                "imported, and the higher plan counts: cancel one of them in Stripe"
            }
            Self::UnknownPrice => {
                "imported without a plan: list the price in stripe_price_ids of the PLANS_FILE"
            }
            Self::SendInvoice => "imported as it is",
            Self::Schedule => "imported with its schedule",
            Self::Failed => "run the import again; what was done stays",
        }
    }
}

/// Something about a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub reason: Reason,
    pub customer: String,
    pub organization_id: Option<Uuid>,
    pub subscription: Option<String>,
    pub detail: String,
    pub fix: &'static str,
}

impl Finding {
    pub fn of(reason: Reason, customer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            reason,
            customer: customer.into(),
            organization_id: None,
            subscription: None,
            detail: detail.into(),
            fix: reason.fix(),
        }
    }

    pub fn organization(self, id: Uuid) -> Self {
        Self {
            organization_id: Some(id),
            ..self
        }
    }

    pub fn subscription(self, id: impl Into<String>) -> Self {
        Self {
            subscription: Some(id.into()),
            ..self
        }
    }
}

/// The customers that Stripe lists, by what becomes of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Customers {
    pub found: usize,
    /// Organizations' already.
    pub linked: usize,
    pub by_file: usize,
    pub by_metadata: usize,
    /// Of which an organization is made.
    pub new: usize,
    pub not_imported: usize,
}

/// How many objects of a kind were looked at, and how many were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    pub seen: u64,
    pub written: u64,
}

/// What was done, by kind of object: `organizations`, `stamps`, `customers` and so on.
pub type Counts = BTreeMap<String, Count>;

/// The result of an import, or of its rehearsal.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    #[serde(flatten)]
    pub source: Source,
    pub dry_run: bool,
    /// Whether everything was looked at.
    pub complete: bool,
    pub customers: Customers,
    /// Stripe's subscriptions of customers that are imported, by status.
    pub subscriptions: BTreeMap<String, usize>,
    /// What was done, by this run and those that it goes on with.
    pub done: Counts,
    pub findings: Vec<Finding>,
}

impl ImportReport {
    /// How many findings there are for each reason.
    pub fn by_reason(&self) -> BTreeMap<Reason, usize> {
        let mut counted = BTreeMap::new();
        for finding in &self.findings {
            *counted.entry(finding.reason).or_default() += 1;
        }
        counted
    }

    /// Whether all that somebody said belongs here is, or would be, here.
    pub fn is_whole(&self) -> bool {
        let contradicts = |finding: &Finding| finding.reason.is_contradiction();
        !self.findings.iter().any(contradicts)
    }
}
