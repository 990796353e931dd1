//! Payments: intents, charges, and how invoices are tied to them.

pub mod charges;
pub mod disputes;
pub mod intents;
pub mod invoice_payments;
pub mod ledger;
pub mod refunds;
pub mod setup_intents;
