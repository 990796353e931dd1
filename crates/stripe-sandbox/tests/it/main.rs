//! The sandbox from outside: one binary, one fresh sandbox for each test.

mod catalogue;
mod clocks;
mod errors;
mod faults;
mod meters;
mod payments;
mod previews;
mod recorded;
mod sdk;
mod subscriptions;
mod support;
mod webhooks;
