//! Taxes: rates that are set by hand, and the fixed percentages by address that
//! stand for Stripe's automatic tax.

pub mod automatic;
pub mod lines;
pub mod rates;
pub mod request;
