//! Subscriptions: previews and changes, with the stand-in for Stripe.

mod changes;
mod collected;
mod concurrency;
mod discounted;
mod faults;
mod long_lists;
mod metered;
mod missing;
mod previews;
mod problems;
mod promotion_codes;
mod reconcile;
mod recovery;
mod storm;
mod taxes;
mod tokens;
pub mod world;
