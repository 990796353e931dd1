//! Refunds, disputes, deleted customers and drafts, renewed cards, and which
//! invoice a charge paid.

use serde_json::{Value, json};

use super::workbench::Workbench;
use crate::support::events::{event, invoice, subscription};

fn charge(refunded: i64) -> Value {
    json!({"id": "ch_1", "object": "charge", "customer": "cus_1", "amount": 9900, "currency": "usd",
           "amount_captured": 9900, "captured": true, "paid": true, "amount_refunded": refunded,
           "refunded": refunded == 9900, "payment_intent": "pi_1", "status": "succeeded",
           "livemode": false})
}

fn dispute(status: &str) -> Value {
    json!({"id": "du_1", "object": "dispute", "charge": "ch_1", "payment_intent": "pi_1",
           "amount": 9900, "currency": "usd", "status": status, "reason": "fraudulent",
           "evidence_details": {"due_by": 1_760_600_000}, "livemode": false, "metadata": {}})
}

/// Processes `events` one by one, in the order given and in the other.
async fn both_ways(events: &[Value], check: impl AsyncFn(&Workbench)) {
    for backwards in [false, true] {
        let bench = Workbench::new().await;
        let mut events = events.to_vec();
        if backwards {
            events.reverse();
        }
        for event in events {
            bench.process(&[event]).await;
        }
        bench.work().await;
        check(&bench).await;
        bench.verify_audit().await;
    }
}

#[tokio::test]
async fn refunds_are_mirrored_with_an_alert_for_each() {
    let events = [
        event("evt_1", "charge.succeeded", 100, charge(0)),
        event("evt_2", "charge.refunded", 100, charge(900)),
        event("evt_3", "charge.refunded", 100, charge(9900)),
    ];
    both_ways(&events, async |bench| {
        bench
            .shows(
                "SELECT status, amount_refunded, refunded FROM billing_charges",
                json!({"status": "succeeded", "amount_refunded": 9900, "refunded": true}),
            )
            .await;
        assert_eq!(
            bench
                .rows("SELECT kind, message FROM billing_alerts ORDER BY message")
                .await,
            json!([
                {"kind": "charge_refunded", "message": "9.00 USD of 99.00 USD of charge ch_1 were refunded"},
                {"kind": "charge_refunded", "message": "99.00 USD of 99.00 USD of charge ch_1 were refunded"},
            ])
        );
    })
    .await;
}

fn refund(id: &str, amount: i64, status: &str) -> Value {
    json!({"id": id, "object": "refund", "charge": "ch_1", "payment_intent": "pi_1",
           "amount": amount, "currency": "usd", "status": status, "metadata": {},
           "failure_reason": (status == "failed").then_some("lost_or_stolen_card")})
}

#[tokio::test]
async fn a_refund_that_fails_is_not_refunded_any_more_and_somebody_hears_of_it() {
    let failed = || refund("re_2", 9_000, "failed");
    let events = [
        event("evt_1", "charge.succeeded", 100, charge(0)),
        event(
            "evt_2",
            "refund.created",
            150,
            refund("re_1", 900, "succeeded"),
        ),
        event("evt_3", "charge.refunded", 150, charge(900)),
        event(
            "evt_4",
            "refund.created",
            200,
            refund("re_2", 9_000, "succeeded"),
        ),
        event("evt_5", "charge.refunded", 200, charge(9_900)),
        event("evt_6", "charge.refund.updated", 300, failed()),
        event("evt_7", "refund.updated", 300, failed()),
        event("evt_8", "refund.failed", 300, failed()),
    ];
    both_ways(&events, async |bench| {
        bench
            .shows(
                "SELECT amount_refunded, refunded FROM billing_charges",
                json!({"amount_refunded": 900, "refunded": false}),
            )
            .await;
        assert_eq!(
            bench
                .rows("SELECT message FROM billing_alerts WHERE kind = 'refund_failed'")
                .await,
            json!([{"message": "the refund of 90.00 USD of charge ch_1 failed (lost_or_stolen_card): \
                                the customer does not have the money, so pay it back in another way"}])
        );
        // Another refund is counted by the charge, which has left out the failed one.
        bench
            .process(&[event("evt_9", "charge.refunded", 400, charge(1_900))])
            .await;
        bench
            .shows(
                "SELECT amount_refunded, amount_refunded_told FROM billing_charges",
                json!({"amount_refunded": 1_900, "amount_refunded_told": null}),
            )
            .await;
    })
    .await;
}

#[tokio::test]
async fn what_is_canceled_or_fails_in_the_second_of_its_refund_is_not_refunded_either() {
    for (status, told) in [("canceled", "refund.updated"), ("failed", "refund.failed")] {
        let events = [
            event("evt_1", "charge.refunded", 100, charge(9_900)),
            event("evt_2", told, 100, refund("re_1", 9_900, status)),
        ];
        both_ways(&events, async |bench| {
            bench
                .shows(
                    "SELECT amount_refunded, refunded FROM billing_charges",
                    json!({"amount_refunded": 0, "refunded": false}),
                )
                .await;
        })
        .await;
    }
}

#[tokio::test]
async fn disputes_are_mirrored_and_their_ends_stay() {
    let events = [
        event("evt_1", "charge.succeeded", 100, charge(0)),
        event(
            "evt_2",
            "charge.dispute.created",
            200,
            dispute("needs_response"),
        ),
        event("evt_3", "charge.dispute.closed", 300, dispute("lost")),
    ];
    both_ways(&events, async |bench| {
        bench
            .shows(
                "SELECT d.status, d.amount, d.reason, c.disputed
                   FROM billing_disputes d JOIN billing_charges c USING (organization_id, stripe_charge_id)",
                json!({"status": "lost", "amount": 9900, "reason": "fraudulent", "disputed": true}),
            )
            .await;
        assert_eq!(
            bench.rows("SELECT kind FROM billing_alerts ORDER BY 1").await,
            json!([{"kind": "dispute_closed"}, {"kind": "payment_disputed"}])
        );
    })
    .await;
}

