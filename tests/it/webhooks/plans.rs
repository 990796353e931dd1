//! The plan and the quotas that an organization has by its subscriptions.

use serde_json::{Value, json};

use super::workbench::Workbench;
use crate::support::events::{event, subscription};

const CREATED: &str = "customer.subscription.created";
const UPDATED: &str = "customer.subscription.updated";
const DELETED: &str = "customer.subscription.deleted";

const PLAN: &str = "SELECT plan_tier FROM organizations";

fn of(status: &str, tier: &str) -> Value {
    subscription("sub_1", "cus_1", status, tier)
}

/// The tier that `object` gives its organization.
async fn tier_by(object: Value) -> Value {
    let mut bench = Workbench::new().await;
    let plans = std::fs::read_to_string("config/plans.toml").unwrap().replace(
        "lookup_key = \"valuecanvas_enterprise_monthly\"",
        "lookup_key = \"valuecanvas_enterprise_monthly\", stripe_price_ids = [\"price_of_old\"]",
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), plans).unwrap();
    bench.processor.catalogue =
        valuecanvas_billing::catalogue::Catalogue::load(Some(file.path())).unwrap();
    bench.process(&[event("evt_1", CREATED, 100, object)]).await;
    bench.rows(PLAN).await[0]["plan_tier"].clone()
}

#[tokio::test]
async fn a_plan_is_found_by_lookup_key() {
    assert_eq!(tier_by(of("active", "enterprise")).await, "enterprise");
}

#[tokio::test]
async fn a_plan_is_found_by_price_id() {
    let mut object = of("active", "unheard_of");
    object["items"]["data"][0]["price"]["id"] = json!("price_of_old");
    assert_eq!(tier_by(object).await, "enterprise");
}

/// A price that is shown without its lookup key before it is shown with it.
#[tokio::test]
async fn a_price_that_lost_its_lookup_key_is_known_in_any_order() {
    let mut bare = of("active", "standard");
    bare["items"]["data"][0]["price"]["lookup_key"] = json!(null);
    let created = event("evt_1", CREATED, 100, of("active", "standard"));
    let updated = event("evt_2", UPDATED, 101, bare);
    for order in [[&created, &updated], [&updated, &created]] {
        let bench = Workbench::new().await;
        for one in order {
            bench.process(std::slice::from_ref(one)).await;
        }
        bench.shows(PLAN, json!({"plan_tier": "standard"})).await;
        let row = "SELECT s.plan_tier, i.plan_tier AS item FROM billing_subscriptions s
                     JOIN billing_subscription_items i USING (organization_id, stripe_subscription_id)";
        bench
            .shows(row, json!({"plan_tier": "standard", "item": "standard"}))
            .await;
    }
}

#[tokio::test]
async fn a_plan_is_found_by_metadata() {
    let mut named = of("active", "unheard_of");
    named["metadata"] = json!({"plan_tier": "standard"});
    assert_eq!(tier_by(named).await, "standard");
    let mut price_named = of("active", "unheard_of");
    price_named["items"]["data"][0]["price"]["metadata"] = json!({"plan_tier": "enterprise"});
    assert_eq!(tier_by(price_named).await, "enterprise");
}

#[tokio::test]
async fn the_plan_sets_the_quotas_and_its_end_resets_them() {
    let bench = Workbench::new().await;
    let quota = "SELECT plan_tier, quota, unlimited, over_limit FROM usage_quotas WHERE metric = 'user_seats'";
    let steps = [
        (
            CREATED,
            of("active", "standard"),
            json!({"plan_tier": "standard", "quota": 25, "unlimited": false, "over_limit": "overage"}),
        ),
        (
            UPDATED,
            of("active", "enterprise"),
            json!({"plan_tier": "enterprise", "quota": null, "unlimited": true, "over_limit": "hard"}),
        ),
        (
            DELETED,
            of("canceled", "enterprise"),
            json!({"plan_tier": "free", "quota": 3, "unlimited": false, "over_limit": "hard"}),
        ),
    ];
    for (n, (event_type, object, expected)) in steps.into_iter().enumerate() {
        let created = 100 + n as i64;
        bench
            .process(&[event(&format!("evt_{n}"), event_type, created, object)])
            .await;
        let mut row = bench.rows(quota).await[0].clone();
        row["quota"] = json!(row["quota"].as_f64().map(|quota| quota as i64));
        assert_eq!(row, expected);
    }
}

