//! Which organization an event belongs to.

use serde_json::{Value, json};
use uuid::Uuid;

use super::workbench::Workbench;
use crate::support::events::{event, invoice, recorded, subscription};
use crate::support::program;

fn subscribed(id: &str, customer: &str, metadata: Value) -> Value {
    let mut object = subscription("sub_1", customer, "active", "standard");
    object["metadata"] = metadata;
    event(id, "customer.subscription.created", 100, object)
}

const WAITING: &str = "SELECT processed, retry_count, waiting_for_customer_id AS customer,
                              next_retry_at > now() AS later FROM webhook_events";

#[tokio::test]
async fn metadata_names_an_organization_and_its_customer_is_remembered() {
    for key in ["organization_id", "tenant_id"] {
        let bench = Workbench::new().await;
        let named = json!({key: bench.organization.to_string()});
        bench
            .process(&[subscribed("evt_1", "cus_new", named)])
            .await;
        bench
            .shows(
                "SELECT organization_id FROM billing_subscriptions",
                json!({"organization_id": bench.organization}),
            )
            .await;
        let nameless = event(
            "evt_2",
            "invoice.created",
            100,
            invoice("in_1", "cus_new", "sub_1", "draft"),
        );
        bench.process(&[nameless]).await;
        bench
            .shows(
                "SELECT organization_id FROM billing_invoices",
                json!({"organization_id": bench.organization}),
            )
            .await;
    }
}

#[tokio::test]
async fn an_account_can_be_a_customer() {
    let bench = Workbench::new().await;
    let mut subscribed = subscribed(
        "evt_1",
        "cus_none",
        json!({"organization_id": bench.organization}),
    );
    let object = &mut subscribed["data"]["object"];
    object["customer"] = Value::Null;
    object["customer_account"] = json!("acct_1");
    // Its other objects are found by the account.
    let mut invoiced = invoice("in_1", "cus_none", "sub_1", "open");
    invoiced["customer"] = Value::Null;
    invoiced["customer_account"] = json!("acct_1");
    let attached = json!({"id": "pm_1", "object": "payment_method", "type": "card",
        "customer": null, "customer_account": "acct_1", "card": {"brand": "visa", "last4": "4242"}});
    bench.process(&[subscribed]).await;
    bench
        .process(&[
            event("evt_2", "invoice.created", 100, invoiced),
            event("evt_3", "payment_method.attached", 100, attached),
        ])
        .await;
    bench
        .shows(
            "SELECT s.plan_tier, s.stripe_customer_id AS subscribed, i.stripe_customer_id AS invoiced,
                    p.status FROM billing_subscriptions s, billing_invoices i, billing_payment_methods p",
            json!({"plan_tier": "standard", "subscribed": "acct_1", "invoiced": "acct_1",
                   "status": "attached"}),
        )
        .await;
}

#[tokio::test]
async fn an_id_that_is_no_uuid_does_not_hide_one_that_is() {
    let bench = Workbench::new().await;
    let named = json!({"organization_id": "35", "tenant_id": bench.organization});
    bench
        .process(&[subscribed("evt_1", "cus_new", named)])
        .await;
    let mut object = invoice("in_1", "cus_other", "sub_1", "draft");
    object["metadata"] = json!({"organization_id": "46"});
    object["parent"]["subscription_details"]["metadata"] =
        json!({"organization_id": bench.organization});
    bench
        .process(&[event("evt_2", "invoice.created", 100, object)])
        .await;
    assert_eq!(bench.db.count("billing_invoices").await, 1);
}

#[tokio::test]
async fn the_customer_counts_more_than_the_metadata() {
    let bench = Workbench::new().await;
    let other = bench.db.organization("cus_2").await;
    bench
        .process(&[subscribed(
            "evt_1",
            "cus_2",
            json!({"organization_id": bench.organization}),
        )])
        .await;
    bench
        .shows(
            "SELECT organization_id FROM billing_subscriptions",
            json!({"organization_id": other}),
        )
        .await;
}

#[tokio::test]
async fn an_unknown_customer_waits_and_says_for_whom() {
    let bench = Workbench::without_customers().await;
    let nobody = json!({"organization_id": Uuid::now_v7()});
    bench
        .store(&[subscribed("evt_1", "cus_late", nobody)])
        .await;
    assert_eq!(bench.work().await.failed, 1);
    bench
        .shows(
            WAITING,
            json!({"processed": false, "retry_count": 1, "customer": "cus_late", "later": true}),
        )
        .await;
    bench.db.organization("cus_late").await;
    assert_eq!(bench.work().await.succeeded, 1);
    assert_eq!(bench.db.count("billing_subscriptions").await, 1);
}

#[tokio::test]
async fn recorded_events_wait_for_their_customer_and_heal_when_it_is_made() {
    let bench = Workbench::without_customers().await;
    bench
        .store(&[
            recorded("subscription_created"),
            recorded("subscription_updated"),
        ])
        .await;
    bench.work().await;
    assert_eq!(
        bench
            .rows("SELECT DISTINCT waiting_for_customer_id AS customer, error_message FROM webhook_events")
            .await,
        json!([{
            "customer": "cus_IhGfebO16cMIGN",
            "error_message": "no organization has the Stripe customer cus_IhGfebO16cMIGN, and its \
                metadata's organization_id \"35\" is no UUID; `organizations create \
                --stripe-customer cus_IhGfebO16cMIGN` makes one",
        }])
    );
    let created = program::run(&mut program::program_on(
        &bench.db,
        &[
            "organizations",
            "create",
            "--name",
            "Visible emerald",
            "--stripe-customer",
            "cus_IhGfebO16cMIGN",
            "--json",
        ],
    ));
    assert_eq!(created.status, 0, "{}", created.stderr);
    assert_eq!(bench.work().await.succeeded, 2);
    bench
        .shows(
            "SELECT DISTINCT organization_id AS id FROM billing_subscriptions",
            json!({"id": created.json()["id"]}),
        )
        .await;
}

#[tokio::test]
async fn an_event_that_can_never_have_an_owner_is_a_dead_letter_at_once() {
    let bench = Workbench::new().await;
    let mut charge = recorded("charge_succeeded");
    charge["data"]["object"]["customer"] = Value::Null;
    bench.store(&[charge]).await;
    bench.work().await;
    bench
        .shows(
            "SELECT retry_count, error_message FROM webhook_dead_letter_queue",
            json!({
                "retry_count": 0,
                "error_message": "it names no Stripe customer, and its metadata names no organization_id",
            }),
        )
        .await;
}
