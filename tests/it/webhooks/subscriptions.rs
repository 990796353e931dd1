//! Subscription events: the mirror, the plan, and what is final.

use serde_json::{Value, json};
use valuecanvas_billing::webhooks::dead_letters::replay;

use super::workbench::Workbench;
use crate::support::events::{event, invoice, recorded, subscription};

const CREATED: &str = "customer.subscription.created";
const UPDATED: &str = "customer.subscription.updated";
const DELETED: &str = "customer.subscription.deleted";

const STATUS: &str = "SELECT status, stripe_status FROM billing_subscriptions";
const PLAN: &str = "SELECT plan_tier FROM organizations";

fn of(status: &str, tier: &str) -> Value {
    subscription("sub_1", "cus_1", status, tier)
}

#[tokio::test]
async fn todays_shape_is_mirrored_with_its_items() {
    let bench = Workbench::new().await;
    let mut object = of("active", "standard");
    object["metadata"] = json!({"team": "blue"});
    object["default_payment_method"] = json!("pm_1");
    object["latest_invoice"] = json!({"id": "in_1", "object": "invoice"});
    bench.process(&[event("evt_1", CREATED, 100, object)]).await;
    bench
        .shows(
            "SELECT stripe_subscription_id, stripe_customer_id, status, plan_tier, currency,
                    current_period_start, current_period_end, billing_mode, collection_method,
                    cancel_at_period_end, default_payment_method_id, latest_invoice_id, metadata,
                    last_event_id FROM billing_subscriptions",
            json!({
                "stripe_subscription_id": "sub_1",
                "stripe_customer_id": "cus_1",
                "status": "active",
                "plan_tier": "standard",
                "currency": "usd",
                "current_period_start": "2025-10-09T08:53:20+00:00",
                "current_period_end": "2025-11-09T08:53:20+00:00",
                "billing_mode": "flexible",
                "collection_method": "charge_automatically",
                "cancel_at_period_end": false,
                "default_payment_method_id": "pm_1",
                "latest_invoice_id": "in_1",
                "metadata": {"team": "blue"},
                "last_event_id": "evt_1",
            }),
        )
        .await;
    bench
        .shows(
            "SELECT stripe_subscription_item_id AS id, stripe_price_id, stripe_product_id,
                    lookup_key, usage_type, unit_amount, unit_amount_decimal, recurring_interval,
                    quantity, current_period_end FROM billing_subscription_items",
            json!({
                "id": "si_sub_1",
                "stripe_price_id": "price_standard",
                "stripe_product_id": "prod_standard",
                "lookup_key": "valuecanvas_standard_monthly",
                "usage_type": "licensed",
                "unit_amount": 9900,
                "unit_amount_decimal": 9900,
                "recurring_interval": "month",
                "quantity": 1,
                "current_period_end": "2025-11-09T08:53:20+00:00",
            }),
        )
        .await;
}

#[tokio::test]
async fn recorded_events_of_2020_are_mirrored_with_their_items() {
    let bench = Workbench::without_customers().await;
    bench.db.organization("cus_IhGfebO16cMIGN").await;
    bench
        .process(&[
            recorded("subscription_created"),
            recorded("subscription_updated"),
            recorded("subscription_deleted"),
        ])
        .await;
    assert_eq!(
        bench
            .rows(
                "SELECT stripe_subscription_id AS id, status, current_period_start,
                        metadata ->> 'project_ref' AS project, ended_at, last_event_id
                   FROM billing_subscriptions ORDER BY 1",
            )
            .await,
        json!([
            {
                "id": "sub_JLEPMp81LApOJl",
                "status": "active",
                "current_period_start": "2021-04-21T04:45:44+00:00",
                "project": "bfsfqqxvuglpyllejiwe",
                "ended_at": null,
                "last_event_id": "evt_1IlavxJDPojXS6LNGNOrPWFQ",
            },
            {
                "id": "sub_JdIzvfy6o5GZRd",
                "status": "canceled",
                "current_period_start": "2021-06-08T10:41:58+00:00",
                "project": "tqevlzwwvzleheqncsph",
                "ended_at": "2021-06-08T10:45:02+00:00",
                "last_event_id": "evt_1J02QdJDPojXS6LNnOJB09Xb",
            },
        ])
    );
    assert_eq!(
        bench
            .rows(
                "SELECT stripe_subscription_item_id AS id, stripe_price_id, unit_amount, quantity
                   FROM billing_subscription_items ORDER BY 1",
            )
            .await,
        json!([
            {"id": "si_JLEPdb3X81qQ9L", "stripe_price_id": "price_1IDQm5JDPojXS6LNM31hxKzp", "unit_amount": 0, "quantity": 1},
            {"id": "si_JdIzi4Tn5jV9PD", "stripe_price_id": "price_1IDQm5JDPojXS6LNM31hxKzp", "unit_amount": 0, "quantity": 1},
        ])
    );
}

