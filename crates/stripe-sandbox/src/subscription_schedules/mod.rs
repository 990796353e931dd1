//! Subscription schedules: changes of a subscription that are decided now and
//! made later. A schedule is a list of phases; when one ends, the subscription
//! gets the items of the next. How a change is prorated is decided in
//! [`crate::subscriptions::change`], not here.

pub mod model;
pub mod phases;
pub mod request;
pub mod routes;
pub mod transition;
pub mod update;
