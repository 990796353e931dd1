//! The catalogue lives: prices change, and customers keep what they bought.

pub mod addons;
mod allowance;
mod changed_prices;
mod codes;
mod histories;
mod months;
mod price_swaps;
mod prices;
mod quotes;
mod random_codes;
mod random_terms;
mod seats;
mod seats_later;
pub mod shop;
mod sold;
mod usage_at_changes;
