//! `subscriptions reconcile`: every column that is mirrored, what Stripe fails for,
//! and how drift is seen.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use valuecanvas_billing::stripe::objects::CheckoutSession;

use super::promotion_codes::coupon;
use super::reconcile::{kinds, reconcile};
use super::world::{VISA, World, text};
use crate::support::TestDatabase;
use crate::support::program::Ran;
use crate::support::serving::Serving;

/// Columns that no object of Stripe's has: whose row it is, which event wrote it, and
/// what was deduced.
const OWN: [&str; 34] = [
    "organization_id",
    "created_at",
    "updated_at",
    "linked_at",
    "last_event_at",
    "last_event_rank",
    "last_event_id",
    "tied_event_ids",
    // When Stripe is asked again.
    "ask_again_since",
    "recovery_attempts",
    "next_recovery_at",
    // Whether the rows beside it are complete, and their order.
    "has_more_items",
    "position",
    // By the catalogue.
    "plan_tier",
    "plan_version",
    "plan_interval",
    "plan_seats",
    "plan_addons",
    "known_tier",
    "metric",
    "seats",
    "addon",
    // A verdict of its own.
    "deleted_at",
    // The price's, and moves to newer ones.
    "lookup_key",
    // The keys under which rows are found.
    "stripe_subscription_item_id",
    "stripe_invoice_payment_id",
    "stripe_dispute_id",
    "stripe_charge_id",
    // What the charge's event said, where refunds have failed since.
    "amount_refunded_told",
    "refunds_told_by",
    // Since when a payment is late, and what that comes to.
    "first_failed_at",
    "past_due_since",
    "access_ends_at",
    "access_ended_at",
];

/// A mirrored table, what its differences begin with, and further columns that are its
/// keys or decide whether others are compared.
struct Mirrored(&'static str, &'static str, &'static [&'static str]);

const TABLES: [Mirrored; 11] = [
    Mirrored("billing_customers", "", &["stripe_customer_id"]),
    Mirrored(
        "billing_subscriptions",
        "",
        &[
            "stripe_subscription_id",
            // Also by payments.
            "status",
            "cancel_at_period_end",
            "stripe_schedule_id",
        ],
    ),
    Mirrored(
        "billing_subscription_items",
        "item ",
        &["stripe_subscription_id"],
    ),
    Mirrored(
        "billing_subscription_schedules",
        "schedule",
        // Those of phases are compared by what they say.
        &["stripe_schedule_id", "phases"],
    ),
    Mirrored("billing_invoices", "", &["stripe_invoice_id"]),
    Mirrored("billing_invoice_items", "line ", &["stripe_invoice_id"]),
    Mirrored(
        "billing_invoice_payments",
        "payment ",
        &["stripe_invoice_id"],
    ),
    Mirrored("billing_charges", "", &[]),
    Mirrored("billing_disputes", "", &[]),
    Mirrored("billing_refunds", "", &["stripe_refund_id"]),
    Mirrored("billing_payment_methods", "", &["stripe_payment_method_id"]),
];