#[tokio::test]
async fn items_that_are_gone_leave_the_mirror() {
    let bench = Workbench::new().await;
    let mut two = of("active", "standard");
    let mut second = two["items"]["data"][0].clone();
    second["id"] = json!("si_2");
    two["items"]["data"].as_array_mut().unwrap().push(second);
    let items = "SELECT count(*) AS items FROM billing_subscription_items";
    bench.process(&[event("evt_1", CREATED, 100, two)]).await;
    bench.shows(items, json!({"items": 2})).await;
    let one = of("active", "standard");
    bench.process(&[event("evt_2", UPDATED, 101, one)]).await;
    bench.shows(items, json!({"items": 1})).await;
}

#[tokio::test]
async fn the_audit_log_shows_what_a_change_does_to_price_and_quantity() {
    let of = |price: &str, seats: i64| {
        let mut object = of("active", "standard");
        let items = object["items"]["data"].as_array_mut().unwrap();
        items[0]["price"]["id"] = json!(price);
        items[0]["quantity"] = json!(seats);
        // Stripe lists items in any order. Ids sort by their bytes.
        let mut other = items[0].clone();
        other["id"] = json!("si_Z");
        other["price"]["id"] = json!("price_other");
        other["quantity"] = Value::Null;
        items.push(other);
        if seats == 50 {
            items.reverse();
        }
        object
    };
    let other = json!({"price": "price_other", "quantity": null});
    let shown = |price: &str, seats: i64| json!([other, {"price": price, "quantity": seats}]);
    let history = [
        event("evt_1", CREATED, 100, of("price_old", 1)),
        event("evt_2", UPDATED, 101, of("price_old", 50)),
        event("evt_3", UPDATED, 102, of("price_new", 50)),
    ];
    let in_one_batch = Workbench::new().await;
    in_one_batch.process(&history).await;
    let one_by_one = Workbench::new().await;
    for event in &history {
        one_by_one.process(std::slice::from_ref(event)).await;
        // What is stored is what was shown of it: a replay has nothing to tell.
        let id = event["id"].as_str().unwrap();
        replay::replay(&one_by_one.processor, id).await.unwrap();
    }
    for bench in [in_one_batch, one_by_one] {
        assert_eq!(
            bench
                .rows(
                    "SELECT before_state -> 'items' AS before, after_state -> 'items' AS after
                       FROM billing_audit_log
                      WHERE actor_type = 'webhook' AND resource_type = 'subscription'
                      ORDER BY metadata ->> 'stripe_event_id'",
                )
                .await,
            json!([
                {"before": null, "after": shown("price_old", 1)},
                {"before": shown("price_old", 1), "after": shown("price_old", 50)},
                {"before": shown("price_old", 50), "after": shown("price_new", 50)},
            ])
        );
    }
}

#[tokio::test]
async fn every_status_is_kept_as_stripe_says_it() {
    let bench = Workbench::new().await;
    let statuses = [
        ("incomplete", "free"),
        ("trialing", "standard"),
        ("active", "standard"),
        ("past_due", "standard"),
        ("unpaid", "free"),
        ("paused", "free"),
        ("hibernating", "free"),
    ];
    for (n, (status, tier)) in statuses.into_iter().enumerate() {
        let (id, created) = (format!("evt_{n}"), 100 + n as i64);
        bench
            .process(&[event(&id, UPDATED, created, of(status, "standard"))])
            .await;
        bench
            .shows(STATUS, json!({"status": status, "stripe_status": status}))
            .await;
        bench.shows(PLAN, json!({"plan_tier": tier})).await;
    }
}

#[tokio::test]
async fn what_ended_is_not_revived_by_late_updates() {
    for (ending, status) in [
        (DELETED, "canceled"),
        (UPDATED, "canceled"),
        (UPDATED, "incomplete_expired"),
    ] {
        let bench = Workbench::new().await;
        bench
            .process(&[event("evt_1", CREATED, 100, of("active", "standard"))])
            .await;
        bench
            .process(&[event("evt_2", ending, 200, of(status, "standard"))])
            .await;
        // Sent before the end, and after it.
        for (id, created) in [("evt_3", 150), ("evt_4", 300)] {
            bench
                .process(&[event(id, UPDATED, created, of("active", "standard"))])
                .await;
        }
        bench
            .shows(STATUS, json!({"status": status, "stripe_status": status}))
            .await;
        bench.shows(PLAN, json!({"plan_tier": "free"})).await;
    }
}

#[tokio::test]
async fn what_is_said_of_an_ended_subscription_in_its_last_second_counts() {
    let mut noted = of("canceled", "standard");
    noted["metadata"] = json!({"reason": "too dear"});
    let deleted = event("evt_z", DELETED, 200, of("canceled", "standard"));
    let noted = event("evt_a", UPDATED, 200, noted);
    for order in [[&deleted, &noted], [&noted, &deleted]] {
        let bench = Workbench::new().await;
        for event in order {
            bench.process(std::slice::from_ref(event)).await;
        }
        bench
            .shows(
                "SELECT status, metadata FROM billing_subscriptions",
                json!({"status": "canceled", "metadata": {"reason": "too dear"}}),
            )
            .await;
    }
}

