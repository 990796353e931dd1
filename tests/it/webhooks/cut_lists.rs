//! Lists of which Stripe shows the first few and says `has_more`.

use serde_json::{Value, json};

use super::workbench::Workbench;
use crate::support::events::{event, invoice, subscription};

const UPDATED: &str = "customer.subscription.updated";

/// A subscription with the plan's item last of `items`, of which the first
/// `shown` are shown.
fn with_items(items: usize, shown: usize) -> Value {
    let mut object = subscription("sub_1", "cus_1", "active", "standard");
    let list = object["items"]["data"].as_array_mut().unwrap();
    let plan = list.remove(0);
    for n in 1..items {
        let mut item = plan.clone();
        item["id"] = json!(format!("si_{n:02}"));
        item["price"]["id"] = json!(format!("price_{n}"));
        item["price"]["lookup_key"] = Value::Null;
        list.push(item);
    }
    list.push(plan);
    list.truncate(shown);
    object["items"]["has_more"] = json!(shown < items);
    object
}

const MIRRORED: &str = "SELECT plan_tier, has_more_items, ask_again_since IS NOT NULL AS asks,
    (SELECT count(*) FROM billing_subscription_items) AS items,
    (SELECT plan_tier FROM organizations) AS has FROM billing_subscriptions";

#[tokio::test]
async fn items_that_are_not_shown_are_not_gone_in_any_order() {
    let whole = || event("evt_1", UPDATED, 100, with_items(12, 12));
    let cut = || event("evt_2", UPDATED, 200, with_items(12, 10));
    for events in [[whole(), cut()], [cut(), whole()]] {
        let bench = Workbench::new().await;
        for event in events {
            bench.process(&[event]).await;
        }
        let expected = json!({"plan_tier": "standard", "has_more_items": true, "asks": true,
                              "items": 12, "has": "standard"});
        bench.shows(MIRRORED, expected).await;
        let unknown = "billing_alerts WHERE kind = 'unknown_plan'";
        assert_eq!(bench.db.count(unknown).await, 0);
        bench.verify_audit().await;
    }
}

#[tokio::test]
async fn a_whole_list_says_again_what_is_gone() {
    let bench = Workbench::new().await;
    bench
        .process(&[
            event("evt_1", UPDATED, 100, with_items(12, 12)),
            event("evt_2", UPDATED, 200, with_items(12, 10)),
            event("evt_3", UPDATED, 300, with_items(3, 3)),
        ])
        .await;
    bench
        .shows(
            "SELECT has_more_items, (SELECT count(*) FROM billing_subscription_items) AS items
               FROM billing_subscriptions",
            json!({"has_more_items": false, "items": 3}),
        )
        .await;
}

#[tokio::test]
async fn a_plan_that_was_never_shown_is_no_unknown_plan() {
    let bench = Workbench::new().await;
    bench
        .process(&[event("evt_1", UPDATED, 100, with_items(12, 10))])
        .await;
    bench
        .shows(
            "SELECT kind, resource_id FROM billing_alerts",
            json!({"kind": "subscription_items_missing", "resource_id": "sub_1"}),
        )
        .await;
    bench
        .shows(
            "SELECT ask_again_since IS NOT NULL AS asks FROM billing_subscriptions",
            json!({"asks": true}),
        )
        .await;
}

#[tokio::test]
async fn lines_that_were_fetched_stay_until_they_are_fetched_again() {
    let cut = |id: &str, created: i64, amount: i64| {
        let mut object = invoice("in_1", "cus_1", "sub_1", "open");
        object["lines"]["has_more"] = json!(true);
        object["lines"]["data"][0]["amount"] = json!(amount);
        event(id, "invoice.updated", created, object)
    };
    let bench = Workbench::new().await;
    bench.process(&[cut("evt_1", 100, 1)]).await;
    bench
        .db
        .execute(&format!(
            "INSERT INTO billing_invoice_items (organization_id, stripe_invoice_id, stripe_line_item_id,
               position, amount, currency, proration) VALUES ('{}', 'in_1', 'il_2', 1, 7, 'usd', false)",
            bench.organization
        ))
        .await;
    bench.process(&[cut("evt_2", 200, 2)]).await;
    assert_eq!(
        bench
            .rows("SELECT position, amount FROM billing_invoice_items ORDER BY 1")
            .await,
        json!([{"position": 0, "amount": 2}, {"position": 1, "amount": 7}])
    );
    bench
        .shows(
            "SELECT has_more_items, ask_again_since IS NOT NULL AS asks FROM billing_invoices",
            json!({"has_more_items": true, "asks": true}),
        )
        .await;
}
