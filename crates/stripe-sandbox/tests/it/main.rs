//! Tests of the sandbox over HTTP. Each test starts a sandbox of its own; none
//! looks inside it.

mod catalogue;
mod checkout;
mod clocks;
mod currencies;
mod details;
mod discounts;
mod errors;
mod faults;
mod intervals;
mod lines;
mod metered_changes;
mod meters;
mod payments;
mod previews;
mod recorded;
mod refusals;
mod schedules;
mod sdk;
mod subscriptions;
mod support;
mod taxes;
mod trials;
mod webhooks;
