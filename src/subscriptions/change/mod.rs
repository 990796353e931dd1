//! A change of a subscription is a saga: its intent is entered and committed,
//! Stripe is called, the outcome is mirrored, and recovery finds what a crash
//! left open. No transaction is open across a call to Stripe.

pub(super) mod execute;
pub(super) mod locks;
pub(super) mod record;
pub(super) mod recover;
pub(super) mod saga;
