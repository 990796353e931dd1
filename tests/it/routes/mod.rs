//! The HTTP routes, at their addresses.

mod access;
mod addresses;
mod audit_log;
mod connections;
mod invoices;
mod issued_tokens;
mod limits;
mod logins;
mod operator;
mod organizations;
mod parameters;
mod payment_methods;
mod service_keys;
mod shares;
mod state;
mod webhooks;
mod webhooks_under_failure;
