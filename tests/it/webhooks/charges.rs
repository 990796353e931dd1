//! Charge events: how each attempt to collect money ended.

use serde_json::json;

use super::workbench::Workbench;
use crate::support::events::recorded;

const CUSTOMER: &str = "cus_J7Mkgr8mvbl1eK";

#[tokio::test]
async fn a_declined_charge_says_why() {
    let bench = Workbench::without_customers().await;
    bench.db.organization(CUSTOMER).await;
    bench.process(&[recorded("charge_failed")]).await;
    bench
        .shows(
            "SELECT stripe_charge_id, stripe_invoice_id, stripe_payment_method_id, status, amount,
                    amount_captured, currency, paid, captured, failure_code, failure_message,
                    outcome_type, outcome_network_status, outcome_reason, outcome_risk_level,
                    outcome_seller_message, card_brand, card_last4, livemode
               FROM billing_charges",
            json!({
                "stripe_charge_id": "ch_3KtoMeJDPojXS6LN0igeffJ6",
                "stripe_invoice_id": "in_1KJdKkJDPojXS6LNSwSWkZSN",
                "stripe_payment_method_id": "pm_1KtoMBJDPojXS6LNhoWgdwNI",
                "status": "failed",
                "amount": 2500,
                "amount_captured": 0,
                "currency": "usd",
                "paid": false,
                "captured": false,
                "failure_code": "card_declined",
                "failure_message": "Your card does not support this type of purchase.",
                "outcome_type": "issuer_declined",
                "outcome_network_status": "declined_by_network",
                "outcome_reason": "transaction_not_allowed",
                "outcome_risk_level": "normal",
                "outcome_seller_message":
                    "The bank returned the decline code `transaction_not_allowed`.",
                "card_brand": "mastercard",
                "card_last4": "2003",
                "livemode": true,
            }),
        )
        .await;
}

#[tokio::test]
async fn a_charge_that_succeeded_may_fail_later_and_not_the_other_way_round() {
    let bench = Workbench::without_customers().await;
    bench.db.organization(CUSTOMER).await;
    let succeeded = recorded("charge_succeeded");
    let charge = succeeded["data"]["object"]["id"].clone();
    let mut failed = recorded("charge_failed");
    failed["id"] = json!("evt_later");
    failed["data"]["object"]["id"] = charge;
    let status = "SELECT status, failure_code FROM billing_charges";
    let lost = json!({"status": "failed", "failure_code": "card_declined"});

    bench.process(std::slice::from_ref(&failed)).await;
    bench.process(std::slice::from_ref(&succeeded)).await;
    bench.shows(status, lost).await;
}

#[tokio::test]
async fn todays_shape_has_no_invoice() {
    let bench = Workbench::without_customers().await;
    bench.db.organization(CUSTOMER).await;
    let mut event = recorded("charge_succeeded");
    event["api_version"] = json!("2025-03-31.basil");
    event["data"]["object"]
        .as_object_mut()
        .unwrap()
        .remove("invoice");
    bench.process(&[event]).await;
    bench
        .shows(
            "SELECT status, paid, amount, stripe_invoice_id, stripe_payment_intent_id AS intent,
                    receipt_url ~ '^https://pay.stripe.com/' AS has_receipt FROM billing_charges",
            json!({
                "status": "succeeded",
                "paid": true,
                "amount": 3000,
                "stripe_invoice_id": null,
                "intent": "pi_3KtQThJDPojXS6LN0H9EfsjV",
                "has_receipt": true,
            }),
        )
        .await;
}
