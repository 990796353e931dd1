//! The catalogue lives: prices change, and customers keep what they bought.

mod changed_prices;
mod histories;
pub mod shop;
mod sold;
mod usage_at_changes;
