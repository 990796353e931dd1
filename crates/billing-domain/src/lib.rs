//! The pure rules of billing.

pub mod period;
pub mod preview;
pub mod proration;
