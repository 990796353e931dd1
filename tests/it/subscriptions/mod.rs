//! Subscriptions: previews and changes, with the stand-in for Stripe.

mod awaited;
mod cards;
mod changes;
mod charged;
mod checkouts;
mod collected;
mod concurrency;
pub mod discounted;
mod doubles;
mod drift;
mod faults;
pub mod later;
mod long_lists;
mod metered;
mod missing;
mod past_due;
mod previews;
mod problems;
pub mod promotion_codes;
mod reconcile;
mod recovery;
mod storm;
mod tabs;
mod taxes;
mod tokens;
mod trials;
pub mod world;
