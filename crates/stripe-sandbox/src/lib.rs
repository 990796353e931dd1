//! A stateful stand-in for the part of Stripe's HTTP API that a billing
//! service calls, for tests, demonstrations and machines without a network.
//!
//! Supported features behave like Stripe's, to the cent and the second.
//! Everything else is an error in Stripe's format that names the parameter. No
//! request ever leaves the machine, except deliveries to registered webhook
//! endpoints.
//!
//! - [`server`] turns HTTP into a [`call::Call`] and back.
//! - Each resource is one file or folder, which starts with its `ROUTES`.
//! - [`state`] holds all objects, behind one lock.
//! - Decisions are pure: [`subscriptions::change`] decides the outcome of a
//!   change, and [`invoices::assemble`] assembles invoices, both for changes
//!   and for their previews.
//! - [`schedule`] does what is due, on test clocks and on the wall clock.
//! - [`webhooks`] delivers events, signed and with retries.

#![recursion_limit = "256"]
#![deny(clippy::unwrap_used)]

pub mod account;
mod addresses;
pub mod auth;
pub mod billing_portal;
pub mod call;
pub mod checkout;
pub mod config;
pub mod coupons;
pub mod customer_balance;
pub mod customers;
pub mod discounts;
pub mod error;
pub mod events;
pub mod expand;
pub mod faults;
pub mod idempotency;
pub mod ids;
pub mod invoice_items;
pub mod invoices;
mod json_object;
pub mod list;
pub mod metadata;
pub mod meter_events;
pub mod meters;
pub mod params;
pub mod payment_methods;
pub mod payments;
pub mod percent;
pub mod prices;
pub mod pricing;
pub mod products;
pub mod promotion_codes;
mod sandbox;
pub mod schedule;
pub mod search;
pub mod server;
pub mod shape;
pub mod state;
pub mod store;
pub mod subscription_schedules;
pub mod subscriptions;
pub mod taxes;
pub mod test_cards;
pub mod test_clocks;
pub mod thin_events;
pub mod validate;
pub mod webhooks;

pub use config::{Config, DunningEnd};
pub use sandbox::Sandbox;

/// Every route of every resource.
pub fn routes() -> impl Iterator<Item = call::Route> {
    [
        account::ROUTES,
        billing_portal::ROUTES,
        checkout::routes::ROUTES,
        coupons::ROUTES,
        customer_balance::ROUTES,
        customers::ROUTES,
        discounts::routes::ROUTES,
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
        payments::balance_transactions::ROUTES,
        payments::refunds::ROUTES,
        payments::setup_intents::ROUTES,
        prices::ROUTES,
        products::ROUTES,
        promotion_codes::ROUTES,
        search::ROUTES,
        subscription_schedules::routes::ROUTES,
        subscriptions::items::ROUTES,
        subscriptions::routes::ROUTES,
        taxes::rates::ROUTES,
        test_clocks::ROUTES,
        thin_events::ROUTES,
        webhooks::delivery::ROUTES,
        webhooks::endpoints::ROUTES,
    ]
    .into_iter()
    .flatten()
    .cloned()
}

/// The router alone, to be served by the caller. Webhook deliveries and events
/// due on the wall clock need a running [`Sandbox`].
pub fn router(config: Config) -> axum::Router {
    server::router(&server::SharedState::new(config))
}
