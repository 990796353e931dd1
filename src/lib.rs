//! A billing back end between Stripe, a product and its operators.
//!
//! `ARCHITECTURE.md` is the map; `src/main.rs` the list of processes.

pub mod api;
pub mod app;
pub mod audit;
pub mod auth;
pub mod backup;
pub mod cli;
pub mod config;
pub mod db;
pub mod doctor;
pub mod embedded_postgres;
pub mod enforcement;
pub mod error;
pub mod event_handlers;
pub mod grace_periods;
pub mod grouped;
pub mod http;
pub mod inbox;
pub mod invoices;
pub mod jobs;
pub mod limits;
pub mod metrics;
pub mod migrations;
pub mod number;
pub mod organizations;
pub mod outbound;
pub mod payment_methods;
pub mod plans;
pub mod quotas;
pub mod service_keys;
pub mod stripe;
pub mod subscriptions;
pub mod telemetry;
pub mod terminal;
pub mod trace_context;
pub mod usage;
pub mod usage_alerts;
pub mod usage_reports;
