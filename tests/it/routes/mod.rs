//! The HTTP routes, at their addresses.

mod access;
mod audit_log;
mod connections;
mod invoices;
mod webhooks;
mod webhooks_under_failure;
