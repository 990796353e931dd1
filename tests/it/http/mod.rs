//! What all routes have in common.

mod adversarial;
mod cors;
mod idempotency;
mod measured;
mod openapi;
mod rate_limits;
