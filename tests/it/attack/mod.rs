//! An adversary that stays: every attack in turn against the program in the
//! memory of our manifests, with a customer's checks and Stripe's deliveries
//! beside it.
//!
//! The short form holds what does not hang on the machine: the program lives, in
//! its memory; every delivery is acknowledged, every check answered; totals are
//! what their events add up to. `make attack` runs the long form against a
//! release build, with more connections, and holds latencies and what is left
//! of memory as well. [`sizes::Sizes`] has the variables.

mod beside;
mod bodies;
mod cage;
mod connections;
mod elsewhere;
mod gateway;
mod hands;
mod heads;
mod intake;
mod locks;
mod logins;
mod pages;
mod product;
mod reads;
pub mod siege;
mod sizes;
mod table;
mod target;
mod usage;
mod world;

use siege::besiege;

#[tokio::test]
async fn strangers_connections_and_heads_kill_nothing() {
    besiege("strangers", &[connections::ATTACKS, heads::ATTACKS]).await;
}

#[tokio::test]
async fn bodies_and_deliveries_kill_nothing() {
    besiege("bodies", &[bodies::ATTACKS, intake::ATTACKS]).await;
}

#[tokio::test]
async fn logins_and_readers_keep_nobody_waiting() {
    besiege("readers", &[logins::ATTACKS, reads::ATTACKS]).await;
}

#[tokio::test]
async fn one_tenants_usage_and_calls_keep_nobody_waiting() {
    besiege("tenants", &[usage::ATTACKS, gateway::ATTACKS]).await;
}

#[tokio::test]
async fn what_others_hold_in_the_database_keeps_nobody_waiting() {
    besiege("database", &[locks::ATTACKS]).await;
}

#[tokio::test]
async fn pages_and_their_forms_keep_nobody_waiting() {
    besiege("pages", &[pages::ATTACKS]).await;
}

#[tokio::test]
async fn what_the_product_calls_keeps_nobody_waiting() {
    besiege("product", &[product::ATTACKS]).await;
}
