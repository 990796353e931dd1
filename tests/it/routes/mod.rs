//! The HTTP routes, at their addresses.

mod access;
mod audit_log;
mod connections;
mod invoices;
mod operator;
mod payment_methods;
mod webhooks;
mod webhooks_under_failure;
