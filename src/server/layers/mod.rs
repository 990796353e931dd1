//! What is asked of every request before a handler sees it, one file a layer.

pub mod accept;
pub mod cors;
pub(super) mod entry;
pub mod idempotency;
pub(super) mod measured;
pub mod parameters;
pub mod rate_limit;
mod request_id;
pub mod time_limit;

pub use entry::Peer;
pub use request_id::RequestId;
