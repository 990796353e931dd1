//! Subscriptions: what a customer has agreed to pay for, again and again.

pub mod cancel;
pub mod change;
pub mod create;
pub mod edit;
pub mod items;
pub mod model;
pub mod payment;
pub mod pending;
pub mod request;
pub mod resume;
pub mod routes;
pub mod status;
pub mod update;
