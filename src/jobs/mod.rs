//! Scheduled jobs: processes that run for a while and end.

mod push;
mod runs;
pub mod webhook_retry;

pub use push::{PushGateway, PushUrlError};
