//! Usage: what is counted, exactly once, and decided about, exactly.
//!
//! The ledger is the one who counts: requests that arrive while a commit is in
//! flight share the next one.

mod account;
pub mod answer;
mod aside;
mod body;
mod due;
mod events;
mod group;
pub mod ledger;
mod metadata;
mod offload;
mod queue;
mod reading;
mod rebook;
mod releasing;
pub mod routes;
mod store;
mod told;
mod writer;

pub use account::Account;
pub use account::{Refusal, Standing};
pub use due::keep_due_taken;
pub use ledger::{Item, Ledger, LedgerError, Reservation, Rules};
pub use offload::Offload;
pub use reading::{MetricUsage, read_all};
pub use rebook::{close, rebook};
pub use releasing::keep_released;
pub use store::Renewed;
pub use store::{cadence, rehearse, renew_reservations};
pub use told::Told;

use jiff::Timestamp;
use rust_decimal::Decimal;

/// A use, as its sender tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Unique in its organization.
    pub id: String,
    pub metric: String,
    pub quantity: Decimal,
    /// None: now. To the microsecond.
    pub occurred_at: Option<Timestamp>,
    /// A JSON object.
    pub metadata: Option<String>,
}
