//! From a stored event to billing state.

mod charges;
mod concurrency;
mod crash;
mod invoices;
mod order;
mod owners;
mod payment_methods;
mod processing;
mod subscriptions;
mod workbench;
