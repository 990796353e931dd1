//! From a stored event to billing state.

mod answers;
pub mod bulk;
mod charges;
mod claims;
mod concurrency;
pub mod crash;
mod cut_lists;
mod discounts;
mod failures;
mod further;
mod held;
mod invoices;
mod large;
mod order;
mod owners;
mod payment_methods;
mod payments;
mod plans;
mod processing;
mod shapes;
mod subscriptions;
pub mod workbench;
