//! Which organization an event belongs to.

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::projection::UnknownCustomers;

use super::workbench::Workbench;
use crate::support::events::{event, invoice, recorded, subscription};
use crate::support::program;
use crate::support::service::organization;

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
        let bench = Workbench::unlinked().await;
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
    let bench = Workbench::unlinked().await;
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
    let bench = Workbench::unlinked().await;
    let named = json!({"organization_id": "35", "tenant_id": bench.organization});
    bench
        .process(&[subscribed("evt_1", "cus_new", named)])
        .await;
    let other = organization(&bench.db, "Other").await;
    let mut object = invoice("in_1", "cus_other", "sub_1", "draft");
    object["metadata"] = json!({"organization_id": "46"});
    object["parent"]["subscription_details"]["metadata"] = json!({"organization_id": other});
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
                metadata's organization_id \"35\" is not a UUID; `organizations create \
                --stripe-customer cus_IhGfebO16cMIGN` creates one",
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
async fn what_is_nobodys_is_ignored_and_no_dead_letter() {
    let bench = Workbench::new().await;
    let mut charge = recorded("charge_succeeded");
    charge["data"]["object"]["customer"] = Value::Null;
    let nobodys = |id: &str, event_type: &str, object: Value| event(id, event_type, 100, object);
    let method = json!({"id": "pm_guest", "object": "payment_method", "type": "card", "customer": null,
                        "card": {"brand": "visa", "last4": "4242"}});
    let dispute = json!({"id": "du_1", "object": "dispute", "charge": "ch_guest", "amount": 5,
                         "currency": "usd", "status": "needs_response", "livemode": false});
    let payment = json!({"id": "inpay_1", "object": "invoice_payment", "invoice": "in_other",
                         "payment": {"type": "payment_intent", "payment_intent": "pi_other"}});
    let session = json!({"id": "cs_1", "object": "checkout.session", "mode": "payment",
                         "customer": null, "metadata": {}});
    bench
        .process(&[
            charge,
            nobodys("evt_1", "payment_method.detached", method.clone()),
            nobodys("evt_2", "payment_method.automatically_updated", method),
            nobodys("evt_3", "charge.dispute.created", dispute),
            nobodys("evt_4", "invoice_payment.paid", payment),
            nobodys("evt_5", "checkout.session.completed", session),
        ])
        .await;
    bench
        .shows(
            "SELECT outcome, count(*) AS events, min(retry_count) AS retries FROM webhook_events GROUP BY 1",
            json!({"outcome": "ignored", "events": 6, "retries": 0}),
        )
        .await;
    assert_eq!(bench.db.count("webhook_dead_letter_queue").await, 0);
}

#[tokio::test]
async fn what_was_nobodys_is_processed_once_it_is_known_whose_it_is() {
    let bench = Workbench::new().await;
    let dispute = json!({"id": "du_1", "object": "dispute", "charge": "ch_1", "amount": 5,
                         "currency": "usd", "status": "needs_response", "livemode": false});
    let method = |customer: Value| {
        json!({"id": "pm_1", "object": "payment_method", "type": "card", "customer": customer,
               "card": {"brand": "visa", "last4": "4242"}})
    };
    let charge = json!({"id": "ch_1", "object": "charge", "customer": "cus_1", "amount": 5,
                        "currency": "usd", "status": "succeeded", "livemode": false});
    bench
        .process(&[
            event("evt_1", "charge.dispute.created", 100, dispute),
            event("evt_2", "payment_method.detached", 100, method(Value::Null)),
        ])
        .await;
    assert_eq!(bench.db.count("billing_disputes").await, 0);
    bench
        .process(&[
            event("evt_3", "charge.succeeded", 90, charge),
            event(
                "evt_4",
                "payment_method.attached",
                90,
                method(json!("cus_1")),
            ),
        ])
        .await;
    bench
        .shows(
            "SELECT d.status AS dispute, c.disputed, p.status FROM billing_disputes d, billing_charges c,
                    billing_payment_methods p",
            json!({"dispute": "needs_response", "disputed": true, "status": "detached"}),
        )
        .await;
    assert_eq!(bench.db.count("webhook_unclaimed_events").await, 0);
}

