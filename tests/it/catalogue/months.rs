//! What belongs to each month of a plan that is paid by the year: usage, alerts and grace,
//! what Stripe is not told in time, and what trials and ends cut off.

use billing_domain::period::Cadence;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::allowance::{
    HIGHER, HIGHER_PRICES, PRICE, PRICES, compare, market, metered, month, second, year,
};
use super::shop::Shop;
use crate::subscriptions::world::{DAY, START, SUBSCRIPTION, UPCOMING, seconds};

/// The plan whose overage nobody bills: four limits, and one grace.
const UNBILLED: [(&str, &str); 5] = [
    (
        "llm_tokens = { quota = 1_000_000, over_limit = \"overage\", overage_rate = \"0.00001\" }",
        "llm_tokens = { quota = 1_000_000, over_limit = \"hard\" }",
    ),
    (
        "agent_executions = { quota = 5_000, over_limit = \"overage\", overage_rate = \"0.10\" }",
        "agent_executions = { quota = 5_000, over_limit = \"grace\" }",
    ),
    (
        "api_calls = { quota = 100_000, over_limit = \"overage\", overage_rate = \"0.001\" }",
        "api_calls = { quota = 100_000, over_limit = \"hard\" }",
    ),
    (
        "storage_gb = { quota = 100, over_limit = \"overage\", overage_rate = \"0.50\" }",
        "storage_gb = { quota = 100, over_limit = \"hard\" }",
    ),
    (
        "user_seats = { quota = 25, over_limit = \"overage\", overage_rate = \"5.00\" }",
        "user_seats = { quota = 25, over_limit = \"hard\" }",
    ),
];
/// Standard bills no usage, enterprise does; both are sold by the month and the year.
async fn unbilled_market() -> Shop {
    let mut changes = vec![(PRICE, PRICES), (HIGHER, HIGHER_PRICES)];
    changes.extend(UNBILLED);
    Shop::open(&changes).await
}

impl Shop {
    /// The month ends at the second that has just begun, and Stripe has not said so yet.
    async fn end_month(&self) -> i64 {
        self.world.deliver_nothing().await;
        second().await;
        let now = Timestamp::now().as_second();
        let at = format!("to_timestamp({now})");
        let db = &self.world.service.db;
        for sql in [
            format!(
                "UPDATE billing_subscriptions
                    SET usage_period_end = {at}, billing_cycle_anchor = {at}"
            ),
            format!("UPDATE usage_totals SET period_end = {at}"),
            format!("UPDATE grace_periods SET period_end = {at}"),
        ] {
            db.execute(&sql).await;
        }
        now
    }

    async fn mirrored(&self, column: &str) -> String {
        self.value(&format!(
            "SELECT {column} FROM billing_subscriptions WHERE organization_id = $org"
        ))
        .await
    }
}

fn shown(usage: &Value) -> (i64, i64, i64) {
    (
        usage["usage"].as_i64().unwrap(),
        seconds(&usage["periodStart"]),
        seconds(&usage["periodEnd"]),
    )
}

fn next_month(at: i64) -> i64 {
    Cadence::MONTHLY.boundary(at, 1).unwrap()
}

#[tokio::test]
async fn a_month_begins_by_itself_with_a_quota_alerts_and_grace_of_its_own() {
    let mut shop = unbilled_market().await;
    shop.customer().await;
    let made = shop.subscribe(year("standard")).await.ok();
    let start = seconds(&made["currentPeriodStart"]);
    shop.world.settle().await;
    // Nothing is metered, so that Stripe knows of no month.
    assert_eq!(shop.mirrored("billing_mode").await, "classic");
    let usage = shop.usage("agent_executions").await;
    assert_eq!(shown(&usage), (0, start, next_month(start)));
    assert!(seconds(&made["currentPeriodEnd"]) >= start + 365 * DAY);

    let tenant = shop.tenant().await;
    let service = &shop.world.service;
    let metric = "agent_executions";
    let begun = tenant.consume(service, metric, 5_001).await;
    assert_eq!(begun.header("x-quota-warning"), "true", "{begun:#?}");
    let api_calls = tenant.consume(service, "api_calls", 100_000).await;
    assert_eq!(api_calls.status, 200);
    let over = "UPDATE grace_periods SET started_at = now() - interval '2 days',
                       expires_at = now() - interval '1 day'";
    service.db.execute(over).await;
    let refused = tenant.consume(service, metric, 1).await;
    assert_eq!(refused.problem(), (402, "QUOTA_EXCEEDED_GRACE_EXPIRED"));
    let refused = tenant.consume(service, "api_calls", 1).await;
    assert_eq!(refused.problem(), (402, "QUOTA_EXCEEDED"));

    let boundary = shop.end_month().await;
    assert_eq!(tenant.consume(service, "api_calls", 1).await.status, 200);
    let within = tenant.consume(service, metric, 4_000).await;
    assert_eq!(within.header("x-quota-warning"), "", "{within:#?}");
    let usage = shop.usage(metric).await;
    assert_eq!(shown(&usage), (4_000, boundary, next_month(boundary)));
    let again = tenant.consume(service, metric, 1_001).await;
    assert_eq!(again.header("x-quota-warning"), "true", "{again:#?}");
    let graces = tenant.get(service, "/api/billing/grace-periods").await.ok();
    let mut starts: Vec<i64> = graces["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| seconds(&one["periodStart"]))
        .collect();
    starts.sort_unstable();
    assert_eq!(starts, [start, boundary]);
    let alerts = shop
        .value(
            "SELECT string_agg(threshold || ' ' || extract(epoch FROM period_start)::bigint, ','
                               ORDER BY period_start, threshold)
               FROM usage_alerts WHERE organization_id = $org AND metric = 'agent_executions'",
        )
        .await;
    assert_eq!(
        alerts,
        format!("80 {start},100 {start},80 {boundary},100 {boundary}")
    );
}

