//! Invoice events: the mirror.

use serde_json::json;

use super::workbench::Workbench;
use crate::support::events::{event, invoice, recorded};

#[tokio::test]
async fn todays_shape_is_mirrored_with_its_lines() {
    let bench = Workbench::new().await;
    let mut object = invoice("in_1", "cus_1", "sub_1", "paid");
    object["total_taxes"] = json!([{"amount": 100}, {"amount": 50}]);
    object["status_transitions"] = json!({"finalized_at": 1_760_000_000, "paid_at": 1_760_000_060});
    bench
        .process(&[event("evt_1", "invoice.payment_succeeded", 100, object)])
        .await;
    bench
        .shows(
            "SELECT stripe_invoice_id, stripe_subscription_id, number, status, billing_reason,
                    currency, subtotal_amount, tax_amount, total_amount, amount_due, amount_paid,
                    amount_remaining, attempt_count, finalized_at, paid_at, has_more_items
               FROM billing_invoices",
            json!({
                "stripe_invoice_id": "in_1",
                "stripe_subscription_id": "sub_1",
                "number": "A-0001",
                "status": "paid",
                "billing_reason": "subscription_cycle",
                "currency": "usd",
                "subtotal_amount": 9900,
                "tax_amount": 150,
                "total_amount": 9900,
                "amount_due": 9900,
                "amount_paid": 9900,
                "amount_remaining": 0,
                "attempt_count": 1,
                "finalized_at": "2025-10-09T08:53:20+00:00",
                "paid_at": "2025-10-09T08:54:20+00:00",
                "has_more_items": false,
            }),
        )
        .await;
    bench
        .shows(
            "SELECT stripe_line_item_id AS id, position, amount, currency, quantity, proration,
                    stripe_price_id, stripe_subscription_id, stripe_subscription_item_id
               FROM billing_invoice_items",
            json!({
                "id": "il_in_1",
                "position": 0,
                "amount": 9900,
                "currency": "usd",
                "quantity": 1,
                "proration": false,
                "stripe_price_id": "price_standard",
                "stripe_subscription_id": "sub_1",
                "stripe_subscription_item_id": "si_sub_1",
            }),
        )
        .await;
}

#[tokio::test]
async fn recorded_events_of_2020_are_mirrored_with_their_lines() {
    let bench = Workbench::without_customers().await;
    for customer in [
        "cus_J7Mkgr8mvbl1eK",
        "cus_JsuO3bmrj0QlAw",
        "cus_JVhbiWW9p3F6wq",
    ] {
        bench.db.organization(customer).await;
    }
    // Recorded as invoice.paid, which says the same.
    let mut paid = recorded("invoice_paid");
    paid["type"] = json!("invoice.payment_succeeded");
    bench
        .process(&[
            recorded("invoice_finalized"),
            paid,
            recorded("invoice_updated"),
        ])
        .await;
    assert_eq!(
        bench
            .rows(
                "SELECT i.stripe_invoice_id AS id, i.stripe_subscription_id AS subscription, status,
                        number, stripe_line_item_id AS line, l.stripe_price_id AS price,
                        l.stripe_subscription_id AS line_subscription, l.description
                   FROM billing_invoices i
                   JOIN billing_invoice_items l USING (organization_id, stripe_invoice_id) ORDER BY 1",
            )
            .await,
        json!([
            {
                "id": "in_1KJdKkJDPojXS6LNSwSWkZSN",
                "subscription": "sub_K4J0aB2bmSyb6b",
                "status": "open",
                "number": "B1AB464C-0181",
                "line": "il_1KJdKkJDPojXS6LN2lyAeJz1",
                "price": "price_1IDQm5JDPojXS6LNM31hxKzp",
                "line_subscription": "sub_K4J0aB2bmSyb6b",
                "description": "1 × Free tier (at $0.00 / month)",
            },
            {
                "id": "in_1KJqKBJDPojXS6LNJbvLUgEy",
                "subscription": "sub_JsuPyCPhXWfZar",
                "status": "paid",
                "number": "60229DE7-0007",
                "line": "il_1KJqKBJDPojXS6LND42vdxtT",
                "price": "price_1IDQm5JDPojXS6LNM31hxKzp",
                "line_subscription": "sub_JsuPyCPhXWfZar",
                "description": "1 × Free tier (at $0.00 / month)",
            },
            {
                "id": "in_1KJrLsJDPojXS6LN8xJ2QLQt",
                "subscription": "sub_JW4ilEI1mm5j4X",
                "status": "draft",
                "number": null,
                "line": "il_1KJrLsJDPojXS6LN9kdjorQB",
                "price": "price_1IDQm5JDPojXS6LNM31hxKzp",
                "line_subscription": "sub_JW4ilEI1mm5j4X",
                "description": "1 × Free tier (at $0.00 / month)",
            },
        ])
    );
}

