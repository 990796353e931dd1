//! Enforcement where the product runs: calls that are forwarded if a quota
//! covers them, and an answer for proxies that ask first.

mod forward;
mod forward_auth;
mod gateway;
mod hold;
mod routes;
mod target;

pub use gateway::Gateway;
pub use routes::{Agents, Api, router};