#[tokio::test]
async fn unknown_customers_may_be_ignored_until_they_are_ours() {
    let mut bench = Workbench::new().await;
    bench.processor.unknown_customers = UnknownCustomers::Ignore;
    let mut named = subscribed("evt_1", "cus_late", json!({"tenant_id": "4711"}));
    named["data"]["object"]["id"] = json!("sub_late");
    let invoiced = invoice("in_1", "cus_other", "sub_2", "open");
    bench
        .process(&[named, event("evt_2", "invoice.finalized", 100, invoiced)])
        .await;
    bench
        .shows(
            "SELECT DISTINCT outcome, retry_count FROM webhook_events",
            json!({"outcome": "ignored", "retry_count": 0}),
        )
        .await;

    let created = program::run(&mut program::program_on(
        &bench.db,
        &[
            "organizations",
            "create",
            "--name",
            "Late",
            "--stripe-customer",
            "cus_late",
        ],
    ));
    assert_eq!(created.status, 0, "{}", created.stderr);
    assert_eq!(bench.work().await.succeeded, 1);
    bench
        .shows(
            "SELECT stripe_subscription_id AS id FROM billing_subscriptions",
            json!({"id": "sub_late"}),
        )
        .await;
    // Another event may name the organization as well.
    let other = organization(&bench.db, "Other").await;
    let metadata = json!({"organization_id": other});
    bench
        .process(&[subscribed("evt_3", "cus_other", metadata)])
        .await;
    assert_eq!(bench.db.count("billing_invoices").await, 1);
}

#[tokio::test]
async fn what_was_processed_beside_its_owner_is_looked_for() {
    let bench = Workbench::new().await;
    let dispute = json!({"id": "du_1", "object": "dispute", "charge": "ch_1", "amount": 5,
                         "currency": "usd", "status": "lost", "livemode": false});
    bench
        .process(&[event("evt_1", "charge.dispute.closed", 100, dispute)])
        .await;
    // Another worker's transaction, which neither saw nor was seen.
    bench
        .db
        .execute(&format!(
            "INSERT INTO billing_charges (organization_id, stripe_charge_id, status, currency, amount,
               amount_captured, amount_refunded, paid, captured, refunded, disputed, livemode,
               last_event_at, last_event_rank, last_event_id, tied_event_ids)
             VALUES ('{}', 'ch_1', 'succeeded', 'usd', 5, 5, 0, true, true, false, false, false,
               now(), 1, 'evt_0', ARRAY['evt_0'])",
            bench.organization
        ))
        .await;
    assert_eq!(bench.work().await.processed, 0);
    bench.processor.bring_back().await.unwrap();
    assert_eq!(bench.work().await.succeeded, 1);
    bench
        .shows(
            "SELECT d.status, disputed FROM billing_disputes d JOIN billing_charges USING (stripe_charge_id)",
            json!({"status": "lost", "disputed": true}),
        )
        .await;
}

#[tokio::test]
async fn a_checkout_session_says_whose_its_customer_is() {
    for (field, by_link, is_told) in [
        ("metadata", true, true),
        ("client_reference_id", false, true),
        // Whoever opens a payment link writes the reference.
        ("client_reference_id", true, false),
    ] {
        let bench = Workbench::unlinked().await;
        let mut session = json!({
            "id": "cs_1", "object": "checkout.session", "customer": "cus_new", "mode": "subscription",
            "status": "complete", "payment_status": "paid", "subscription": "sub_1", "livemode": false,
            "amount_total": 9900, "currency": "usd",
        });
        session[field] = match field {
            "metadata" => json!({"organization_id": bench.organization}),
            _ => json!(bench.organization),
        };
        session["payment_link"] = if by_link {
            json!("plink_1")
        } else {
            Value::Null
        };
        bench
            .store(&[
                event(
                    "evt_2",
                    "customer.subscription.created",
                    90,
                    subscription("sub_1", "cus_new", "active", "standard"),
                ),
                event("evt_1", "checkout.session.completed", 100, session),
            ])
            .await;
        bench.work().await;
        bench.let_retries_be_due().await;
        bench.work().await;
        let found = i64::from(is_told);
        for (table, condition) in [
            ("billing_checkout_sessions", "payment_status = 'paid'"),
            ("billing_customers", "stripe_customer_id = 'cus_new'"),
            ("billing_subscriptions", "plan_tier = 'standard'"),
            ("billing_audit_log", "action = 'checkout_session_completed'"),
        ] {
            let rows = format!("{table} WHERE {condition}");
            assert_eq!(bench.db.count(&rows).await, found, "{field} {table}");
        }
    }
}