/// Each column of a table with its type.
async fn columns(db: &TestDatabase, table: &str) -> Vec<(String, String)> {
    let listed = db
        .value(&format!(
            "SELECT string_agg(column_name || ' ' || data_type, ',')
               FROM information_schema.columns
              WHERE table_schema = 'public' AND table_name = '{table}'"
        ))
        .await;
    let columns = listed.split(',');
    columns
        .map(|column| column.split_once(' ').unwrap())
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Another value than Stripe's.
fn other(column: &str, kind: &str) -> String {
    match (column, kind) {
        // Only the presence of links counts.
        ("hosted_invoice_url" | "invoice_pdf" | "receipt_url", _) => {
            format!("CASE WHEN {column} IS NULL THEN 'https://other.example' END")
        }
        ("status", _) => "CASE status WHEN 'attached' THEN 'detached' ELSE 'other' END".to_owned(),
        ("pending_update", _) => "'{\"expires_at\": 7}'".to_owned(),
        (_, "text") => "'other'".to_owned(),
        (_, "boolean") => format!("NOT coalesce({column}, false)"),
        (_, "jsonb") => "'{\"other\": \"1\"}'".to_owned(),
        (_, "timestamp with time zone") => "'2001-01-01'".to_owned(),
        (_, "bigint" | "integer" | "smallint" | "numeric") => format!("coalesce({column}, 0) + 7"),
        (_, "ARRAY") => "ARRAY['other']".to_owned(),
        (column, kind) => panic!("{column} is a {kind}: say here what differs from Stripe's"),
    }
}

/// As differences name it.
fn label(column: &str) -> String {
    let name = column.strip_prefix("stripe_").unwrap_or(column);
    name.strip_suffix("_id").unwrap_or(name).replace('_', " ")
}

/// An organization with something in every mirrored table, of which webhooks tell no more.
async fn mirrored() -> World {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world
        .stripe
        .use_card(&customer, "pm_card_createDispute")
        .await;
    world.create("enterprise").await.ok();
    world.settle().await;
    world.change_when("standard", "period_end").await.ok();
    world.settle().await;
    let charge = text(&world.stripe.list("/v1/charges", &[]).await[0], "id");
    let refund = [("charge", &*charge), ("amount", "700")];
    world.stripe.post("/v1/refunds", &refund).await;
    world.settle().await;
    world.settled_in_the_background().await;
    world.deliver_nothing().await;
    assert_eq!(kinds(&reconcile(&world, &[]).await), []);
    world
}

/// The names of the fields that differ.
fn fields(ran: &Ran) -> BTreeSet<String> {
    let report = ran.json();
    let drift = report["drift"].as_array().unwrap().iter();
    let differences = drift.flat_map(|one| one["differences"].as_array().unwrap().clone());
    differences
        .map(|difference| {
            let text = difference.as_str().unwrap();
            text.split(':').next().unwrap().to_owned()
        })
        .collect()
}

#[tokio::test]
async fn every_column_that_is_mirrored_is_compared_and_healed() {
    let world = mirrored().await;
    let db = &world.service.db;
    let mut expected = Vec::new();
    for Mirrored(table, prefix, keys) in &TABLES {
        assert!(db.count(table).await > 0, "{table} has a row");
        let compared = columns(db, table).await.into_iter();
        let compared = compared.filter(|(column, _)| {
            !keys.contains(&column.as_str())
                && (!OWN.contains(&column.as_str())
                    // Disputes and payments name the charge, whose key it is.
                    || column == "stripe_charge_id" && *table != "billing_charges")
        });
        let compared: Vec<(String, String)> = compared.collect();
        let set = compared
            .iter()
            .map(|(column, kind)| format!("{column} = {}", other(column, kind)));
        let set: Vec<String> = set.collect();
        db.execute(&format!("UPDATE {table} SET {}", set.join(", ")))
            .await;
        expected.extend(
            compared
                .iter()
                .map(|(column, _)| (*table, *prefix, label(column))),
        );
    }
    let ran = reconcile(&world, &[]).await;
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let found = fields(&ran);
    for (table, prefix, label) in expected {
        let is_named = found.iter().any(|field| {
            field.starts_with(prefix)
                && (*field == label || !prefix.is_empty() && field.ends_with(&format!(" {label}")))
        });
        assert!(is_named, "{table}: {label} is not in {found:#?}");
    }
    let healed = reconcile(&world, &["--apply"]).await;
    assert_eq!(healed.status, 0, "{}", healed.stdout);
    let ran = reconcile(&world, &[]).await;
    assert_eq!((ran.status, kinds(&ran)), (0, vec![]), "{}", ran.stdout);
}

#[tokio::test]
async fn no_mirrored_table_is_left_out() {
    let db = TestDatabase::new().await;
    let mirrored = db
        .value(
            "SELECT string_agg(DISTINCT table_name, ',') FROM information_schema.columns
              WHERE table_schema = 'public' AND column_name = 'tied_event_ids'",
        )
        .await;
    let compared: Vec<&str> = TABLES.iter().map(|Mirrored(table, _, _)| *table).collect();
    // Sessions are compared below; of a deleted draft there is nothing to compare.
    let apart = ["billing_checkout_sessions", "billing_deleted_invoices"];
    for table in mirrored.split(',') {
        assert!(
            compared.contains(&table) || apart.contains(&table),
            "{table} is not compared"
        );
    }
    let session = CheckoutSession::read(&json!({"id": "cs_1"})).unwrap();
    let session = serde_json::to_value(session).unwrap();
    for (column, _) in columns(&db, "billing_checkout_sessions").await {
        assert!(
            OWN.contains(&column.as_str()) || session.get(&column).is_some(),
            "{column} is not compared"
        );
    }
}

#[tokio::test]
async fn a_session_that_stripe_does_not_have_is_a_finding() {
    let world = mirrored().await;
    world
        .service
        .db
        .execute(&format!(
            "INSERT INTO billing_checkout_sessions (organization_id, stripe_checkout_session_id,
               status, livemode, stripe_created_at, last_event_at, last_event_rank, last_event_id,
               tied_event_ids)
             VALUES ('{}', 'cs_gone', 'complete', false, now(), now(), 0, 'evt', ARRAY['evt'])",
            world.organization
        ))
        .await;
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(kinds(&ran), [("checkout_session".into(), false)]);
    let drift = &ran.json()["drift"][0];
    assert_eq!(drift["differences"], json!(["status: complete, none"]));
    assert!(text(drift, "fix").contains("account"), "{drift}");
}

