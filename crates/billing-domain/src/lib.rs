//! The pure rules of billing.
//!
//! Nothing here reads a clock, randomness, a database or the environment: time
//! and random numbers are arguments. Every rule can be tested in isolation, and
//! the only errors are those of its input.

#![deny(clippy::unwrap_used)]

pub mod allowance;
pub mod event_order;
pub mod grace_period;
pub mod money;
pub mod past_due;
pub mod period;
pub mod preview;
pub mod proration;
pub mod quantity;
pub mod quota;
pub mod retry;
pub mod status;
pub mod subscription;
pub mod usage_period;
