//! The HTTP routes, at their addresses.

mod access;
mod connections;
mod webhooks;
mod webhooks_under_failure;
