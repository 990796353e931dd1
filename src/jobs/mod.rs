//! Scheduled jobs: processes that run for a while and end.

pub mod backfill;
mod push;
mod runs;
pub mod webhook_retry;

pub use push::{PushGateway, PushUrlError};
