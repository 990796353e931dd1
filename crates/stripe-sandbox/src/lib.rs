//! A stateful stand-in for the part of Stripe's HTTP API that a billing
//! service calls: for tests, demonstrations and machines without a network.
//!
//! What it knows it does as Stripe does, to the cent and the second. What it
//! does not know is an error in Stripe's shape that names the parameter.
//!
//! - [`server`] turns HTTP into a [`call::Call`] and back.
//! - One file (or folder) for each resource opens with its `ROUTES`.
//! - [`state`] holds everything, behind one lock.
//! - Decisions are pure: [`subscriptions::change`] decides what a change comes
//!   to, [`invoices::assemble`] puts invoices together, for the change and for
//!   its preview alike.
//! - [`schedule`] is what time brings, on test clocks and on the wall.
//! - [`webhooks`] delivers events, signed, with retries.

#![recursion_limit = "256"]

pub mod account;
pub mod auth;
pub mod balance_transactions;
pub mod call;
pub mod config;
pub mod customers;
pub mod error;
pub mod events;
pub mod expand;
pub mod faults;
pub mod idempotency;
pub mod ids;
pub mod invoice_items;
pub mod invoices;
pub mod list;
pub mod metadata;
pub mod meter_events;
pub mod meters;
pub mod params;
pub mod payment_methods;
pub mod payments;
pub mod prices;
pub mod pricing;
pub mod products;
mod sandbox;
pub mod schedule;
pub mod search;
pub mod server;
pub mod shape;
pub mod state;
pub mod store;
pub mod subscriptions;
pub mod test_cards;
pub mod test_clocks;
pub mod validate;
pub mod webhooks;

pub use config::{Config, DunningEnd};
pub use sandbox::Sandbox;

/// Every route, resource by resource.
pub fn routes() -> impl Iterator<Item = call::Route> {
    [
        account::ROUTES,
        balance_transactions::ROUTES,
        customers::ROUTES,
        events::ROUTES,
        faults::ROUTES,
        invoice_items::ROUTES,
        invoices::routes::ROUTES,
        meter_events::ROUTES,
        meters::ROUTES,
        payment_methods::ROUTES,
        payments::charges::ROUTES,
        payments::disputes::ROUTES,
        payments::intents::ROUTES,
        payments::invoice_payments::ROUTES,
        payments::ledger::ROUTES,
        payments::refunds::ROUTES,
        payments::setup_intents::ROUTES,
        prices::ROUTES,
        products::ROUTES,
        search::ROUTES,
        subscriptions::items::ROUTES,
        subscriptions::routes::ROUTES,
        test_clocks::ROUTES,
        webhooks::delivery::ROUTES,
        webhooks::endpoints::ROUTES,
    ]
    .into_iter()
    .flatten()
    .cloned()
}

/// The router alone, for a server of one's own. Deliveries and what falls due
/// on the wall clock need a running [`Sandbox`].
pub fn router(config: Config) -> axum::Router {
    server::router(&server::Shell::new(config))
}
