//! What organizations use, what they may use, and what becomes of use beyond
//! that. Every count goes through the ledger; no total is kept in memory.

pub mod alerts;
pub mod enforcement;
pub mod grace;
pub mod ledger;
pub mod quotas;
pub mod reports;
pub mod usage;