#[tokio::test]
async fn of_several_subscriptions_the_highest_running_plan_counts() {
    let bench = Workbench::new().await;
    let other = |status| subscription("sub_2", "cus_1", status, "enterprise");
    bench
        .process(&[
            event("evt_1", CREATED, 100, of("active", "standard")),
            event("evt_2", CREATED, 100, other("trialing")),
        ])
        .await;
    bench.shows(PLAN, json!({"plan_tier": "enterprise"})).await;
    bench
        .process(&[event("evt_3", UPDATED, 101, other("unpaid"))])
        .await;
    bench.shows(PLAN, json!({"plan_tier": "standard"})).await;
}

#[tokio::test]
async fn an_unknown_plan_raises_an_alert_and_leaves_the_plan() {
    let bench = Workbench::new().await;
    bench
        .process(&[event("evt_1", CREATED, 100, of("active", "unheard_of"))])
        .await;
    bench.shows(PLAN, json!({"plan_tier": "free"})).await;
    bench
        .shows(
            "SELECT kind, resource_type, resource_id, message ~ 'price_unheard_of' AS names_it
               FROM billing_alerts",
            json!({"kind": "unknown_plan", "resource_type": "subscription", "resource_id": "sub_1", "names_it": true}),
        )
        .await;
    // Raised once, and not for what has ended.
    bench
        .process(&[
            event("evt_2", UPDATED, 101, of("active", "unheard_of")),
            event(
                "evt_3",
                CREATED,
                101,
                subscription("sub_2", "cus_1", "canceled", "unheard_of"),
            ),
        ])
        .await;
    assert_eq!(bench.db.count("billing_alerts").await, 1);
}

#[tokio::test]
async fn unknown_plans_raise_their_alerts_in_any_order_and_in_one_batch() {
    let priced = |id: &str, created: i64, price: &str| {
        let mut object = of("active", "unheard_of");
        object["items"]["data"][0]["price"]["id"] = json!(price);
        event(id, UPDATED, created, object)
    };
    let [a, b, c, d] = [
        priced("evt_1", 100, "price_a"),
        priced("evt_2", 200, "price_b"),
        priced("evt_3", 300, "price_a"),
        event("evt_4", UPDATED, 400, of("active", "standard")),
    ];
    let deliveries = [
        vec![vec![&a], vec![&b], vec![&c], vec![&d]],
        vec![vec![&d], vec![&c], vec![&b], vec![&a]],
        vec![vec![&c, &a], vec![&d, &b]],
        vec![vec![&a, &b, &c, &d]],
    ];
    for batches in deliveries {
        let bench = Workbench::new().await;
        for batch in batches {
            let batch: Vec<Value> = batch.into_iter().cloned().collect();
            bench.process(&batch).await;
        }
        assert_eq!(
            bench
                .rows(
                    "SELECT kind, alert_key, extract(epoch FROM occurred_at)::int AS at
                       FROM billing_alerts ORDER BY alert_key",
                )
                .await,
            json!([
                {"kind": "unknown_plan", "alert_key": "sub_1: price_a", "at": 100},
                {"kind": "unknown_plan", "alert_key": "sub_1: price_b", "at": 200},
            ])
        );
    }
}

#[tokio::test]
async fn a_change_to_an_unknown_plan_leaves_the_plan_in_any_order() {
    let known = event("evt_1", CREATED, 100, of("active", "standard"));
    let unknown = event("evt_2", UPDATED, 200, of("active", "unheard_of"));
    for order in [[&known, &unknown], [&unknown, &known]] {
        let bench = Workbench::new().await;
        for event in order {
            bench.process(std::slice::from_ref(event)).await;
        }
        bench.shows(PLAN, json!({"plan_tier": "standard"})).await;
        assert_eq!(
            bench
                .db
                .count("usage_quotas WHERE plan_tier = 'standard'")
                .await,
            5
        );
        let ended = event("evt_3", DELETED, 300, of("canceled", "unheard_of"));
        bench.process(&[ended]).await;
        bench.shows(PLAN, json!({"plan_tier": "free"})).await;
    }
}

