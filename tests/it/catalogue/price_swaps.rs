//! Whatever becomes of the item that charges a metric, its usage is charged once.

use std::time::Duration;

use reqwest::Method;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::shop::Shop;
use super::usage_at_changes::{change_in_stripe, charged};
use crate::subscriptions::world::{DAY, SUBSCRIPTION, VISA};

/// 45,000 over the 5,000 of the standard plan, at 0.10.
const OVER: i64 = 450_000;
const OPEN: &str = "SELECT count(*) FROM usage_charges WHERE charged_at IS NULL";

impl Shop {
    /// Waits for what was done in Stripe, and reports.
    async fn caught_up(&self) -> (i64, i64) {
        self.world.settle().await;
        self.world.settled_in_the_background().await;
        self.report().await;
        let customer =
            "SELECT stripe_customer_id FROM billing_customers WHERE organization_id = $org";
        let customer = self.value(customer).await;
        (self.overage().await, self.metered_lines(&customer).await)
    }

    /// The quota in force, in whole units.
    async fn quota(&self, metric: &str) -> i64 {
        let quota = self.usage(metric).await["quota"].to_string();
        let quota: Decimal = quota.parse().unwrap();
        quota.trunc().try_into().unwrap()
    }

    /// The item of the subscription that charges agent executions.
    async fn metered_item(&self, customer: &str) -> String {
        let subscription = self.world.stripe.subscriptions(customer).await.remove(0);
        let items = subscription["items"]["data"].as_array().unwrap().clone();
        let key = |item: &&Value| {
            let key = item["price"]["lookup_key"].as_str().unwrap();
            key.ends_with("agent_executions")
        };
        let item = items.iter().find(key).unwrap();
        item["id"].as_str().unwrap().to_owned()
    }
}

/// A shop that prorates quotas, and a customer who has bought `tier` ten days ago.
async fn prorating(tier: &str) -> (Shop, String) {
    let mut shop = Shop::open(&[("usage = \"charge\"", "usage = \"prorate\"")]).await;
    let now = jiff::Timestamp::now().as_second();
    let clock = shop.world.stripe.clock(now - 10 * DAY).await;
    let customer = shop.world.newcomer(&clock).await;
    shop.world.create(tier).await.ok();
    shop.world.stripe.advance(&clock, now).await;
    shop.world.settle().await;
    (shop, customer)
}

/// A customer who used more than the plan includes before Stripe's dashboard gave another
/// one, which is known here.
async fn upgraded_in_stripe() -> (Shop, String) {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "50000").await;
    shop.report().await;
    change_in_stripe(&shop, &customer, "enterprise").await;
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    (shop, customer)
}

#[tokio::test]
async fn an_item_that_is_replaced_at_the_same_price_is_charged() {
    for by_way_of in [None, Some("enterprise")] {
        let mut shop = Shop::open(&[]).await;
        let customer = shop.subscriber("standard").await;
        shop.uses("agent_executions", "50000").await;
        shop.report().await;
        // Usage of the second in which items change may belong to either.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        if let Some(tier) = by_way_of {
            // Nothing is heard of the way.
            shop.world.deliver_nothing().await;
            change_in_stripe(&shop, &customer, tier).await;
            shop.world.deliver_again().await;
        }
        change_in_stripe(&shop, &customer, "standard").await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(shop.caught_up().await, (0, 0), "{by_way_of:?}");
        assert_eq!(charged(&shop, &customer).await, [OVER], "{by_way_of:?}");
        shop.uses("agent_executions", "7").await;
        assert_eq!(shop.caught_up().await, (70, 70), "{by_way_of:?}");
    }
}

