//! Stripe: what it sends (signatures, events, the objects in them), and what we
//! ask of it.

pub mod account;
pub mod client;
pub mod event;
pub mod objects;
pub mod requests;
pub mod signature;
