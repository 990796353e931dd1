//! The webhook event log: events as Stripe sent them, by bucket and id.
//!
//! It knows how an event is stored, and nothing of how events arrive
//! (`webhooks`) or what they do (`projection`). Both depend on it.

mod store;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

pub use store::{empty, wake_waiting};

/// A stored event.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    pub bucket: i16,
    pub id: String,
    pub event_type: String,
    pub api_version: Option<String>,
    pub livemode: bool,
    pub account: Option<String>,
    pub created: Timestamp,
    pub payload: String,
}

const BUCKETS: u16 = 1_024;

/// The bucket of an event: a hash of its id. It is part of the table's key, so it
/// must never change.
pub fn bucket_of(event_id: &str) -> i16 {
    let digest = Sha256::digest(event_id.as_bytes());
    let bucket = u16::from_be_bytes([digest[0], digest[1]]) % BUCKETS;
    i16::try_from(bucket).expect("every bucket fits into i16")
}

#[cfg(test)]
mod tests {
    use super::bucket_of;

    #[test]
    fn buckets_never_change() {
        assert_eq!(bucket_of("evt_1"), 334);
        assert_eq!(bucket_of(""), 944);
    }
}