/// Another customer's newer subscription has a lower plan, and a price for the metric too.
#[tokio::test]
async fn usage_of_the_plan_is_charged_beside_a_newer_subscription_with_a_price_for_it() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("enterprise").await;
    let stripe = &shop.world.stripe;
    let other = stripe.customer(VISA, None).await;
    shop.world.adopt(&other).await;
    // Stripe's times are whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut fields = vec![("customer".to_owned(), other)];
    for price in stripe.list("/v1/prices", &[("active", "true")]).await {
        let key = price["lookup_key"].as_str().unwrap_or_default();
        let is_fee = key == "valuecanvas_standard_monthly";
        if is_fee || (key.contains("standard") && key.ends_with("agent_executions")) {
            let name = format!("items[{}][price]", fields.len() - 1);
            fields.push((name, price["id"].as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(fields.len(), 3, "{fields:?}");
    let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
    stripe.post("/v1/subscriptions", &fields).await;
    shop.world.settle().await;
    assert_eq!(shop.world.plan().await.0, "enterprise");
    shop.uses("agent_executions", "50100").await;
    shop.report().await;
    change_in_stripe(&shop, &customer, "standard").await;
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    shop.report().await;
    assert_eq!(charged(&shop, &customer).await, [500]);
}

/// Stripe's event comes late: what was used meanwhile was used at the new price.
#[tokio::test]
async fn usage_since_a_change_that_is_heard_of_late_is_the_new_prices() {
    for (metric, before, since, expected) in [
        ("agent_executions", "5000", "2000", None),
        ("agent_executions", "5010", "2000", Some(100)),
        ("storage_gb", "100", "300", None),
        ("storage_gb", "102", "300", Some(100)),
    ] {
        let mut shop = Shop::open(&[]).await;
        let customer = shop.subscriber("standard").await;
        shop.uses(metric, before).await;
        shop.report().await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        shop.world.deliver_nothing().await;
        change_in_stripe(&shop, &customer, "enterprise").await;
        // Usage of the second in which items change may belong to either.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        shop.uses(metric, since).await;
        shop.world.deliver_again().await;
        for event in shop.world.stripe.list("/v1/events", &[]).await {
            let path = format!("/_sandbox/events/{}/resend", event["id"].as_str().unwrap());
            shop.world.stripe.post(&path, &[]).await;
        }
        assert_eq!(shop.caught_up().await, (0, 0), "{metric} {before}");
        assert_eq!(shop.world.plan().await.0, "enterprise");
        let charged = charged(&shop, &customer).await;
        assert_eq!(charged, Vec::from_iter(expected), "{metric} {before}");
    }
}

/// A customer who has used more than the plan includes, and has more items than the ten that
/// Stripe shows of a subscription.
async fn with_many_items() -> (Shop, String) {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    let stripe = &shop.world.stripe;
    let id = stripe.subscriptions(&customer).await[0]["id"].clone();
    for n in 0..12 {
        let price = stripe.price(&format!("addon{n}"), "100").await;
        let price = price["id"].as_str().unwrap();
        let fields = [("subscription", id.as_str().unwrap()), ("price", price)];
        stripe.post("/v1/subscription_items", &fields).await;
    }
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    let whole = "SELECT NOT has_more_items FROM billing_subscriptions";
    assert_eq!(shop.world.service.db.value(whole).await, "true");
    shop.uses("agent_executions", "50000").await;
    shop.report().await;
    // Usage of the second in which items change may belong to either.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    (shop, customer)
}

/// It is gone from a list that does not show what it does not show, and the whole list comes
/// once the plan has changed.
#[tokio::test]
async fn an_item_that_is_replaced_in_a_cut_list_is_charged_at_the_price_that_it_had() {
    for tier in ["standard", "enterprise"] {
        let (shop, customer) = with_many_items().await;
        change_in_stripe(&shop, &customer, tier).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(shop.caught_up().await, (0, 0), "{tier}");
        assert_eq!(shop.world.plan().await.0, tier);
        assert_eq!(charged(&shop, &customer).await, [OVER], "{tier}");
        // However often it is heard of.
        for event in shop.world.stripe.list("/v1/events", &[]).await {
            let path = format!("/_sandbox/events/{}/resend", event["id"].as_str().unwrap());
            shop.world.stripe.post(&path, &[]).await;
        }
        shop.caught_up().await;
        assert_eq!(charged(&shop, &customer).await, [OVER], "{tier}");
    }
}

#[tokio::test]
async fn a_price_that_changes_in_a_cut_list_is_charged() {
    let (shop, customer) = with_many_items().await;
    let prices = shop.world.stripe.list("/v1/prices", &[("active", "true")]);
    let other = prices.await.into_iter().find(|price| {
        let key = price["lookup_key"].as_str();
        key.is_some_and(|key| key.contains("enterprise_monthly_agent_executions"))
    });
    let item = shop.metered_item(&customer).await;
    let other = other.unwrap()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/subscription_items/{item}");
    let fields = [("price", other.as_str())];
    shop.world.stripe.post(&path, &fields).await;
    shop.caught_up().await;
    assert_eq!(charged(&shop, &customer).await, [OVER]);
}

#[tokio::test]
async fn an_item_that_stays_goes_on_charging() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "50000").await;
    shop.report().await;
    let prices = shop.world.stripe.list("/v1/prices", &[("active", "true")]);
    let other = prices.await.into_iter().find(|price| {
        let key = price["lookup_key"].as_str();
        key.is_some_and(|key| key.contains("enterprise") && key.ends_with("agent_executions"))
    });
    let subscription = shop.world.stripe.subscriptions(&customer).await.remove(0);
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    let other = other.unwrap()["id"].as_str().unwrap().to_owned();
    let added = [("items[0][price]", other.as_str())];
    shop.world.stripe.post(&path, &added).await;
    shop.caught_up().await;
    assert_eq!(shop.world.service.db.count("usage_charges").await, 0);
    assert_eq!(charged(&shop, &customer).await, [0_i64; 0]);
}

/// An older replica does not say what an item is for.
#[tokio::test]
async fn items_of_an_older_replica_are_charged_once() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "50000").await;
    shop.report().await;
    let db = &shop.world.service.db;
    db.execute("UPDATE billing_subscription_items SET plan_tier = NULL, metric = NULL")
        .await;
    shop.world.change("enterprise").await.ok();
    assert_eq!(shop.caught_up().await, (0, 0));
    assert_eq!(charged(&shop, &customer).await, [OVER]);
    let usage = shop.usage("agent_executions").await;
    assert_eq!(usage["quota"], 95_000);
}

