//! Enforces quotas in front of the product: forwards calls that a quota covers,
//! and answers proxies that ask before they forward. Nothing is counted here;
//! calls hold a reservation in the ledger.

mod call_budget;
mod calls;
mod forward;
mod forward_auth;
mod gateway;
mod reservation;
mod routes;
mod target;

pub use calls::Calls;
pub use gateway::Gateway;
pub use reservation::RENEW_EVERY;
pub use routes::{Agents, ForwardAuth, agents, forward_auth, of_product};
