//! Discounts of subscriptions, items and customers, as every version of Stripe's API
//! tells of them, in any order.

use serde_json::{Value, json};

use super::workbench::{CUSTOMER, Workbench};
use crate::support::dice::Dice;
use crate::support::events::{event, subscription};

const AT: i64 = 1_760_000_000;

fn terms(name: &str) -> Value {
    json!({"id": "SPRING", "object": "coupon", "amount_off": null, "currency": null,
           "duration": "repeating", "duration_in_months": 3, "name": name, "percent_off": 12.5})
}

fn discount(id: &str, coupon: Value) -> Value {
    json!({"id": id, "object": "discount", "customer": CUSTOMER, "start": AT,
           "end": AT + 7_776_000, "promotion_code": "promo_1", "subscription": "sub_1",
           "source": {"type": "coupon", "coupon": coupon}})
}

fn discounted(own: Value, of_item: Value) -> Value {
    let mut object = subscription("sub_1", CUSTOMER, "active", "standard");
    object["discounts"] = own;
    object["items"]["data"][0]["discounts"] = of_item;
    object
}

const STATE: &str = "SELECT s.discounted, s.discount_ids, i.discount_ids AS of_item
       FROM billing_subscriptions s JOIN billing_subscription_items i
         USING (organization_id, stripe_subscription_id)";
const KNOWN: &str = "SELECT stripe_discount_id AS id, stripe_subscription_id AS subscription,
            stripe_coupon_id AS coupon, stripe_promotion_code_id AS code, coupon_name AS name,
            percent_off, amount_off, currency, duration, duration_in_months AS months,
            extract(epoch FROM starts_at)::bigint AS starts,
            extract(epoch FROM ends_at)::bigint AS ends, deleted_at IS NOT NULL AS deleted,
            terms_due_at IS NOT NULL AS due
       FROM billing_discounts ORDER BY 1";

#[tokio::test]
async fn each_version_says_which_discounts_are_in_force() {
    let legacy = json!({"id": "di_1", "object": "discount", "customer": CUSTOMER,
        "coupon": terms("Spring"), "start": AT, "end": AT + 7_776_000,
        "promotion_code": "promo_1", "subscription": "sub_1"});
    let mut before_basil = discounted(json!(["di_1"]), json!(["di_2"]));
    before_basil["discount"] = legacy.clone();
    let mut before_lists = subscription("sub_1", CUSTOMER, "active", "standard");
    before_lists["discount"] = legacy.clone();
    let expanded = discounted(json!([discount("di_1", terms("Spring"))]), json!(["di_2"]));
    for (name, object, of_item, told) in [
        (
            "ids",
            discounted(json!(["di_1"]), json!(["di_2"])),
            json!(["di_2"]),
            false,
        ),
        ("before basil", before_basil, json!(["di_2"]), true),
        ("before lists", before_lists, json!([]), true),
        ("expanded", expanded, json!(["di_2"]), true),
    ] {
        let bench = Workbench::new().await;
        let created = event("evt_1", "customer.subscription.created", AT, object);
        bench.process(&[created]).await;
        let state = json!({"discounted": true, "discount_ids": ["di_1"], "of_item": of_item});
        bench.shows(STATE, state).await;
        let known = json!([{"id": "di_1", "subscription": "sub_1", "coupon": "SPRING",
            "code": "promo_1", "name": "Spring", "percent_off": 12.5, "amount_off": null,
            "currency": null, "duration": "repeating", "months": 3, "starts": AT,
            "ends": AT + 7_776_000, "deleted": false, "due": false}]);
        let known = if told { known } else { json!([]) };
        assert_eq!(bench.rows(KNOWN).await, known, "{name}");
        bench.verify_audit().await;
    }
}

#[tokio::test]
async fn a_discount_without_an_id_has_one_of_its_coupon_and_start() {
    let bench = Workbench::new().await;
    let mut object = subscription("sub_1", CUSTOMER, "active", "standard");
    object["discount"] = json!({"object": "discount", "coupon": terms("Old"), "start": AT});
    bench
        .process(&[event("evt_1", "customer.subscription.created", AT, object)])
        .await;
    let rows = bench
        .rows("SELECT discount_ids FROM billing_subscriptions")
        .await;
    assert_eq!(rows, json!([{"discount_ids": [format!("SPRING@{AT}")]}]));
}

/// A discount comes, is explained, is renamed and goes; a customer's comes.
fn story() -> Vec<Value> {
    let own = |at: i64, kind: &str, object: Value| {
        let id = format!("evt_{at}_{kind}").replace('.', "_");
        event(&id, &format!("customer.{kind}"), AT + at, object)
    };
    let of_customer = json!({"id": "di_c", "object": "discount", "customer": CUSTOMER,
        "start": AT + 6, "end": null, "source": {"type": "coupon", "coupon": "ALWAYS"}});
    vec![
        own(0, "subscription.created", discounted(json!([]), json!([]))),
        own(1, "discount.created", discount("di_1", json!("SPRING"))),
        own(
            1,
            "subscription.updated",
            discounted(json!(["di_1"]), json!([])),
        ),
        own(3, "subscription.updated", {
            let shown = discount("di_1", terms("Spring"));
            discounted(json!([shown, "di_2"]), json!(["di_3"]))
        }),
        own(4, "subscription.updated", {
            let shown = discount("di_1", terms("Spring sale"));
            discounted(json!([shown, "di_2"]), json!(["di_3"]))
        }),
        own(5, "discount.deleted", discount("di_1", json!("SPRING"))),
        own(
            5,
            "subscription.updated",
            discounted(json!(["di_2"]), json!(["di_3"])),
        ),
        own(6, "discount.created", of_customer.clone()),
        own(
            6,
            "updated",
            json!({"id": CUSTOMER, "object": "customer", "discount": of_customer,
            "address": {"country": "us", "postal_code": "10001"}}),
        ),
        own(
            7,
            "updated",
            json!({"id": CUSTOMER, "object": "customer", "discount": null,
            "address": {"country": "DE"}}),
        ),
    ]
}