/// Reports follow the newest subscription; the item of another one is no price of theirs.
#[tokio::test]
async fn a_second_subscription_changes_nothing_of_what_the_first_is_charged() {
    let mut shop = Shop::open(&[]).await;
    let clock = jiff::Timestamp::now().as_second();
    let clock = shop.world.stripe.clock(clock).await;
    let customer = shop.world.newcomer(&clock).await;
    for tier in ["standard", "enterprise"] {
        let prices = shop.world.stripe.list("/v1/prices", &[("active", "true")]);
        let prefix = format!("valuecanvas_{tier}_monthly");
        let of_plan = prices.await.into_iter().filter(|price| {
            let key = price["lookup_key"].as_str();
            key.is_some_and(|key| key.starts_with(&prefix))
        });
        let mut fields = vec![("customer".to_owned(), customer.clone())];
        for (n, price) in of_plan.enumerate() {
            let id = price["id"].as_str().unwrap().to_owned();
            fields.push((format!("items[{n}][price]"), id));
        }
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
        shop.world.stripe.post("/v1/subscriptions", &fields).await;
    }
    shop.world.settle().await;
    shop.uses("agent_executions", "90000").await;
    shop.caught_up().await;
    let reported =
        "SELECT coalesce(sum(units), 0) FROM usage_reports WHERE metric = 'agent_executions'";
    assert_eq!(shop.world.service.db.value(reported).await, "90000");
    // Both begin at once, so that ids decide.
    let mut subscriptions = shop.world.stripe.subscriptions(&customer).await;
    subscriptions.sort_by_key(|one| one["id"].as_str().unwrap().to_owned());
    let items = subscriptions[0]["items"]["data"].as_array().unwrap();
    let metered = |item: &&Value| {
        let key = item["price"]["lookup_key"].as_str().unwrap();
        key.ends_with("agent_executions")
    };
    let item = items.iter().find(metered).unwrap()["id"].as_str().unwrap();
    let path = format!("/v1/subscription_items/{item}");
    shop.world
        .stripe
        .send(Method::DELETE, &path, &[("clear_usage", "true")])
        .await;
    shop.caught_up().await;
    assert_eq!(shop.world.service.db.count("usage_charges").await, 0);
    assert_eq!(shop.world.service.db.value(reported).await, "90000");
}

#[tokio::test]
async fn a_quota_is_prorated_before_anything_is_used() {
    let (shop, _) = prorating("enterprise").await;
    shop.world.change("standard").await.ok();
    shop.world.settle().await;
    // Ten days of 50,000, the rest of 5,000.
    let quota = shop.quota("agent_executions").await;
    assert!((18_000..21_500).contains(&quota), "{quota}");
}

#[tokio::test]
async fn proration_takes_no_quota_below_that_of_either_plan() {
    // From unlimited seats to 25 of them.
    let (shop, _) = prorating("enterprise").await;
    shop.uses("user_seats", "5").await;
    shop.world.change("standard").await.ok();
    shop.world.settle().await;
    assert_eq!(shop.usage("user_seats").await["quota"], 25);

    // Prorated down, and then no more charged.
    let (shop, customer) = prorating("standard").await;
    shop.uses("agent_executions", "10").await;
    shop.world.change("enterprise").await.ok();
    shop.world.settle().await;
    let quota = shop.quota("agent_executions").await;
    assert!(quota < 40_000, "{quota}");
    let item = shop.metered_item(&customer).await;
    let path = format!("/v1/subscription_items/{item}");
    shop.world
        .stripe
        .send(Method::DELETE, &path, &[("clear_usage", "true")])
        .await;
    shop.caught_up().await;
    assert_eq!(shop.quota("agent_executions").await, 50_000);
}

