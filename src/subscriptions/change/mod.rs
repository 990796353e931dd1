//! A change of a subscription is a saga that spans Stripe and our database.
//!
//! 1. `saga` decides the action, records it as an open request, and commits.
//! 2. `execute` calls Stripe, mirrors the outcome and closes the request in one
//!    transaction.
//! 3. `recover` settles, item by item, the requests that a crash left open.
//!
//! No transaction stays open across a call to Stripe.

pub(super) mod execute;
pub(super) mod locks;
pub(super) mod record;
pub(super) mod recover;
pub(super) mod saga;
mod seats;
