//! Money moves here: payment and setup intents, charges, refunds, disputes.
//! Which invoices are due, and when, is never decided here; see
//! [`crate::invoices`].

pub mod balance_transactions;
pub mod charges;
pub mod disputes;
pub mod intents;
pub mod invoice_payments;
pub mod refunds;
pub mod setup_intents;
