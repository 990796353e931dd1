//! The integration tests: one binary, so that it links once.

mod architecture;
mod attack;
mod cli;
mod database;
mod embedded_postgres;
mod features;
mod fuzz;
mod isolation;
mod maintenance;
mod metering;
mod operations;
mod resilience;
mod routes;
mod schemathesis;
mod server;
mod signers;
mod stripe;
mod subscriptions;
mod support;
mod webhooks;
