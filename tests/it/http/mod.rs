//! What all routes have in common.

mod cors;
mod idempotency;
mod openapi;
mod rate_limits;
