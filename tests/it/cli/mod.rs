//! The commands, as operators run them: exit statuses, outputs, logs.

mod audit;
mod backfill;
mod deliveries;
pub mod demo;
mod doctor;
mod embedded;
mod env_file;
mod erased;
mod errors;
mod explain;
mod findings;
mod named;
mod organizations;
mod outdated;
mod plan_versions;
mod plans;
mod pushgateway;
mod retry_and_replay;
mod rollback;
mod sandbox;
mod serve;
mod settings;
mod status;
mod upkeep;
mod users;
mod webhooks;
