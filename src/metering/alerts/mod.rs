//! Usage alerts: raised by the ledger at 80, 100 and 120 % of a quota, read by
//! the API, and sent to the application as signed webhooks.

pub mod routes;
pub mod sender;
mod store;
pub mod webhook;

pub use store::{Alert, Delivery, list_failed, resend};
