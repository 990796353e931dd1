//! Webhooks: endpoints, signatures and delivery.

pub mod courier;
pub mod delivery;
pub mod endpoints;
pub mod signature;
