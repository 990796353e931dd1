//! The HTTP routes, at their addresses.

mod connections;
mod webhooks;
mod webhooks_under_failure;
