//! Usage, quotas, grace periods and enforcement.

mod alerts;
mod checks;
mod crash;
mod events;
mod gateway;
mod grace;
mod proxies;
mod replicas;
mod reports;
pub mod tenant;
