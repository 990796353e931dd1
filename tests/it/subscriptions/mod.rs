//! Subscriptions: previews and changes, with the stand-in for Stripe.

mod changes;
mod concurrency;
mod faults;
mod problems;
mod reconcile;
mod tokens;
mod world;
