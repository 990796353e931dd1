//! Stripe accepts usage first and counts it afterwards: nothing is invoiced in between,
//! and an invoice that has other usage than Stripe was told of is found.

use jiff::Timestamp;
use reqwest::Method;

use super::billed::Billed;
use crate::subscriptions::world::text;

async fn on_clock() -> Billed {
    let at = Timestamp::now().as_second() - 5 * 3_600;
    let billed = Billed::without_subscription(Some(at)).await;
    billed.world.create("standard").await.ok();
    billed.world.settle().await;
    billed.record("a", "api_calls", "300000").await;
    billed.catch_up().await;
    billed
}

/// What its invoices come to, beyond the fee.
async fn overage(billed: &Billed) -> i64 {
    let invoices = billed.world.stripe.invoices(&billed.customer).await;
    let amounts = invoices.iter().map(|invoice| &invoice["total"]);
    amounts.map(|amount| amount.as_i64().unwrap()).sum::<i64>() - 9_900
}

async fn count_everything(billed: &Billed) {
    let stripe = &billed.world.stripe;
    stripe.send(Method::DELETE, "/_sandbox/faults", &[]).await;
}

/// The reasons for which usage is not billed as it was used.
async fn unbilled(billed: &Billed) -> Vec<String> {
    let report = billed.report(Timestamp::now()).await;
    let found = report.unbilled.iter();
    found
        .map(|found| format!("{} {}", found.units.0.normalize(), found.reason.as_str()))
        .collect()
}

#[tokio::test]
async fn an_end_at_once_waits_until_stripe_has_counted_what_it_was_told() {
    let billed = on_clock().await;
    let fault = [("fault", "late_usage"), ("after", "1"), ("every", "1")];
    billed.world.stripe.fault(&fault).await;
    billed.world.cancel(true).await.ok();
    assert_eq!(overage(&billed).await, 20_000);
    billed.world.settle().await;
    assert_eq!(unbilled(&billed).await, Vec::<String>::new());
    let metric = "stripe_usage_counts_total{result=\"counted\"}";
    assert!(billed.service().metric(metric).await >= Some(1));
}

#[tokio::test]
async fn an_end_at_once_that_stripe_would_invoice_without_usage_is_refused_and_repeated() {
    let billed = on_clock().await;
    let fault = [("fault", "late_usage"), ("every", "1")];
    billed.world.stripe.fault(&fault).await;
    for _ in 0..2 {
        let refused = billed.world.cancel(true).await;
        assert_eq!(refused.problem(), (503, "usage_not_counted"));
        assert_eq!(billed.subscription().await["status"], "active");
    }
    let open = "SELECT count(*) FROM billing_stripe_requests WHERE state = 'open'";
    assert_eq!(billed.service().db.value(open).await, "0");
    count_everything(&billed).await;
    billed.world.cancel(true).await.ok();
    assert_eq!(overage(&billed).await, 20_000);
    billed.world.settle().await;
    assert_eq!(unbilled(&billed).await, Vec::<String>::new());
    let marked = "SELECT count(*) FROM usage_reports WHERE uncounted_at IS NOT NULL";
    assert_eq!(billed.service().db.value(marked).await, "0");
}

#[tokio::test]
async fn nobody_is_kept_for_long_by_usage_that_stripe_never_counts() {
    let billed = on_clock().await;
    assert_eq!(billed.report(Timestamp::now()).await.sent, 1);
    billed.catch_up().await;
    billed.record("b", "api_calls", "100000").await;
    let fault = [("fault", "late_usage"), ("every", "1")];
    billed.world.stripe.fault(&fault).await;
    let refused = billed.world.cancel(true).await;
    assert_eq!(refused.problem(), (503, "usage_not_counted"));
    let earlier = "UPDATE usage_reports SET uncounted_at = uncounted_at - interval '6 minutes'";
    billed.service().db.execute(earlier).await;
    billed.world.cancel(true).await.ok();
    assert_eq!(overage(&billed).await, 20_000);
    billed.world.settle().await;
    assert_eq!(unbilled(&billed).await, ["100000 invoiced_less"]);
    let metric = "usage_unbilled_total{reason=\"invoiced_less\"}";
    assert!(billed.service().metric(metric).await >= Some(1));
}

/// A renewal's invoice is a draft for an hour, and Stripe counts in it what it was told.
#[tokio::test]
async fn a_renewal_without_usage_that_stripe_was_told_of_is_found() {
    for (late, found) in [(true, vec!["200000 invoiced_less"]), (false, vec![])] {
        let billed = on_clock().await;
        if late {
            let fault = [("fault", "late_usage"), ("every", "1")];
            billed.world.stripe.fault(&fault).await;
        }
        assert_eq!(billed.report(Timestamp::now()).await.sent, 1);
        let end = billed.subscription().await["items"]["data"][0]["current_period_end"]
            .as_i64()
            .unwrap();
        let clock = billed.clock.as_deref().unwrap();
        billed.world.stripe.advance(clock, end + 2 * 3_600).await;
        billed.world.settle().await;
        assert_eq!(unbilled(&billed).await, found);
    }
}

/// Nobody else is to tell our meters.
#[tokio::test]
async fn usage_that_others_told_stripe_is_found_on_the_invoice() {
    let billed = on_clock().await;
    assert_eq!(billed.report(Timestamp::now()).await.sent, 1);
    let name = valuecanvas_billing::catalogue::meter_event_name("api_calls");
    let foreign = [
        ("event_name", &*name),
        ("payload[stripe_customer_id]", &*billed.customer),
        ("payload[value]", "5"),
    ];
    let stripe = &billed.world.stripe;
    stripe.post("/v1/billing/meter_events", &foreign).await;
    billed.catch_up().await;
    let path = format!(
        "/v1/subscriptions/{}",
        text(&billed.subscription().await, "id")
    );
    let fields = [("invoice_now", "true")];
    stripe.send(Method::DELETE, &path, &fields).await;
    billed.world.settle().await;
    assert_eq!(unbilled(&billed).await, ["5 invoiced_more"]);
}
