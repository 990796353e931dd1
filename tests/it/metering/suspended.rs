//! A subscription that is suspended, unpaid, and goes on.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use stripe_sandbox::{Config, DunningEnd};

use super::billed::Billed;
use crate::subscriptions::world::{DAY, Stripe, VISA, World, text};
use crate::support::service::Options;

/// A stand-in that gives up the renewal after a day.
async fn stripe(dunning_end: DunningEnd) -> Stripe {
    Stripe::with(Config {
        dunning_days: vec![1],
        dunning_end,
        webhook_retry_delays: vec![std::time::Duration::from_millis(50); 20],
        ..Config::default()
    })
    .await
}

#[tokio::test]
async fn a_suspension_closes_no_period_and_its_use_is_not_billed() {
    let stripe = stripe(DunningEnd::MarkUnpaid).await;
    let world = World::with(stripe, Options::default()).await;
    suspended_and_back(world, "unpaid").await;
}

/// By `[recovery]`, a day after the first failure.
#[tokio::test]
async fn neither_does_access_that_ends_while_it_is_past_due() {
    let file = tempfile::tempdir().unwrap();
    let plans = std::fs::read_to_string("config/plans.toml").unwrap();
    let path = file.path().join("plans.toml");
    let section = "[recovery]\npast_due_access = \"1d\"\n\n[proration]\n";
    std::fs::write(&path, plans.replacen("[proration]\n", section, 1)).unwrap();
    let options = Options {
        plans_file: Some(path),
        ..Options::default()
    };
    let stripe = stripe(DunningEnd::LeavePastDue).await;
    suspended_and_back(World::with(stripe, options).await, "past_due").await;
}

async fn suspended_and_back(world: World, status: &str) {
    // The last attempt to collect the renewal fails in a moment from now.
    let ends = Timestamp::now().as_second() + 8;
    let renewal = Timestamp::from_second(ends - DAY - 3_600).unwrap();
    let begins = renewal.to_zoned(TimeZone::UTC);
    let begins = begins.checked_sub(jiff::Span::new().months(1)).unwrap();
    let billed = Billed::on(world, Some(begins.timestamp().as_second())).await;
    billed.world.create("standard").await.ok();
    let stripe = &billed.world.stripe;
    stripe
        .use_card(&billed.customer, "pm_card_chargeCustomerFail")
        .await;
    let clock = billed.clock.as_deref().unwrap();
    stripe.advance(clock, renewal.as_second() + 2 * 3_600).await;
    billed.catch_up().await;
    billed.world.settle().await;
    assert_eq!(text(&billed.subscription().await, "status"), "past_due");
    billed.record("paid", "api_calls", "150000").await;
    assert!(
        Timestamp::now().as_second() < ends,
        "the machine is too slow"
    );
    while billed.catch_up().await <= ends {}
    billed.world.settle().await;
    assert_eq!(text(&billed.subscription().await, "status"), status);
    for _ in 0..600 {
        if billed.world.plan().await.0 == "free" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(billed.world.plan().await.0, "free");
    billed.record("free", "api_calls", "300").await;
    let usage = async || {
        let shown = billed.tenant.usage(billed.service(), "api_calls").await;
        shown["usage"].clone()
    };
    assert_eq!(usage().await, json!(300));
    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.failed, report.unbilled.len()), (0, 0));
    let told = async || billed.told("api_calls", 0, ends + DAY).await;
    assert_eq!(told().await, "150000");
    // It is paid after all.
    stripe.use_card(&billed.customer, VISA).await;
    let invoices = stripe.invoices(&billed.customer).await;
    let open = invoices.iter().find(|invoice| invoice["status"] == "open");
    let path = format!("/v1/invoices/{}/pay", text(open.unwrap(), "id"));
    stripe.post(&path, &[]).await;
    billed.world.settle().await;
    assert_eq!(billed.world.plan().await.0, "standard");
    billed.record("again", "api_calls", "7").await;
    assert_eq!(usage().await, json!(150_007));
    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.failed, report.unbilled.len()), (0, 0));
    assert_eq!(told().await, "150007");
}