#[tokio::test]
async fn a_default_card_that_no_event_told_of_is_found_and_healed() {
    let world = mirrored().await;
    let customer = world
        .service
        .db
        .value("SELECT stripe_customer_id FROM billing_customers")
        .await;
    world.stripe.use_card(&customer, "pm_card_mastercard").await;
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(
        kinds(&ran),
        [("customer".into(), true), ("payment_method".into(), true)],
        "{}",
        ran.stdout
    );
    assert_eq!(kinds(&reconcile(&world, &[]).await), []);
}

#[tokio::test]
async fn a_discount_that_no_event_told_of_is_found_and_healed() {
    let world = mirrored().await;
    let db = &world.service.db;
    let customer = "SELECT stripe_customer_id FROM billing_customers";
    let customer = db.value(customer).await;
    let terms = [("percent_off", "10"), ("duration", "forever")];
    let tenth = coupon(&world.stripe, &terms).await;
    world.stripe.reduce(&customer, &tenth).await;
    // Whether an event has shown the customer since discounts are mirrored or not.
    for forgotten in [
        "",
        "discount_ids = NULL, tax_located = NULL, tax_country = NULL,",
    ] {
        db.execute(&format!(
            "UPDATE billing_customers SET {forgotten} last_event_at = now() - interval '1 hour'"
        ))
        .await;
        let ran = reconcile(&world, &["--apply"]).await;
        assert_eq!(kinds(&ran), [("customer".into(), true)], "{}", ran.stdout);
        let differences = ran.json()["drift"][0]["differences"].to_string();
        assert!(differences.contains("discount ids: "), "{differences}");
        assert_eq!(kinds(&reconcile(&world, &[]).await), []);
        let discounts = world.current().await["discounts"].clone();
        assert_eq!(discounts[0]["scope"], "customer", "{discounts}");
    }
}

/// Those of before were read without them.
#[tokio::test]
async fn what_was_mirrored_before_discounts_is_no_difference() {
    let world = mirrored().await;
    let db = &world.service.db;
    db.execute(
        "UPDATE billing_customers
            SET discount_ids = NULL, tax_located = NULL, tax_country = NULL;
         UPDATE billing_invoices SET discount_amount = NULL, included_tax_amount = NULL",
    )
    .await;
    let ran = reconcile(&world, &[]).await;
    assert_eq!((ran.status, kinds(&ran)), (0, vec![]), "{}", ran.stdout);
    // Lines have no such times of before.
    db.execute("UPDATE billing_invoice_items SET discount_amount = 7")
        .await;
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(kinds(&ran), [("invoice".into(), true)], "{}", ran.stdout);
    let unread = "billing_invoices WHERE discount_amount IS NULL";
    assert_eq!(db.count(unread).await, 0);
}

