//! Invoices are assembled, finalized, paid, voided and previewed here. What a
//! subscription owes is decided in [`crate::subscriptions`], and money moves in
//! [`crate::payments`]; neither happens here.

pub mod adjust;
pub mod assemble;
pub mod collect;
pub mod credits;
pub mod describe;
pub mod finalize;
pub mod lines;
pub mod model;
pub mod page;
pub mod pdf;
pub mod preview;
pub mod render;
pub mod routes;
pub mod upcoming;
