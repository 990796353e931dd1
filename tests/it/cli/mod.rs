//! The commands, as operators run them: exit statuses, outputs, logs.

mod audit;
mod backfill;
mod demo;
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
