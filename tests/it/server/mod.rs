//! What all routes have in common.

mod adversarial;
mod answers;
mod clients;
mod cors;
mod floods;
mod idempotency;
mod measured;
mod openapi;
mod rate_limits;
mod turns;
