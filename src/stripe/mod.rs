//! What Stripe sends: signatures, events, and the objects in them.

pub mod event;
pub mod objects;
pub mod signature;
