//! Invoices: put together, finalized, paid, voided, previewed.

pub mod assemble;
pub mod collect;
pub mod credits;
pub mod describe;
pub mod finalize;
pub mod lines;
pub mod model;
pub mod pdf;
pub mod preview;
pub mod render;
pub mod routes;
pub mod upcoming;
