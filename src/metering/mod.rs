//! What organizations use, what they may use, and what happens beyond that.
//! Every count goes through the ledger; no total is kept in memory, and no
//! quota is decided outside it.

pub mod alerts;
pub mod charges;
pub mod denials;
pub mod enforcement;
pub mod grace;
pub mod ledger;
pub mod quotas;
pub mod reports;
pub mod usage;