/// Whoever writes objects in the Stripe account sets an organization's plan so.
#[tokio::test]
async fn a_second_customer_by_metadata_is_told_of() {
    let bench = Workbench::new().await;
    let named = json!({"organization_id": bench.organization});
    bench
        .process(&[subscribed("evt_1", "cus_new", named)])
        .await;
    assert_eq!(
        bench.db.value("SELECT plan_tier FROM organizations").await,
        "standard"
    );
    let alert = "SELECT organization_id, kind, resource_id FROM billing_alerts";
    let alerted = json!({"organization_id": bench.organization, "kind": "second_customer",
                         "resource_id": "cus_new"});
    bench.shows(alert, alerted).await;
    let doctor = program::run(&mut program::program_on(&bench.db, &["doctor"]));
    let warned = "WARNING second customers: cus_new joined";
    assert!(doctor.stdout.contains(warned), "{}", doctor.stdout);

    // An operator who means it says so.
    let organization = bench.organization.to_string();
    let link = [
        "organizations",
        "link-customer",
        &organization,
        "--stripe-customer",
        "cus_new",
    ];
    let linked = program::run(&mut program::program_on(&bench.db, &link));
    assert_eq!(linked.status, 0, "{}", linked.stderr);
    let doctor = program::run(&mut program::program_on(&bench.db, &["doctor"]));
    assert!(!doctor.stdout.contains(warned), "{}", doctor.stdout);
}

/// A checkout session's reference, an invoice's subscription, and a customer
/// itself name organizations as well.
#[tokio::test]
async fn whatever_names_an_organization_beside_its_customer_is_told_of() {
    let bench = Workbench::new().await;
    let organization = bench.organization;
    let mut invoiced = invoice("in_1", "cus_invoiced", "sub_1", "open");
    invoiced["parent"]["subscription_details"]["metadata"] = json!({"tenant_id": organization});
    let session = json!({
        "id": "cs_1", "object": "checkout.session", "customer": "cus_session", "mode": "subscription",
        "status": "complete", "payment_status": "paid", "subscription": "sub_1", "livemode": false,
        "amount_total": 9900, "currency": "usd", "client_reference_id": organization,
    });
    let customer = json!({"id": "cus_itself", "object": "customer", "livemode": false,
                          "metadata": {"organization_id": organization}});
    bench
        .process(&[
            event("evt_1", "invoice.finalized", 100, invoiced),
            event("evt_2", "checkout.session.completed", 100, session),
            event("evt_3", "customer.updated", 100, customer),
        ])
        .await;
    assert_eq!(bench.db.count("billing_customers").await, 4);
    let alerts = "billing_alerts WHERE kind = 'second_customer'";
    assert_eq!(bench.db.count(alerts).await, 3);
}

/// Of two that name an organization without a customer, the first is none too many.
#[tokio::test]
async fn the_first_customer_of_an_organization_is_nothing_to_tell() {
    let bench = Workbench::unlinked().await;
    let named = json!({"organization_id": bench.organization});
    bench
        .process(&[subscribed("evt_1", "cus_a", named.clone())])
        .await;
    let alerts = "billing_alerts WHERE kind = 'second_customer'";
    assert_eq!(bench.db.count(alerts).await, 0);
    // One that Stripe has deleted is none.
    bench
        .db
        .execute("UPDATE billing_customers SET deleted_at = now()")
        .await;
    let mut second = subscribed("evt_2", "cus_b", named);
    second["data"]["object"]["id"] = json!("sub_2");
    bench.process(&[second]).await;
    assert_eq!(bench.db.count("billing_customers").await, 2);
    assert_eq!(bench.db.count(alerts).await, 0);
}