/// What is kept of the events themselves does not last as long as the plan.
#[tokio::test]
async fn a_plan_is_kept_without_the_event_that_told_of_it() {
    let bench = Workbench::new().await;
    let known = event("evt_1", CREATED, 100, of("active", "standard"));
    bench.process(&[known]).await;
    bench.db.execute("DELETE FROM webhook_events").await;
    for (id, at) in [("evt_3", 300), ("evt_2", 200), ("evt_4", 400)] {
        let unknown = event(id, UPDATED, at, of("active", "unheard_of"));
        bench.process(&[unknown]).await;
        bench.shows(PLAN, json!({"plan_tier": "standard"})).await;
    }
    // An event that comes late is not the newest, but the newest that is known.
    let late = event("evt_0", UPDATED, 150, of("active", "enterprise"));
    bench.process(&[late]).await;
    bench.shows(PLAN, json!({"plan_tier": "enterprise"})).await;
}

/// Rows of earlier programs do not say what was known before.
#[tokio::test]
async fn a_plan_that_was_not_kept_is_looked_for_in_the_events_once() {
    let bench = Workbench::new().await;
    let known = event("evt_1", CREATED, 100, of("active", "standard"));
    bench.process(&[known]).await;
    let kept = "SELECT known_tier #>> '{newest,event_id}' AS told_by FROM billing_subscriptions";
    bench.shows(kept, json!({"told_by": "evt_1"})).await;
    for forgotten in ["NULL", "'{\"as_of\": \"evt_0\", \"newest\": null}'"] {
        let forget = format!("UPDATE billing_subscriptions SET known_tier = {forgotten}");
        bench.db.execute(&forget).await;
        let unknown = event("evt_2", UPDATED, 200, of("active", "unheard_of"));
        bench.process(&[unknown]).await;
        bench.shows(PLAN, json!({"plan_tier": "standard"})).await;
        bench.shows(kept, json!({"told_by": "evt_1"})).await;
        bench
            .db
            .execute("DELETE FROM webhook_events WHERE stripe_event_id = 'evt_2'")
            .await;
    }
}

/// A subscription whose items have these prices and these ends, in this order.
fn with_items(items: &[(&str, &str, i64)]) -> Value {
    let mut object = of("active", "standard");
    let list = object["items"]["data"].as_array_mut().unwrap();
    let first = list.remove(0);
    for (id, lookup_key, end) in items {
        let mut item = first.clone();
        item["id"] = json!(id);
        item["price"]["id"] = json!(format!("price_of_{id}"));
        item["price"]["lookup_key"] = json!(lookup_key);
        item["current_period_end"] = json!(end);
        list.push(item);
    }
    object
}

#[tokio::test]
async fn the_highest_plan_counts_wherever_its_item_stands() {
    let standard = ("si_a", "valuecanvas_standard_monthly", 1_762_678_400);
    let enterprise = ("si_b", "valuecanvas_enterprise_monthly", 1_762_678_400);
    for items in [[standard, enterprise], [enterprise, standard]] {
        assert_eq!(tier_by(with_items(&items)).await, "enterprise");
    }
    // By metadata of prices, too.
    for tiers in [["standard", "enterprise"], ["enterprise", "standard"]] {
        let mut object = with_items(&[("si_a", "none", 1), ("si_b", "none", 1)]);
        for (n, tier) in tiers.iter().enumerate() {
            object["items"]["data"][n]["price"]["metadata"] = json!({"plan_tier": tier});
        }
        assert_eq!(tier_by(object).await, "enterprise");
    }
}

#[tokio::test]
async fn the_period_is_that_of_the_item_that_pays_the_plan() {
    let (month, year) = (1_762_678_400, 1_791_536_000);
    let plan = |end| ("si_b", "valuecanvas_standard_monthly", end);
    let addon = |id, end| (id, "addon", end);
    for items in [
        vec![addon("si_a", year), plan(month)],
        vec![plan(month), addon("si_a", year)],
        vec![addon("si_c", year), plan(month), addon("si_a", year)],
    ] {
        let bench = Workbench::new().await;
        bench
            .process(&[event("evt_1", CREATED, 100, with_items(&items))])
            .await;
        bench
            .shows(
                "SELECT extract(epoch FROM current_period_end)::bigint AS ends FROM billing_subscriptions",
                json!({"ends": month}),
            )
            .await;
    }
    // The plan is the yearly one, whatever ends first beside it.
    let bench = Workbench::new().await;
    let items = [addon("si_a", month), plan(year)];
    bench
        .process(&[event("evt_1", CREATED, 100, with_items(&items))])
        .await;
    bench
        .shows(
            "SELECT extract(epoch FROM current_period_end)::bigint AS ends FROM billing_subscriptions",
            json!({"ends": year}),
        )
        .await;
}

