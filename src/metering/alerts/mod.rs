//! Usage alerts at 80, 100 and 120 % of a quota: this module lists them and
//! sends them to the application as signed webhooks. It never raises one; the
//! ledger does.

pub mod routes;
pub mod sender;
mod store;
pub mod webhook;

pub use store::{Alert, Delivery, list_failed, resend};