#[tokio::test]
async fn a_charge_is_linked_to_the_invoice_that_it_paid() {
    let payment = json!({"id": "inpay_1", "object": "invoice_payment", "invoice": "in_1", "status": "paid",
        "amount_paid": 9900, "currency": "usd", "livemode": false,
        "payment": {"type": "payment_intent", "payment_intent": "pi_1"}});
    let events = [
        event(
            "evt_1",
            "invoice.paid",
            100,
            invoice("in_1", "cus_1", "sub_1", "paid"),
        ),
        event("evt_2", "invoice_payment.paid", 100, payment),
        event("evt_3", "charge.succeeded", 100, charge(0)),
        // A later word on the charge does not take the invoice away.
        event("evt_4", "charge.refunded", 150, charge(900)),
    ];
    both_ways(&events, async |bench| {
        bench
            .shows(
                "SELECT stripe_invoice_id AS invoice, amount_refunded FROM billing_charges",
                json!({"invoice": "in_1", "amount_refunded": 900}),
            )
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_draft_is_gone_and_stays_gone() {
    let draft = || invoice("in_1", "cus_1", "sub_1", "draft");
    let events = [
        event("evt_1", "invoice.created", 100, draft()),
        event("evt_2", "invoice.updated", 100, draft()),
        event("evt_3", "invoice.deleted", 100, draft()),
    ];
    both_ways(&events, async |bench| {
        assert_eq!(bench.db.count("billing_invoices").await, 0);
        assert_eq!(bench.db.count("billing_invoice_items").await, 0);
        let deleted = "SELECT after_state FROM billing_audit_log WHERE action = 'invoice_deleted'";
        bench
            .shows(deleted, json!({"after_state": {"status": "deleted"}}))
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_customer_is_marked_for_good() {
    let customer = |card: &str| {
        json!({"id": "cus_1", "object": "customer", "delinquent": false, "metadata": {},
               "invoice_settings": {"default_payment_method": card}})
    };
    let events = [
        event("evt_1", "customer.updated", 100, customer("pm_1")),
        event("evt_2", "customer.updated", 110, customer("pm_2")),
        event("evt_3", "customer.deleted", 120, customer("pm_2")),
        event("evt_4", "customer.updated", 130, customer("pm_3")),
    ];
    both_ways(&events, async |bench| {
        bench
            .shows(
                "SELECT extract(epoch FROM deleted_at)::int AS deleted, default_payment_method_id AS card
                   FROM billing_customers",
                json!({"deleted": 120, "card": "pm_2"}),
            )
            .await;
        bench
            .shows(
                "SELECT kind, resource_id FROM billing_alerts",
                json!({"kind": "customer_deleted", "resource_id": "cus_1"}),
            )
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_card_that_its_network_renews_shows_its_new_expiry() {
    let card = |customer: Value, year: i64| {
        json!({"id": "pm_1", "object": "payment_method", "type": "card", "customer": customer,
               "card": {"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": year},
               "livemode": false, "metadata": {}})
    };
    let events = [
        // Before it was anybody's, which the end of its life is not.
        event(
            "evt_0",
            "payment_method.updated",
            90,
            card(Value::Null, 2025),
        ),
        event(
            "evt_1",
            "payment_method.attached",
            100,
            card(json!("cus_1"), 2026),
        ),
        event(
            "evt_2",
            "payment_method.automatically_updated",
            100,
            card(json!("cus_1"), 2030),
        ),
    ];
    both_ways(&events, async |bench| {
        bench
            .shows(
                "SELECT status, exp_year FROM billing_payment_methods",
                json!({"status": "attached", "exp_year": 2030}),
            )
            .await;
    })
    .await;
}

#[tokio::test]
async fn every_event_of_a_subscription_shows_it() {
    for (event_type, status) in [
        ("customer.subscription.paused", "paused"),
        ("customer.subscription.resumed", "active"),
        ("customer.subscription.trial_will_end", "trialing"),
        ("customer.subscription.pending_update_applied", "active"),
        ("customer.subscription.pending_update_expired", "active"),
    ] {
        let bench = Workbench::new().await;
        let object = subscription("sub_1", "cus_1", status, "standard");
        bench
            .process(&[event("evt_1", event_type, 100, object)])
            .await;
        bench
            .shows(
                "SELECT stripe_status AS status FROM billing_subscriptions",
                json!({"status": status}),
            )
            .await;
        let tier = if status == "paused" {
            "free"
        } else {
            "standard"
        };
        bench
            .shows(
                "SELECT plan_tier FROM organizations",
                json!({"plan_tier": tier}),
            )
            .await;
    }
}

#[tokio::test]
async fn every_event_of_an_invoice_shows_it() {
    for (event_type, status) in [
        ("invoice.paid", "paid"),
        ("invoice.voided", "void"),
        ("invoice.marked_uncollectible", "uncollectible"),
        ("invoice.payment_action_required", "open"),
    ] {
        let bench = Workbench::new().await;
        let object = invoice("in_1", "cus_1", "sub_1", status);
        bench
            .process(&[event("evt_1", event_type, 100, object)])
            .await;
        bench
            .shows(
                "SELECT status FROM billing_invoices",
                json!({"status": status}),
            )
            .await;
        let alerts = i64::from(status == "open");
        let asked = "billing_alerts WHERE kind = 'payment_action_required'";
        assert_eq!(bench.db.count(asked).await, alerts);
    }
}