#[tokio::test]
async fn overage_begins_anew_with_each_month_and_what_came_too_late_is_its_months() {
    let mut shop = market().await;
    let at = Timestamp::now().as_second() - 5 * 3_600;
    let (customer, _clock) = shop.customer_at(at).await;
    let made = shop.subscribe(year("standard")).await.ok();
    let start = seconds(&made["currentPeriodStart"]);
    shop.world.settle().await;
    shop.uses("api_calls", "103000").await;
    assert_eq!(shop.overage().await, 300);
    let boundary = shop.end_month().await;
    shop.uses("api_calls", "101000").await;
    assert_eq!(shop.overage().await, 100, "of the new month alone");
    // Hours later: Stripe has charged the month, and was told nothing of it.
    let sql = format!(
        "UPDATE usage_totals SET period_end = period_end - interval '3 hours'
          WHERE period_start = to_timestamp({start})"
    );
    shop.world.service.db.execute(&sql).await;
    let report = shop.report().await;
    let unbilled: Vec<_> = report
        .unbilled
        .iter()
        .map(|one| {
            let bounds = (one.period_start.as_second(), one.period_end.as_second());
            (bounds, one.units.0.normalize().to_string())
        })
        .collect();
    assert_eq!(
        unbilled,
        [((start, boundary - 3 * 3_600), "3000".to_owned())],
        "{report:#?}"
    );
    assert_eq!(metered(&shop, &customer).await.len(), 5);
}

#[tokio::test]
async fn months_begin_when_a_trial_ends() {
    let mut shop = market().await;
    let at = Timestamp::now().as_second() - 3_600;
    let (customer, clock) = shop.customer_at(at).await;
    let mut wish = year("standard");
    wish["trialDays"] = json!(14);
    let made = shop.subscribe(wish).await.ok();
    let end = at + 14 * DAY;
    assert_eq!(seconds(&made["trialEnd"]), end);
    shop.world.settle().await;
    assert_eq!(shown(&shop.usage("api_calls").await), (0, at, end));
    shop.uses("api_calls", "150000").await;
    // What is used in a trial costs nothing, and a change neither.
    let preview = shop.previewed(year("enterprise")).await.ok();
    assert_eq!(preview["dueNowAmountMinor"], 0, "{preview:#}");
    shop.report().await;
    assert_eq!(shop.metered_lines(&customer).await, 0);
    let subscription = shop.world.stripe.subscriptions(&customer).await.remove(0);
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    second().await;
    let now = Timestamp::now().as_second();
    shop.world.stripe.advance(&clock, now).await;
    shop.world.stripe.post(&path, &[("trial_end", "now")]).await;
    shop.world.settle().await;
    assert_eq!(
        shown(&shop.usage("api_calls").await),
        (0, now, next_month(now))
    );
    shop.uses("api_calls", "102000").await;
    compare(&shop, &customer).await;
    assert_eq!(shop.overage().await, 200);
}

