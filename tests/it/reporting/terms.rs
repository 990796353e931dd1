//! What a price comes to a month: packages, included tax, and collection that is paused.

use serde_json::{Value, json};

use super::{Books, DAY, FEBRUARY, JANUARY, MARCH, paying};
use crate::support::events::{event, invoice};
use crate::support::program::run_on;

impl Books {
    /// Recurring revenue in dollars.
    async fn mrr(&self) -> i64 {
        let figures = self.get("").await;
        let revenue = figures["recurringRevenue"].as_array().unwrap();
        let of_usd = revenue.iter().find(|one| one["currency"] == "usd");
        of_usd.map_or(0, |one| one["mrrAmount"].as_i64().unwrap())
    }

    async fn of_one_with(object: Value) -> Self {
        let books = Self::open().await;
        books.service.db.organization("cus_1").await;
        books.happens("evt_1", JANUARY, object).await;
        books
    }
}

fn packages(quantity: i64, round: &str) -> Value {
    let mut object = paying("sub_1", "cus_1", 1_000, "month", quantity);
    object["items"]["data"][0]["price"]["transform_quantity"] =
        json!({"divide_by": 10, "round": round});
    object
}

#[tokio::test]
async fn a_price_for_a_package_counts_packages() {
    for (quantity, round, amount) in [
        (25, "up", 3_000),
        (25, "down", 2_000),
        (30, "up", 3_000),
        (30, "down", 3_000),
        (9, "down", 0),
        (1, "up", 1_000),
    ] {
        let books = Books::of_one_with(packages(quantity, round)).await;
        assert_eq!(books.mrr().await, amount, "{quantity}, rounded {round}");
        assert_eq!(books.differences().await, 0);
    }
}

#[tokio::test]
async fn a_tax_rate_that_the_amount_includes_is_taken_off() {
    let rate = |percentage, inclusive| json!([{"id": "txr_1", "object": "tax_rate", "percentage": percentage, "inclusive": inclusive}]);
    let taxed = |whole: Value, own: Value| {
        let mut object = paying("sub_1", "cus_1", 11_900, "month", 1);
        object["default_tax_rates"] = whole;
        object["items"]["data"][0]["tax_rates"] = own;
        object
    };
    for (object, amount) in [
        (taxed(rate(json!(19), true), json!([])), 10_000),
        (taxed(rate(json!(19.0), false), json!([])), 11_900),
        // An item's own rates come before those of the whole.
        (
            taxed(rate(json!(19), true), rate(json!("7.7"), true)),
            11_049,
        ),
        (taxed(rate(json!(19), true), rate(json!(7), false)), 11_900),
    ] {
        let shown = object.to_string();
        let books = Books::of_one_with(object).await;
        assert_eq!(books.mrr().await, amount, "{shown}");
    }
}

#[tokio::test]
async fn a_tax_that_stripe_computes_is_as_the_newest_invoice_has_it() {
    let mut object = paying("sub_1", "cus_1", 11_900, "month", 1);
    object["automatic_tax"] = json!({"enabled": true});
    object["items"]["data"][0]["price"]["tax_behavior"] = json!("inclusive");
    let books = Books::of_one_with(object.clone()).await;
    let unknown = "reporting.unknown_taxes";
    assert_eq!(
        books.mrr().await,
        11_900,
        "no invoice has shown the tax yet"
    );
    assert_eq!(books.service.db.count(unknown).await, 1);
    for (n, status, tax) in [(1, "paid", 1_900), (2, "draft", 5_000)] {
        let mut bill = invoice(&format!("in_{n}"), "cus_1", "sub_1", status);
        bill["created"] = json!(JANUARY + n);
        let line = &mut bill["lines"]["data"][0];
        line["amount"] = json!(11_900);
        line["taxes"] = json!([{"amount": tax, "tax_behavior": "inclusive"}]);
        let event = event(&format!("evt_in_{n}"), "invoice.updated", JANUARY + n, bill);
        books.service.deliver(&event).await;
    }
    books.service.settle().await;
    books.happens("evt_2", FEBRUARY, object).await;
    assert_eq!(books.mrr().await, 10_000);
    assert_eq!(books.service.db.count(unknown).await, 0);
    assert_eq!(books.differences().await, 0);
}

#[tokio::test]
async fn what_is_not_collected_while_paused_does_not_count() {
    let paused = |behavior: Value| {
        let mut object = paying("sub_1", "cus_1", 9_900, "month", 1);
        object["pause_collection"] = behavior;
        object
    };
    let by = |behavior: &str| json!({"behavior": behavior, "resumes_at": null});
    let books = Books::of_one_with(paused(Value::Null)).await;
    books
        .happens("evt_2", FEBRUARY, paused(by("keep_as_draft")))
        .await;
    assert_eq!(books.mrr().await, 9_900, "it is collected later");
    books
        .happens("evt_3", FEBRUARY + DAY, paused(by("mark_uncollectible")))
        .await;
    assert_eq!(books.mrr().await, 0);
    books.happens("evt_4", MARCH, paused(Value::Null)).await;
    books
        .happens("evt_5", MARCH + DAY, paused(by("void")))
        .await;
    assert_eq!(books.mrr().await, 0);
    assert_eq!(
        books.dated().await[1..],
        [
            json!(["churn", "2026-02-02T00:00:00Z", "evt_3", 9_900, 0]),
            json!(["reactivation", "2026-03-01T00:00:00Z", "evt_4", 0, 9_900]),
            json!(["churn", "2026-03-02T00:00:00Z", "evt_5", 9_900, 0]),
        ]
    );
}

#[tokio::test]
async fn rebuilding_learns_what_the_mirror_did_not_keep_before() {
    let books = Books::of_one_with(packages(25, "up")).await;
    let db = &books.service.db;
    db.execute("UPDATE billing_subscription_items SET quantity_divide_by = NULL")
        .await;
    db.execute("UPDATE billing_subscriptions SET updated_at = now()")
        .await;
    books.book().await;
    assert_eq!(
        books.mrr().await,
        25_000,
        "as an earlier version counted it"
    );
    let rebuilt = run_on(db, &["figures", "rebuild", "--yes"]).await;
    assert_eq!(rebuilt.status, 0, "{}", rebuilt.stderr);
    assert_eq!(books.mrr().await, 3_000);
    assert_eq!(
        books.dated().await,
        [json!(["new", "2026-01-01T00:00:00Z", "evt_1", 0, 3_000])]
    );
}
