//! The commands, as operators run them: exit statuses, outputs, logs.

mod audit;
mod backfill;
mod doctor;
mod plans;
mod pushgateway;
mod retry_and_replay;
mod sandbox;
mod serve;
mod settings;
mod status;
mod users;
mod webhooks;