#[tokio::test]
async fn a_trial_goes_on_when_the_year_is_chosen_in_it() {
    let mut shop = market().await;
    let at = Timestamp::now().as_second() - 3_600;
    let (customer, clock) = shop.customer_at(at).await;
    let mut wish = month("standard");
    wish["trialDays"] = json!(14);
    shop.subscribe(wish).await.ok();
    shop.world.settle().await;
    let end = at + 14 * DAY;
    let preview = shop.previewed(year("standard")).await.ok();
    assert_eq!(
        (
            &preview["dueNowAmountMinor"],
            &preview["nextInvoiceAmountMinor"],
            seconds(&preview["nextInvoiceDate"])
        ),
        (&json!(0), &json!(99_000), end)
    );
    let changed = shop.world.change_as(&preview).await.ok();
    assert_eq!(
        (&changed["interval"], seconds(&changed["trialEnd"])),
        (&json!("year"), end)
    );
    shop.world.settle().await;
    assert_eq!(shop.mirrored("billing_mode").await, "flexible");
    assert_eq!(shown(&shop.usage("api_calls").await), (0, at, end));
    shop.world.stripe.advance(&clock, end + 7_200).await;
    shop.world.settle().await;
    assert_eq!(shop.invoice(&customer).await["total"], 99_000);
    let items = metered(&shop, &customer).await;
    assert_eq!((items[0].2, items[0].3), (end, next_month(end)));
}

#[tokio::test]
async fn the_months_overage_is_on_the_last_invoice_and_what_follows_is_free() {
    let mut shop = market().await;
    let customer = shop.customer().await;
    shop.subscribe(year("standard")).await.ok();
    shop.world.settle().await;
    shop.uses("agent_executions", "5200").await;
    second().await;
    shop.world.cancel(true).await.ok();
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    let last = shop.invoice(&customer).await;
    assert_eq!(last["total"], 2_000, "{last:#}");
    let usage = shop.usage("agent_executions").await;
    assert_eq!(
        (&usage["usage"], &usage["quota"]),
        (&json!(0), &json!(100)),
        "{usage:#}"
    );
    let report = shop.report().await;
    assert!(report.unbilled.is_empty(), "{report:#?}");
}

#[tokio::test]
async fn a_preview_knows_short_months_and_leap_years() {
    for (bought, month_ends) in [
        ("2027-01-31T10:00:00Z", "2027-02-28T10:00:00Z"),
        ("2028-01-31T10:00:00Z", "2028-02-29T10:00:00Z"),
        ("2028-02-29T00:00:00Z", "2028-03-29T00:00:00Z"),
    ] {
        let mut shop = market().await;
        let start = bought.parse::<Timestamp>().unwrap().as_second();
        let (customer, clock) = shop.customer_at(start).await;
        let preview = shop.previewed(year("standard")).await.ok();
        assert_eq!(
            (
                &preview["dueNowAmountMinor"],
                &preview["nextInvoiceAmountMinor"],
                &preview["nextInvoiceDate"]
            ),
            (&json!(99_000), &json!(0), &json!(month_ends)),
            "{preview:#}"
        );
        let made = shop.subscribe(year("standard")).await.ok();
        let whole = seconds(&made["currentPeriodEnd"]) - start;
        assert_eq!(whole, Cadence::YEARLY.boundary(start, 1).unwrap() - start);
        // In the middle of the third month.
        let at = start + 73 * DAY;
        for at in [start + 40 * DAY, at] {
            shop.world.stripe.advance(&clock, at).await;
        }
        shop.world.settle().await;
        let preview = shop.previewed(year("enterprise")).await.ok();
        let left = whole - 73 * DAY;
        let share = |amount: i64| (2 * amount * left + whole) / (2 * whole);
        assert_eq!(
            preview["dueNowAmountMinor"],
            share(499_000) - share(99_000),
            "{preview:#}"
        );
        let third = Cadence::MONTHLY.boundary(start, 3).unwrap();
        assert_eq!(seconds(&preview["nextInvoiceDate"]), third);
        assert_eq!(preview["nextInvoiceAmountMinor"], 0);
        shop.world.change_as(&preview).await.ok();
        assert_eq!(
            shop.invoice(&customer).await["total"],
            preview["dueNowAmountMinor"]
        );
        let items = metered(&shop, &customer).await;
        assert_eq!(items[0].3, third, "the month goes on");
    }
}

#[tokio::test]
async fn billed_usage_comes_to_a_year_that_had_none() {
    let mut shop = unbilled_market().await;
    let customer = shop.customer().await;
    let made = shop.subscribe(year("standard")).await.ok();
    shop.world.settle().await;
    second().await;
    let preview = shop.previewed(year("enterprise")).await.ok();
    let start = seconds(&made["currentPeriodStart"]);
    assert_eq!(seconds(&preview["nextInvoiceDate"]), next_month(start));
    shop.world.change_as(&preview).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.mirrored("billing_mode").await, "flexible");
    assert_eq!(
        shop.invoice(&customer).await["total"],
        preview["dueNowAmountMinor"]
    );
    assert_eq!(metered(&shop, &customer).await.len(), 4);
    shop.uses("api_calls", "1002000").await;
    compare(&shop, &customer).await;
    assert_eq!(shop.overage().await, 100);
    // And goes again: what was over is charged with the change.
    second().await;
    let preview = shop.previewed(year("standard")).await.ok();
    shop.world.change_as(&preview).await.ok();
    shop.world.settle().await;
    let charged = shop.value("SELECT string_agg(metric || ' ' || units::bigint || ' ' || charged_by, ',') FROM usage_charges WHERE organization_id = $org").await;
    assert_eq!(charged, "api_calls 2000 stripe");
    let usage = shop.usage("api_calls").await;
    assert_eq!(
        shown(&usage),
        (1_002_000, start, next_month(start)),
        "{usage:#}"
    );
}

