//! The pure rules of billing.
//!
//! Nothing here touches the outside world: no clock, randomness, database or
//! environment. Time and chance are arguments, so every rule can be tested by
//! itself and cannot fail for reasons of its surroundings.

pub mod event_order;
pub mod grace_period;
pub mod money;
pub mod period;
pub mod preview;
pub mod proration;
pub mod quantity;
pub mod quota;
pub mod retry;
pub mod subscription;
pub mod usage_period;
