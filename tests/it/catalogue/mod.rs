//! The catalogue lives: prices change, and customers keep what they bought.

mod changed_prices;
mod histories;
mod prices;
mod random_terms;
mod seats;
pub mod shop;
mod sold;
