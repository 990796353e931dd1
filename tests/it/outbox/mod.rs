//! Events out: the product is told what changed, in order, signed, and at least once.

mod acts;
mod alerts;
mod answers;
mod crash;
mod endpoints;
mod folding;
mod foreign;
mod listening;
mod marks;
mod operators;
mod order;
pub mod receiver;
mod shares;
