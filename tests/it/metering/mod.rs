//! Usage, quotas, grace periods and enforcement.

mod alerts;
pub mod billed;
mod ceiling;
mod checks;
mod crash;
mod denials;
mod ends;
mod events;
pub mod fairness;
mod forward_auth;
pub mod gateway;
mod gateway_clients;
mod gateway_edges;
mod grace;
mod held;
mod histories;
mod levels;
mod lost;
mod periods;
mod proxies;
mod repeats;
mod replicas;
mod reports;
mod successors;
mod suspended;
pub mod tenant;
mod trials;
