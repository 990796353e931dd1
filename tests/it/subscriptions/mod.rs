//! Subscriptions: previews and changes, with the stand-in for Stripe.

mod changes;
mod collected;
mod concurrency;
mod drift;
mod faults;
pub mod later;
mod long_lists;
mod metered;
mod missing;
mod previews;
mod problems;
mod reconcile;
mod recovery;
mod storm;
mod tokens;
pub mod world;