#[tokio::test]
async fn an_end_that_comes_first_stays_the_end() {
    let bench = Workbench::new().await;
    bench
        .process(&[event("evt_3", DELETED, 200, of("canceled", "standard"))])
        .await;
    bench
        .process(&[
            event("evt_2", UPDATED, 150, of("active", "standard")),
            event("evt_1", CREATED, 100, of("incomplete", "standard")),
        ])
        .await;
    bench
        .shows(
            STATUS,
            json!({"status": "canceled", "stripe_status": "canceled"}),
        )
        .await;
    assert_eq!(
        bench.outcomes().await,
        json!([
            {"id": "evt_1", "outcome": "superseded"},
            {"id": "evt_2", "outcome": "superseded"},
            {"id": "evt_3", "outcome": "applied"},
        ])
    );
}

#[tokio::test]
async fn changes_of_one_second_are_put_in_their_order() {
    let bench = Workbench::new().await;
    let step = |id: &str, status: &str, quantity: i64, previous: Value| {
        let mut object = of(status, "standard");
        object["items"]["data"][0]["quantity"] = json!(quantity);
        object["quantity"] = json!(quantity);
        let mut event = event(id, UPDATED, 100, object);
        event["data"]["previous_attributes"] = previous;
        event
    };
    let items = |quantity: i64| {
        let mut item = of("active", "standard")["items"].clone();
        item["data"][0]["quantity"] = json!(quantity);
        item
    };
    // Delivered last to first, and ids do not sort.
    bench
        .process(&[step(
            "evt_a",
            "active",
            2,
            json!({"quantity": 1, "items": items(1)}),
        )])
        .await;
    bench
        .process(&[step(
            "evt_m",
            "active",
            1,
            json!({"quantity": 2, "items": items(2)}),
        )])
        .await;
    bench
        .process(&[step("evt_z", "active", 2, json!({"status": "incomplete"}))])
        .await;
    bench
        .shows(
            "SELECT status, quantity FROM billing_subscriptions
               JOIN billing_subscription_items USING (organization_id, stripe_subscription_id)",
            json!({"status": "active", "quantity": 2}),
        )
        .await;
}

#[tokio::test]
async fn a_subscription_is_settled_with_the_payments_that_came_before_it() {
    let bench = Workbench::new().await;
    let failed = event(
        "evt_2",
        "invoice.payment_failed",
        150,
        invoice("in_1", "cus_1", "sub_1", "open"),
    );
    bench.process(&[failed]).await;
    bench
        .process(&[event("evt_1", CREATED, 100, of("active", "standard"))])
        .await;
    bench
        .shows(
            STATUS,
            json!({"status": "past_due", "stripe_status": "active"}),
        )
        .await;
}

#[tokio::test]
async fn the_audit_log_shows_whatever_changes_of_a_subscription() {
    let changes = [
        ("cancel_at", json!(1_762_678_400), "cancelAt"),
        ("cancel_at_period_end", json!(true), "cancelAtPeriodEnd"),
        ("canceled_at", json!(1_760_000_100), "canceledAt"),
        ("trial_end", json!(1_760_500_000), "trialEnd"),
        (
            "billing_cycle_anchor",
            json!(1_760_000_500),
            "billingCycleAnchor",
        ),
        (
            "collection_method",
            json!("send_invoice"),
            "collectionMethod",
        ),
        (
            "pause_collection",
            json!({"behavior": "void", "resumes_at": null}),
            "collectionPaused",
        ),
        ("latest_invoice", json!("in_9"), "latestInvoiceId"),
        (
            "default_payment_method",
            json!("pm_9"),
            "defaultPaymentMethodId",
        ),
        ("discount", json!({"id": "di_1"}), "discounted"),
        ("automatic_tax", json!({"enabled": true}), "taxed"),
        ("pending_update", json!({"expires_at": 1}), "pendingUpdate"),
        ("metadata", json!({"seats_of": "sales"}), "metadata"),
    ];
    for (attribute, value, shown) in changes {
        let bench = Workbench::new().await;
        bench
            .process(&[event("evt_1", CREATED, 100, of("active", "standard"))])
            .await;
        let mut object = of("active", "standard");
        object[attribute] = value;
        bench.process(&[event("evt_2", UPDATED, 101, object)]).await;
        let states = bench
            .rows(
                "SELECT before_state AS before, after_state AS after FROM billing_audit_log
                  WHERE action = 'subscription_updated'",
            )
            .await;
        let (before, after) = (&states[0]["before"], &states[0]["after"]);
        assert_ne!(before[shown], after[shown], "{attribute}: {states}");
        // And nothing else: what is stored reads as it was told.
        let fields = after.as_object().unwrap().keys();
        let changed: Vec<&String> = fields.filter(|key| before[*key] != after[*key]).collect();
        // A discount also has an id.
        let also = (shown == "discounted").then_some("discounts");
        let all: Vec<&str> = [shown].into_iter().chain(also).collect();
        assert_eq!(changed, all);
    }
}