#[tokio::test]
async fn any_order_of_events_ends_in_one_state() {
    let cases: u64 = std::env::var("VCB_CASES").map_or(6, |cases| cases.parse().unwrap());
    let mut states: Vec<Value> = Vec::new();
    for case in 0..cases {
        let mut dice = Dice::new(case);
        let mut events = story();
        if case > 0 {
            dice.shuffle(&mut events);
        }
        let bench = Workbench::new().await;
        for event in &events {
            bench.process(std::slice::from_ref(event)).await;
            if dice.one_in(3) {
                bench.process(std::slice::from_ref(event)).await;
            }
        }
        let customer = "SELECT discount_ids, tax_country, tax_located FROM billing_customers";
        states.push(json!([
            bench.rows(STATE).await,
            bench.rows(KNOWN).await,
            bench.rows(customer).await,
        ]));
        bench.verify_audit().await;
    }
    let first = &states[0];
    assert_eq!(
        first[0],
        json!([{"discounted": true, "discount_ids": ["di_2"], "of_item": ["di_3"]}])
    );
    assert_eq!(first[1][0]["name"], "Spring sale");
    assert_eq!(first[1][0]["deleted"], true);
    assert_eq!(
        (&first[1][1]["id"], &first[1][1]["due"]),
        (&json!("di_c"), &json!(true))
    );
    assert_eq!(
        first[2],
        json!([{"discount_ids": [], "tax_country": "DE", "tax_located": true}])
    );
    for other in &states[1..] {
        assert_eq!(other, first);
    }
}

#[tokio::test]
async fn a_discount_leaves_an_entry_once() {
    let bench = Workbench::new().await;
    let created = event(
        "evt_1",
        "customer.discount.created",
        AT,
        discount("di_1", terms("A")),
    );
    let deleted = event(
        "evt_2",
        "customer.discount.deleted",
        AT + 9,
        discount("di_1", terms("A")),
    );
    bench.process(&[created]).await;
    bench.process(&[deleted]).await;
    bench
        .db
        .execute(
            "UPDATE webhook_events SET processed = false, outcome = NULL, next_retry_at = now()",
        )
        .await;
    bench.work().await;
    let entries =
        "SELECT action, before_state ->> 'deleted' AS before, after_state ->> 'deleted' AS after
                     FROM billing_audit_log WHERE resource_type = 'discount' ORDER BY sequence";
    assert_eq!(
        bench.rows(entries).await,
        json!([{"action": "discount_created", "before": null, "after": "false"},
               {"action": "discount_deleted", "before": "false", "after": "true"}])
    );
    bench.verify_audit().await;
}

#[tokio::test]
async fn discounts_and_taxes_of_invoices_are_read_from_each_version() {
    let line = json!({"id": "il_1", "amount": 10_000, "currency": "usd",
        "discount_amounts": [{"amount": 1_000, "discount": "di_1"}, {"amount": 500, "discount": "di_2"}],
        "period": {"start": AT, "end": AT + 1}});
    let invoice = json!({"id": "in_1", "object": "invoice", "customer": CUSTOMER, "currency": "usd",
        "status": "open", "created": AT, "subtotal": 10_000, "total": 10_115, "amount_due": 10_115,
        "amount_paid": 0, "amount_remaining": 10_115,
        "total_discount_amounts": [{"amount": 1_000, "discount": "di_1"}, {"amount": 500, "discount": "di_2"}]});
    let with = |taxes: &str, of_line: &str, entry: Value| {
        let mut object = invoice.clone();
        object[taxes] = json!([entry]);
        let mut line = line.clone();
        line[of_line] = json!([entry]);
        object["lines"] = json!({"data": [line], "has_more": false});
        object
    };
    let cases = [
        (
            with(
                "total_taxes",
                "taxes",
                json!({"amount": 1_615, "tax_behavior": "exclusive"}),
            ),
            0,
        ),
        (
            with(
                "total_taxes",
                "taxes",
                json!({"amount": 1_615, "tax_behavior": "inclusive"}),
            ),
            1_615,
        ),
        (
            with(
                "total_tax_amounts",
                "tax_amounts",
                json!({"amount": 1_615, "inclusive": false}),
            ),
            0,
        ),
        (
            with(
                "total_tax_amounts",
                "tax_amounts",
                json!({"amount": 1_615, "inclusive": true}),
            ),
            1_615,
        ),
    ];
    for (object, included) in cases {
        let bench = Workbench::new().await;
        bench
            .process(&[event("evt_1", "invoice.finalized", AT, object)])
            .await;
        bench
            .shows(
                "SELECT i.discount_amount, i.tax_amount, i.included_tax_amount,
                        l.discount_amount AS line, l.tax_amount AS line_tax, l.included_tax_amount AS line_included
                   FROM billing_invoices i JOIN billing_invoice_items l USING (organization_id, stripe_invoice_id)",
                json!({"discount_amount": 1_500, "tax_amount": 1_615, "included_tax_amount": included,
                       "line": 1_500, "line_tax": 1_615, "line_included": included}),
            )
            .await;
    }
}