#[tokio::test]
async fn what_stripe_keeps_failing_for_hides_nothing_else() {
    let world = mirrored().await;
    let db = &world.service.db;
    for path in [
        "/v1/customers/*/payment_methods",
        "/v1/subscription_schedules/*",
    ] {
        db.execute("UPDATE billing_invoices SET tax_amount = 1")
            .await;
        let fault = [("fault", "server_error"), ("every", "1"), ("path", path)];
        world.stripe.fault(&fault).await;
        let ran = reconcile(&world, &["--apply"]).await;
        world.stripe.clear_faults().await;
        assert_eq!(ran.status, 1, "{path}: {}", ran.stderr);
        assert_eq!(
            kinds(&ran),
            [("invoice".into(), true), ("unreadable".into(), false)],
            "{path}: {}",
            ran.stdout
        );
        assert_eq!(ran.json()["complete"], true);
        // Something was not compared.
        let failed = "billing_job_runs WHERE job = 'reconciliation' AND NOT succeeded";
        assert!(db.count(failed).await > 0);
    }
    // What differs cannot be fetched.
    db.execute(
        "UPDATE billing_invoices SET tax_amount = 1; UPDATE billing_customers SET currency = 'eur'",
    )
    .await;
    let fault = [
        ("fault", "server_error"),
        ("every", "1"),
        ("path", "/v1/invoices/*"),
    ];
    world.stripe.fault(&fault).await;
    let ran = reconcile(&world, &["--apply"]).await;
    world.stripe.clear_faults().await;
    assert_eq!(
        kinds(&ran),
        [("invoice".into(), false), ("customer".into(), true)],
        "{}",
        ran.stdout
    );
    let differences = ran.json()["drift"][0]["differences"].to_string();
    assert!(differences.contains("not healed: "), "{differences}");
}

#[tokio::test]
async fn what_was_healed_is_told_though_stripe_goes_away() {
    let world = mirrored().await;
    let db = &world.service.db;
    db.execute("UPDATE billing_invoices SET tax_amount = 1")
        .await;
    let fault = [
        ("fault", "rate_limit"),
        ("every", "1"),
        ("path", "/v1/customers/*/payment_methods"),
    ];
    world.stripe.fault(&fault).await;
    let ran = reconcile(&world, &["--apply"]).await;
    world.stripe.clear_faults().await;
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert_eq!(kinds(&ran), [("invoice".into(), true)]);
    assert_eq!(ran.json()["complete"], false);
}

/// A gauge of the service, once its probes have read the database.
async fn measured(serving: &Serving, series: &str, wanted: &str) {
    let client = valuecanvas_billing::http_client::direct_client().unwrap();
    let line = format!("{series} {wanted}");
    let mut metrics = String::new();
    for _ in 0..600 {
        let scrape = client.get(format!("{}/metrics", serving.base)).send();
        metrics = scrape.await.unwrap().text().await.unwrap();
        if metrics.lines().any(|one| one == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let of_drift = metrics.lines().filter(|one| one.contains("drift"));
    panic!("{line}: {:#?}", Vec::from_iter(of_drift));
}

#[tokio::test]
async fn drift_is_logged_and_measured_until_it_is_healed() {
    let world = mirrored().await;
    let db = &world.service.db;
    let serving = Serving::on(db);
    let series = "billing_reconciliation_drift{kind=\"invoice\"}";
    measured(&serving, series, "0").await;
    db.execute("UPDATE billing_invoices SET tax_amount = 1")
        .await;
    let ran = reconcile(&world, &[]).await;
    let line = |ran: &Ran| {
        let lines = ran.stderr.lines().map(str::to_owned);
        let mut entries = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        entries.find(|entry| entry["message"] == "Our state differs from Stripe's")
    };
    let entry = line(&ran).unwrap_or_else(|| panic!("{}", ran.stderr));
    assert_eq!(
        (&entry["kind"], &entry["fields"], &entry["healed"]),
        (&json!("invoice"), &json!("tax amount"), &json!(false))
    );
    assert_eq!(
        entry["organization_id"],
        json!(world.organization.to_string())
    );
    measured(&serving, series, "1").await;
    // Drift is what the run is for, and no failure of it.
    let run = "billing_job_runs WHERE job = 'reconciliation' AND succeeded";
    assert!(db.count(run).await > 0);
    let ran = reconcile(&world, &["--apply"]).await;
    assert_eq!(line(&ran).unwrap()["healed"], json!(true));
    measured(&serving, series, "0").await;
    assert_eq!(serving.terminated().await.status, 0);
}
