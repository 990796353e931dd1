//! Enforcement where the product runs: calls that are forwarded if a quota
//! covers them, and an answer for proxies that ask first.

mod calls;
mod forward;
mod forward_auth;
mod gateway;
mod hold;
mod room;
mod routes;
mod target;

pub use calls::Calls;
pub use gateway::Gateway;
pub use routes::{Agents, ForwardAuth, agents, forward_auth, of_product};
