//! The integration tests: one binary, so that it links once.

#![allow(
    clippy::too_many_lines,
    reason = "a test tells one story from beginning to end"
)]

mod architecture;
mod attack;
mod catalogue;
mod cli;
mod console;
mod database;
mod embedded_postgres;
mod features;
mod fuzz;
mod import;
mod isolation;
mod mail;
mod maintenance;
mod metering;
mod operations;
mod outbox;
mod portal;
mod products;
mod reporting;
mod resilience;
mod routes;
mod schemathesis;
mod sdk;
mod server;
mod signers;
mod stripe;
mod subscriptions;
mod support;
mod webhooks;
