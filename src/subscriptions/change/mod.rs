//! A change of a subscription is a saga that spans Stripe and our database.
//!
//! 1. `saga` decides the action, records it as an open request, and commits.
//! 2. `execute` calls Stripe, mirrors the outcome and closes the request in one
//!    transaction.
//!    `schedule` has the calls of changes that need several, and `phase` what they say; `recharge`
//!    has schedules charge another payment method.
//! 3. `recover` settles, item by item, the requests that a crash left open.
//!
//! No transaction stays open across a call to Stripe.

mod awaiting;
pub(super) mod call;
pub(super) mod ending;
pub(super) mod execute;
mod flexible;
mod follow;
pub(super) mod locks;
mod payer;
mod phase;
pub(super) mod recharge;
pub(super) mod record;
pub(super) mod recover;
pub(super) mod saga;
pub(super) mod schedule;
mod seats;
