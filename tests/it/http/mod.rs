//! What all routes have in common.

mod idempotency;
mod openapi;