/// A fee that was agreed outside of the catalogue, beside an add-on that ends first.
#[tokio::test]
async fn the_period_is_that_of_the_item_that_names_the_plan() {
    let (week, year) = (1_760_604_800, 1_791_536_000);
    let of_product = |item: &mut Value| item["price"]["product"] = json!("prod_standard");
    let named = |item: &mut Value| item["price"]["metadata"] = json!({"plan_tier": "standard"});
    let names: [&dyn Fn(&mut Value); 2] = [&of_product, &named];
    for name in names {
        let bench = Workbench::new().await;
        // The product is known by a price of the catalogue, as after a sync.
        bench
            .process(&[event("evt_1", CREATED, 100, of("active", "standard"))])
            .await;
        bench
            .db
            .execute("UPDATE billing_prices SET stripe_product_id = 'prod_standard'")
            .await;
        let mut object = with_items(&[("si_a", "addon", week), ("si_b", "agreed", year)]);
        let items = object["items"]["data"].as_array_mut().unwrap();
        for item in items.iter_mut() {
            item["price"]["product"] = json!("prod_other");
        }
        name(&mut items[1]);
        bench.process(&[event("evt_2", UPDATED, 101, object)]).await;
        bench
            .shows(
                "SELECT plan_tier, extract(epoch FROM current_period_end)::bigint AS ends
                   FROM billing_subscriptions",
                json!({"plan_tier": "standard", "ends": year}),
            )
            .await;
    }
}

/// Events of one second show two tiers: which of them was the last, what they
/// say they changed tells, not their ids.
#[tokio::test]
async fn a_plan_that_is_kept_is_that_of_the_last_event_of_its_second() {
    let quantity = |mut object: Value, quantity: i64| {
        object["quantity"] = json!(quantity);
        object
    };
    let updated = |id: &str, object: Value, before: Value| {
        let mut event = event(id, UPDATED, 200, object);
        event["data"]["previous_attributes"] = before;
        event
    };
    let items = |tier: &str| of("active", tier)["items"].clone();
    // More seats of standard, then enterprise, then fewer seats of it.
    let tied = [
        updated(
            "evt_9",
            quantity(of("active", "standard"), 2),
            json!({"quantity": 1}),
        ),
        updated(
            "evt_8",
            quantity(of("active", "enterprise"), 2),
            json!({"items": {"data": items("standard")["data"]}}),
        ),
    ];
    let unknown = event("evt_1", UPDATED, 300, of("active", "unheard_of"));
    let last = updated(
        "evt_2",
        quantity(of("active", "standard"), 2),
        json!({"items": {"data": items("enterprise")["data"]}}),
    );
    for order in [
        [0, 1, 2],
        [1, 0, 2],
        [2, 0, 1],
        [2, 1, 0],
        [0, 2, 1],
        [1, 2, 0],
    ] {
        let bench = Workbench::new().await;
        let events = [&tied[0], &tied[1], &unknown];
        for at in order {
            bench.process(std::slice::from_ref(events[at])).await;
        }
        bench.shows(PLAN, json!({"plan_tier": "enterprise"})).await;
        // One that comes late may be the last of them all the same.
        bench.process(std::slice::from_ref(&last)).await;
        bench.shows(PLAN, json!({"plan_tier": "standard"})).await;
    }
    for batch in [[0, 1, 2], [2, 1, 0]] {
        let bench = Workbench::new().await;
        let events = [&tied[0], &tied[1], &unknown];
        let batch: Vec<Value> = batch.map(|at| events[at].clone()).to_vec();
        bench.process(&batch).await;
        bench.shows(PLAN, json!({"plan_tier": "enterprise"})).await;
    }
}
