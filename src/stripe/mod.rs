//! Stripe's interface: signatures, events and their objects, and the API client.
//! Nothing here knows organizations or writes mirrored rows.

pub mod account;
pub mod client;
pub mod event;
pub mod objects;
pub mod requests;
pub mod signature;