#[tokio::test]
async fn billed_usage_comes_with_the_next_year() {
    let mut shop = unbilled_market().await;
    let (customer, clock) = shop.customer_at(START).await;
    let made = shop.subscribe(year("standard")).await.ok();
    let end = seconds(&made["currentPeriodEnd"]);
    shop.world.settle().await;
    let mut wish = year("enterprise");
    wish["when"] = json!("period_end");
    let preview = shop.previewed(wish.clone()).await.ok();
    assert_eq!(
        (
            &preview["dueNowAmountMinor"],
            &preview["nextInvoiceAmountMinor"],
            seconds(&preview["nextInvoiceDate"])
        ),
        (&json!(0), &json!(499_000), end)
    );
    let changed = shop.put(wish).await.ok();
    assert_eq!(changed["pendingChange"]["planTier"], "enterprise");
    shop.world.stripe.advance(&clock, end + 7_200).await;
    shop.world.settle().await;
    assert_eq!(shop.invoice(&customer).await["total"], 499_000);
    let items = metered(&shop, &customer).await;
    assert_eq!(
        (items.len(), items[0].2, items[0].3),
        (4, end, next_month(end))
    );
    assert_eq!(shop.world.plan().await.0, "enterprise");
}

#[tokio::test]
async fn a_schedule_that_has_done_its_work_is_not_in_the_way() {
    let mut shop = unbilled_market().await;
    let (customer, clock) = shop.customer_at(START).await;
    let made = shop.subscribe(year("standard")).await.ok();
    shop.world.settle().await;
    let later = |tier: &str, interval: &str| json!({"planTier": tier, "interval": interval, "when": "period_end"});
    shop.put(later("standard", "month")).await.ok();
    let end = seconds(&made["currentPeriodEnd"]);
    shop.world.stripe.advance(&clock, end + 7_200).await;
    shop.world.settle().await;
    // Its phase goes on for a day.
    assert_ne!(shop.mirrored("coalesce(stripe_schedule_id, '')").await, "");
    let changed = shop.put(later("enterprise", "year")).await.ok();
    assert_eq!(changed["pendingChange"]["interval"], "year");
    let begins = next_month(end);
    shop.world.stripe.advance(&clock, begins + 7_200).await;
    shop.world.settle().await;
    assert_eq!(shop.invoice(&customer).await["total"], 499_000);
    let items = metered(&shop, &customer).await;
    assert_eq!((items.len(), items[0].2), (4, begins));
}

#[tokio::test]
async fn a_pending_change_keeps_the_billing_that_it_was_made_for() {
    let mut shop = unbilled_market().await;
    shop.customer().await;
    shop.subscribe(year("standard")).await.ok();
    shop.world.settle().await;
    let mut later = month("standard");
    later["when"] = json!("period_end");
    shop.put(later).await.ok();
    let refused = shop.put(year("enterprise")).await;
    assert_eq!(refused.problem(), (409, "change_pending"));
    assert_eq!(shop.mirrored("billing_mode").await, "classic");
    let path = format!("{SUBSCRIPTION}/pending-change");
    shop.world.call(Method::DELETE, &path, None).await.ok();
    let changed = shop.put(year("enterprise")).await.ok();
    assert_eq!(changed["planTier"], "enterprise");
    shop.world.settle().await;
    assert_eq!(shop.mirrored("billing_mode").await, "flexible");
}

#[tokio::test]
async fn the_upcoming_invoice_is_the_months() {
    let mut shop = market().await;
    let customer = shop.customer().await;
    shop.subscribe(year("standard")).await.ok();
    shop.world.settle().await;
    shop.uses("api_calls", "107000").await;
    shop.report().await;
    let upcoming = shop.get(UPCOMING).await;
    let end = metered(&shop, &customer).await[0].3;
    assert_eq!(
        (&upcoming["totalAmount"], seconds(&upcoming["invoiceDate"])),
        (&json!(700), end),
        "{upcoming:#}"
    );
    let state = shop.get("/api/billing/quotas").await;
    for quota in state["data"].as_array().unwrap() {
        if !quota["periodEnd"].is_null() {
            assert_eq!(seconds(&quota["periodEnd"]), end, "{quota:#}");
        }
    }
}
