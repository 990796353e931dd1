//! What is asked of every request before a handler sees it: `checks` has the
//! order, and each other file one check, or one layer of the whole site.

pub mod checks;
pub mod cors;
pub(super) mod entry;
pub mod idempotency;
pub(super) mod measured;
pub mod media;
mod parameters;
pub mod rate_limit;
mod request_id;
mod time_limit;

pub use entry::{Framed, Peer};
pub use request_id::RequestId;
