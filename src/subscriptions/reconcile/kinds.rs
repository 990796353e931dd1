//! The kinds of differences, and what an operator does about each.

use serde::Serialize;

/// The kind of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// A request is open: whether Stripe carried it out is not known.
    OpenRequest,
    /// Recovery abandoned a request: whether Stripe carried it out is not known.
    AbandonedRequest,
    /// The subscription exists on both sides and differs.
    Differs,
    /// A subscription in Stripe belongs to an organization and is not mirrored.
    MissingHere,
    /// A running subscription is not in Stripe.
    MissingInStripe,
    /// A customer in Stripe names an organization that has another customer, or
    /// none.
    StrayCustomer,
    /// An organization's customer was deleted in Stripe.
    CustomerDeleted,
    /// As far as the key can see, Stripe never had the organization's customer.
    CustomerMissing,
    /// An organization pays for several subscriptions.
    TwoSubscriptions,
    /// A subscription bills the usage of a metric by several items.
    TwoMeteredItems,
    /// A paid subscription has no plan of the catalogue.
    UnknownPrice,
    /// An invoice differs from Stripe's or is missing here.
    Invoice,
    /// A customer differs from Stripe's.
    Customer,
    /// A payment method differs from Stripe's or is missing here.
    PaymentMethod,
    /// A charge or its refunds differ from Stripe's or are missing here.
    Charge,
    /// A refund differs from Stripe's, or one that failed is missing here.
    Refund,
    /// A dispute differs from Stripe's or is missing here.
    Dispute,
    /// A checkout session differs from Stripe's.
    CheckoutSession,
    /// Stripe does not show an object, or shows one that cannot be read.
    Unreadable,
    /// Billable usage is billed by no invoice.
    UnbilledUsage,
}

impl DriftKind {
    pub const ALL: [Self; 20] = [
        Self::OpenRequest,
        Self::AbandonedRequest,
        Self::Differs,
        Self::MissingHere,
        Self::MissingInStripe,
        Self::StrayCustomer,
        Self::CustomerDeleted,
        Self::CustomerMissing,
        Self::TwoSubscriptions,
        Self::TwoMeteredItems,
        Self::UnknownPrice,
        Self::Invoice,
        Self::Customer,
        Self::PaymentMethod,
        Self::Charge,
        Self::Refund,
        Self::Dispute,
        Self::CheckoutSession,
        Self::Unreadable,
        Self::UnbilledUsage,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenRequest => "open_request",
            Self::AbandonedRequest => "abandoned_request",
            Self::Differs => "differs",
            Self::MissingHere => "missing_here",
            Self::MissingInStripe => "missing_in_stripe",
            Self::StrayCustomer => "stray_customer",
            Self::CustomerDeleted => "customer_deleted",
            Self::CustomerMissing => "customer_missing",
            Self::TwoSubscriptions => "two_subscriptions",
            Self::TwoMeteredItems => "two_metered_items",
            Self::UnknownPrice => "unknown_price",
            Self::Invoice => "invoice",
            Self::Customer => "customer",
            Self::PaymentMethod => "payment_method",
            Self::Charge => "charge",
            Self::Refund => "refund",
            Self::Dispute => "dispute",
            Self::CheckoutSession => "checkout_session",
            Self::Unreadable => "unreadable",
            Self::UnbilledUsage => "unbilled_usage",
        }
    }

    /// The operator's next step.
    pub fn fix(self) -> &'static str {
        match self {
            Self::OpenRequest
            | Self::Differs
            | Self::MissingHere
            | Self::CustomerDeleted
            | Self::Invoice
            | Self::Customer
            | Self::PaymentMethod
            | Self::Charge
            | Self::Refund
            | Self::Dispute
            | Self::CheckoutSession => "run `subscriptions reconcile --apply`",
            Self::AbandonedRequest => {
                "resolve the cause it names, then run `subscriptions reconcile --apply`"
            }
            Self::MissingInStripe => {
                "check that the key belongs to the right account; if so, `subscriptions reconcile --apply --end-missing` ends it here"
            }
            Self::StrayCustomer => {
                "run `organizations link-customer`, or delete the customer in Stripe"
            }
            Self::CustomerMissing => {
                "check that the key belongs to the right account; if so, run `organizations link-customer`"
            }
            Self::TwoSubscriptions => {
                "run `subscriptions end-doubles`: it says which one stays, and ends the others"
            }
            Self::TwoMeteredItems => {
                "remove all but one of them in Stripe, and refund what was billed twice"
            }
            Self::UnknownPrice => {
                "add the price to PLANS_FILE (stripe_price_ids), restart, then run `subscriptions reconcile --apply`"
            }
            Self::UnbilledUsage => "docs/runbook.md, UsageUnbilled, says what to do",
            Self::Unreadable => {
                "see the reason: run it again if Stripe failed; a newer version of this program may read it"
            }
        }
    }
}
