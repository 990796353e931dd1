//! Webhooks in: verify, store, respond; process later, retry, and keep what cannot
//! be processed as dead letters.
//!
//! What an event does to our state is the `projection`'s business.

mod altered;
pub mod backpressure;
pub mod bulk;
pub mod dead_letters;
pub mod endpoint;
pub mod intake;
pub mod operator;
mod quarantine;
pub mod rejections;
mod store;
pub mod worker;

pub use store::dead_letters::{
    Filter as DeadLetterFilter, GROUPED, Group as DeadLetterGroup, groups as dead_letter_groups,
    page as list_dead_letters,
};
pub use store::leases::count_due;
pub use store::{Backlog, CHANNEL, Hour, backlog, hours, inspect, leases, rehearse};

use dead_letters::{discard, rehearsal, replay};

/// All audit actions of operators' access to events.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    let reads = [LISTED, DEAD_LETTERS_LISTED, SHOWN];
    let bulk = [
        bulk::STARTED,
        bulk::STOPPED,
        bulk::ENDED,
        bulk::LISTED,
        bulk::SHOWN,
    ];
    let acts = [replay::ACTION, discard::ACTION, rehearsal::ACTION];
    reads.into_iter().chain(acts).chain(bulk)
}

const LISTED: &str = "webhook_events_listed";
const DEAD_LETTERS_LISTED: &str = "dead_letters_listed";
const SHOWN: &str = "webhook_event_shown";
