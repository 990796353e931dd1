//! A billing back end between Stripe, a product and its operators.
//!
//! `ARCHITECTURE.md` is the map; `src/main.rs` the list of processes.

pub mod app;
pub mod audit;
pub mod backup;
pub mod batch;
pub mod catalogue;
pub mod cli;
pub mod config;
pub mod console;
pub mod db;
pub mod doctor;
pub mod event_log;
pub mod explain;
pub mod features;
pub mod http_client;
pub mod invoices;
pub mod limits;
pub mod mail;
pub mod maintenance;
pub mod metering;
pub mod migrations;
pub mod outbox;
pub mod pages;
pub mod payment_methods;
pub mod portal;
pub mod projection;
pub mod reporting;
pub mod server;
pub mod state;
pub mod stripe;
pub mod subscriptions;
pub mod telemetry;
pub mod tenancy;
pub mod timeline;
pub mod webhooks;