#[tokio::test]
async fn licensed_seats_are_limited_by_what_was_bought() {
    let enterprise = "lookup_key = \"valuecanvas_enterprise_monthly\" }\ntrial_days_max = 30\n";
    let licensed = "lookup_key = \"valuecanvas_enterprise_monthly\" }\ntrial_days_max = 30\n\n\
                    [plans.seats]\nmetric = \"user_seats\"\nmode = \"licensed\"\n";
    let quota = (
        "user_seats = { quota = \"unlimited\", over_limit = \"hard\" }\n",
        "",
    );
    let mut shop = Shop::open(&[(enterprise, licensed), quota]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("user_seats", "30").await;
    let asked = json!({"planTier": "enterprise", "quantity": 30});
    let put = shop.world.call(Method::PUT, SUBSCRIPTION, Some(asked));
    put.await.ok();
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [2_500]);
    assert_eq!(shop.usage("user_seats").await["quota"], 30);
}

#[tokio::test]
async fn what_stripe_refuses_to_charge_is_found_and_fails_no_run() {
    let (shop, customer) = upgraded_in_stripe().await;
    let subscription = shop.world.stripe.subscriptions(&customer).await.remove(0);
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    shop.world.stripe.send(Method::DELETE, &path, &[]).await;
    shop.world.settle().await;
    let again = "UPDATE usage_charges SET refused_at = now() - interval '25 hours'";
    for _ in 0..2 {
        let report = shop.report().await;
        assert!(report.is_complete(), "{report:?}");
        let refused = report.unbilled.iter();
        let refused: Vec<i64> = refused
            .filter(|one| one.reason.as_str() == "charge_refused")
            .map(|one| i64::try_from(one.units.0).unwrap())
            .collect();
        assert_eq!(refused, [45_000], "{report:?}");
        shop.world.service.db.execute(again).await;
    }
    assert_eq!(charged(&shop, &customer).await, [0_i64; 0]);
    assert_eq!(shop.world.service.db.value(OPEN).await, "1");
}

#[tokio::test]
async fn an_end_by_us_takes_what_an_earlier_change_left() {
    let (shop, customer) = upgraded_in_stripe().await;
    shop.world.cancel(true).await.ok();
    assert_eq!(charged(&shop, &customer).await, [OVER]);
    assert_eq!(shop.world.service.db.value(OPEN).await, "0");
    let last = shop.world.stripe.invoices(&customer).await;
    let last = last.last().unwrap();
    assert!(
        last["lines"].to_string().contains("over the quota"),
        "{last}"
    );
}

#[tokio::test]
async fn each_charge_of_usage_is_in_the_audit_log() {
    let (shop, _) = upgraded_in_stripe().await;
    shop.caught_up().await;
    let entries =
        "SELECT string_agg(action || ' ' || (after_state ->> 'amount'), ', ' ORDER BY sequence)
                     FROM billing_audit_log WHERE resource_type = 'usage_charge'";
    assert_eq!(
        shop.world.service.db.value(entries).await,
        "usage_charged 450000, usage_charge_invoiced 450000"
    );
}

/// Stripe remembers the key of an attempt, whatever came of it.
#[tokio::test]
async fn an_attempt_that_did_not_reach_stripe_keeps_its_key() {
    let (shop, customer) = upgraded_in_stripe().await;
    let attempted = "SELECT coalesce(attempted_at::text, 'none') FROM usage_charges";
    let mut keys = Vec::new();
    for fault in ["rate_limit", "drop"] {
        let fields = [
            ("fault", fault),
            ("path", "/v1/invoiceitems"),
            ("method", "POST"),
            ("next", "9"),
        ];
        shop.world.stripe.fault(&fields).await;
        assert!(!shop.report().await.is_complete(), "{fault}");
        shop.world.stripe.clear_faults().await;
        keys.push(shop.world.service.db.value(attempted).await);
    }
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], "none");
    assert!(shop.report().await.is_complete());
    assert_eq!(charged(&shop, &customer).await, [OVER]);
}
