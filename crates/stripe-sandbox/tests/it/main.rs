//! The sandbox from outside: one binary, one fresh sandbox for each test.

mod catalogue;
mod clocks;
mod errors;
mod faults;
mod lines;
mod meters;
mod payments;
mod previews;
mod recorded;
mod refusals;
mod sdk;
mod subscriptions;
mod support;
mod trials;
mod webhooks;