#[tokio::test]
async fn an_invoice_goes_through_its_life() {
    let bench = Workbench::new().await;
    let life = [
        ("invoice.created", "draft"),
        ("invoice.finalized", "open"),
        ("invoice.updated", "uncollectible"),
        ("invoice.updated", "being_discussed"),
        ("invoice.payment_succeeded", "paid"),
    ];
    for (n, (event_type, status)) in life.into_iter().enumerate() {
        let object = invoice("in_1", "cus_1", "sub_1", status);
        bench
            .process(&[event(
                &format!("evt_{n}"),
                event_type,
                100 + n as i64,
                object,
            )])
            .await;
        bench
            .shows(
                "SELECT status FROM billing_invoices",
                json!({"status": status}),
            )
            .await;
    }
    let late = event(
        "evt_late",
        "invoice.updated",
        200,
        invoice("in_1", "cus_1", "sub_1", "open"),
    );
    bench.process(&[late]).await;
    bench
        .shows(
            "SELECT status FROM billing_invoices",
            json!({"status": "paid"}),
        )
        .await;
}

#[tokio::test]
async fn amounts_are_whole_minor_units_of_any_size() {
    let bench = Workbench::new().await;
    let mut object = invoice("in_1", "cus_1", "sub_1", "open");
    object["currency"] = json!("jpy");
    object["amount_due"] = json!(500);
    object["total"] = json!(i64::MAX);
    object["starting_balance"] = json!(i64::MIN);
    object["lines"]["data"][0]["amount"] = json!(i64::MIN);
    object["lines"]["data"][0]["currency"] = json!("jpy");
    bench
        .process(&[event("evt_1", "invoice.payment_failed", 100, object)])
        .await;
    bench
        .shows(
            "SELECT i.currency, amount_due, total_amount, starting_balance, amount
               FROM billing_invoices i JOIN billing_invoice_items USING (stripe_invoice_id)",
            json!({
                "currency": "jpy",
                "amount_due": 500,
                "total_amount": i64::MAX,
                "starting_balance": i64::MIN,
                "amount": i64::MIN,
            }),
        )
        .await;
    bench
        .shows(
            "SELECT message ~ 'payment of 500 JPY for' AS in_yen FROM billing_alerts",
            json!({"in_yen": true}),
        )
        .await;
}

#[tokio::test]
async fn an_amount_that_is_none_is_a_dead_letter_at_once() {
    for amount in [
        json!(0.5),
        json!("12"),
        json!(1e300),
        json!(u64::MAX),
        json!(true),
    ] {
        let bench = Workbench::new().await;
        let mut object = invoice("in_1", "cus_1", "sub_1", "open");
        object["total"] = amount;
        bench
            .store(&[event("evt_1", "invoice.updated", 100, object)])
            .await;
        bench.work().await;
        bench
            .shows(
                "SELECT retry_count, error_message ~ 'data.object.total is .*, not an integer' AS says_what
                   FROM webhook_dead_letter_queue",
                json!({"retry_count": 0, "says_what": true}),
            )
            .await;
    }
}

#[tokio::test]
async fn lines_that_share_an_id_are_told_apart_by_their_position() {
    let bench = Workbench::new().await;
    let line = |plan: &str, amount: i64| {
        json!({"id": "sub_old1", "object": "line_item", "amount": amount, "currency": "usd",
               "description": plan, "metadata": {}, "plan": {"id": plan}, "proration": false,
               "quantity": 1, "period": {"start": 1_500_000_000, "end": 1_502_678_400}})
    };
    let mut object = invoice("in_1", "cus_1", "sub_1", "paid");
    object["lines"]["data"] = json!([line("p_a", 100), line("p_b", 200)]);
    let mut old = event("evt_1", "invoice.payment_succeeded", 100, object);
    old["api_version"] = json!("2018-02-28");
    bench.process(&[old]).await;
    assert_eq!(
        bench
            .rows(
                "SELECT stripe_line_item_id AS id, position, amount, stripe_price_id AS price
                     FROM billing_invoice_items ORDER BY position"
            )
            .await,
        json!([
            {"id": "sub_old1", "position": 0, "amount": 100, "price": "p_a"},
            {"id": "sub_old1", "position": 1, "amount": 200, "price": "p_b"},
        ])
    );
}
