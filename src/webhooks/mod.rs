//! The inbox: verify, then store, then answer; process later, retry, and keep
//! what cannot be processed.

mod altered;
pub mod backpressure;
pub mod dead_letters;
pub mod endpoint;
pub mod event_log;
pub mod operator;
mod quarantine;
pub mod rejections;
mod store;
pub mod worker;

pub use store::dead_letters::{Filter as DeadLetterFilter, page as list_dead_letters};
pub use store::leases::count_due;
pub use store::{Backlog, CHANNEL, backlog, inspect, leases, rehearse, wake_waiting};

use dead_letters::{discard, replay};
use sha2::{Digest, Sha256};

/// The actions that audit entries of operators' work on the inbox have.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    let looking = [LISTED, LETTERS_LISTED, SHOWN];
    looking.into_iter().chain([replay::ACTION, discard::ACTION])
}

const LISTED: &str = "webhook_events_listed";
const LETTERS_LISTED: &str = "dead_letters_listed";
const SHOWN: &str = "webhook_event_shown";

const BUCKETS: u16 = 1_024;

/// Where an event is filed: a hash of its id. It is part of the table's key,
/// so it must never change.
pub fn bucket_of(event_id: &str) -> i16 {
    let digest = Sha256::digest(event_id.as_bytes());
    let bucket = u16::from_be_bytes([digest[0], digest[1]]) % BUCKETS;
    i16::try_from(bucket).expect("there are fewer buckets than i16 has numbers")
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
