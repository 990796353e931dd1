//! Webhook endpoints are managed, and events are signed and delivered here.
//! Events are never created here; see [`crate::events`].

pub mod delivery;
pub mod endpoints;
pub mod sender;
pub mod signature;
