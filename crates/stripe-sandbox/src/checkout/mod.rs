//! Checkout sessions: the hosted page on which a customer subscribes or saves a
//! payment method.

pub mod complete;
pub mod model;
pub mod page;
mod request;
pub mod routes;
