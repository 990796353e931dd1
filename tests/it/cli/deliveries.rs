//! What comes to the endpoint and is not taken, or is another's: counted,
//! logged, and found by `doctor`.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use valuecanvas_billing::stripe::signature::{self, SigningSecret};

use crate::stripe::Stripe;
use crate::support::TestDatabase;
use crate::support::TestService;
use crate::support::events::{event, sign, subscription};
use crate::support::program::{Ran, program_on, program_with_stripe, run_beside, run_on};
use crate::support::service::{Options, WEBHOOKS, processor};
use crate::support::serving::{Serving, entries};
use crate::webhooks::workbench::rows;

async fn doctor(db: &TestDatabase, stripe: Option<&Stripe>) -> Ran {
    let mut command = program_on(db, &["doctor", "--json"]);
    if let Some(stripe) = stripe {
        command
            .env("STRIPE_SECRET_KEY", "sk_test_secret")
            .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
            .env("STRIPE_API_BASE", stripe.sandbox.url());
    }
    run_beside(command).await
}

fn verdict(ran: &Ran, name: &str) -> Value {
    let checks = ran.json();
    let mut checks = checks.as_array().unwrap().iter();
    let check = checks.find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("{name}: {}", ran.stdout))["verdict"].clone()
}

async fn send(base: &str, body: &str, signature: &str) -> u16 {
    let request = valuecanvas_billing::http_client::direct_client()
        .unwrap()
        .post(format!("{base}{WEBHOOKS}"))
        .header("stripe-signature", signature);
    request
        .body(body.to_owned())
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

fn updated(id: &str) -> Value {
    let object = subscription("sub_1", "cus_1", "active", "standard");
    event(id, "customer.subscription.updated", 100, object)
}

async fn until(db: &TestDatabase, table_and_condition: &str) {
    for _ in 0..1_000 {
        if db.count(table_and_condition).await > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {table_and_condition}");
}

#[tokio::test]
async fn a_wrong_secret_is_seen() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    assert_eq!(
        verdict(&doctor(&db, None).await, "refused deliveries"),
        "ok"
    );
    let body = updated("evt_1").to_string();
    let wrong = signature::sign(
        &SigningSecret::new("whsec_wrong"),
        body.as_bytes(),
        jiff::Timestamp::now().as_second(),
    );
    for _ in 0..5 {
        assert_eq!(send(&serving.base, &body, &wrong).await, 400);
    }
    until(
        &db,
        "webhook_rejections WHERE reason = 'signature_invalid' AND deliveries = 5",
    )
    .await;
    assert_eq!(
        verdict(&doctor(&db, None).await, "refused deliveries"),
        "failed"
    );
    assert_eq!(
        send(&serving.base, &body, &sign(body.as_bytes())).await,
        200
    );
    assert_eq!(
        verdict(&doctor(&db, None).await, "refused deliveries"),
        "warning"
    );

    let metrics = valuecanvas_billing::http_client::direct_client()
        .unwrap()
        .get(format!("{}/metrics", serving.base));
    let text = metrics.send().await.unwrap().text().await.unwrap();
    for series in [
        "stripe_webhook_deliveries_total{result=\"signature_invalid\"} 5",
        "stripe_webhook_deliveries_total{result=\"payload_invalid\"} 0",
    ] {
        assert!(text.contains(series), "{series}");
    }
    let ran = serving.terminated().await;
    let told = entries(
        &ran.stderr,
        "Webhook deliveries refused; `doctor` says what to do",
    );
    let counted: u64 = told
        .iter()
        .map(|line| line["deliveries"].as_u64().unwrap())
        .sum();
    assert_eq!(
        (told[0]["reason"].as_str(), counted),
        (Some("signature_invalid"), 5)
    );
}

#[tokio::test]
async fn what_was_backfilled_was_not_delivered() {
    let (service, stripe) = (TestService::intake_only().await, Stripe::start().await);
    stripe.post("/v1/customers", &[("name", "Ada")]).await;
    let backfill = program_with_stripe(
        &service.db,
        &stripe.sandbox.url(),
        &["webhooks", "backfill", "--since", "2h"],
    );
    let ran = run_beside(backfill).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(service.db.count("webhook_events").await, 1);
    let ran = doctor(&service.db, Some(&stripe)).await;
    assert_eq!(verdict(&ran, "last delivery"), "warning");

    // As a dead letter, and brought back, it is still the backfill's.
    let db = &service.db;
    db.execute("UPDATE webhook_events SET event_type = 'invoice.paid', payload = '{\"data\": 7}'")
        .await;
    processor(db).process_due(None).await.unwrap();
    assert_eq!(db.count("webhook_dead_letter_queue").await, 1);
    let ran = doctor(db, Some(&stripe)).await;
    assert_eq!(verdict(&ran, "last delivery"), "warning");
    let id = db
        .value("SELECT stripe_event_id FROM webhook_dead_letter_queue")
        .await;
    let ran = run_on(db, &["webhooks", "discard", &id]).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(
        db.count("webhook_events WHERE source = 'backfill' AND outcome = 'discarded'")
            .await,
        1
    );
    assert_eq!(db.count("webhook_dead_letter_sources").await, 0);

    service.deliver(&updated("evt_1")).await;
    let ran = doctor(&service.db, Some(&stripe)).await;
    assert_eq!(verdict(&ran, "last delivery"), "ok");
    let thin = json!({"id": "evt_2", "object": "v2.core.event", "created": "2026-01-01T00:00:00Z",
                      "type": "v1.customer.created"});
    service.deliver(&thin).await;
    let ran = doctor(&service.db, Some(&stripe)).await;
    assert_eq!(verdict(&ran, "last delivery"), "warning");
}

#[tokio::test]
async fn an_account_that_is_not_the_keys_is_foreign_whichever_field_names_it() {
    let stripe = Stripe::start().await;
    let ours = stripe.client().account().await.unwrap().body["id"].clone();
    let api = valuecanvas_billing::config::StripeApi {
        base: stripe.sandbox.url().parse().unwrap(),
        key: valuecanvas_billing::stripe::client::SecretKey::new("sk_test_secret"),
        patience: valuecanvas_billing::stripe::client::Patience::default(),
    };
    let service = TestService::with(Options {
        stripe_api: Some(api),
        ..Options::default()
    })
    .await;
    service.db.organization("cus_1").await;
    let path = format!("org_1/{}", ours.as_str().unwrap());
    for (id, fields) in [
        ("evt_account", json!({"account": "acct_other"})),
        (
            "evt_both",
            json!({"account": ours, "context": "acct_other"}),
        ),
        ("evt_context", json!({"context": "acct_other"})),
        ("evt_number", json!({"account": 7})),
        ("evt_object", json!({"context": {"id": ours}})),
        ("evt_ours", json!({"account": ours, "context": path})),
        ("evt_ours_by_context", json!({"context": path})),
        (
            "evt_path",
            json!({"context": format!("{}/acct_other", ours.as_str().unwrap())}),
        ),
        ("evt_long", json!({"account": "x".repeat(300)})),
    ] {
        let mut event = updated(id);
        event
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        service.deliver(&event).await;
    }
    service.settle().await;
    let applied = rows(
        &service.db,
        "SELECT stripe_event_id AS id, outcome FROM webhook_events
          WHERE outcome <> 'foreign_account' ORDER BY 1",
    )
    .await;
    let applied: Vec<&str> = applied
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["id"].as_str().unwrap())
        .collect();
    assert_eq!(applied, ["evt_ours", "evt_ours_by_context"]);
    assert_eq!(
        service
            .db
            .count("webhook_events WHERE outcome = 'foreign_account'")
            .await,
        7
    );
}

#[tokio::test]
async fn an_event_that_comes_again_with_another_content_is_told_of() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let first = updated("evt_1");
    let mut again = first.clone();
    again["pending_webhooks"] = json!(3);
    let mut altered = first.clone();
    altered["data"]["object"]["status"] = json!("canceled");
    for event in [&first, &again, &altered] {
        let body = event.to_string();
        assert_eq!(
            send(&serving.base, &body, &sign(body.as_bytes())).await,
            200
        );
    }
    // The writer looks at it after its answer.
    let body = updated("evt_2").to_string();
    send(&serving.base, &body, &sign(body.as_bytes())).await;
    let ran = serving.terminated().await;
    let told = entries(
        &ran.stderr,
        "An event was delivered again with different content; the first one counts",
    );
    assert_eq!(told.len(), 1, "{}", ran.stderr);
    assert_eq!(told[0]["event_id"], "evt_1");
}

#[tokio::test]
async fn no_log_line_is_lost_at_the_end() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let sending = (0..400).map(|n| {
        let body = updated(&format!("evt_{n:03}")).to_string();
        let base = serving.base.clone();
        async move { assert_eq!(send(&base, &body, &sign(body.as_bytes())).await, 200) }
    });
    futures_util::future::join_all(sending).await;
    serving.signal(Signal::TERM);
    let ran = serving.ended().await;
    let mut ids: Vec<String> = entries(&ran.stderr, "Webhook received")
        .iter()
        .map(|line| line["event_id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    let expected: Vec<String> = (0..400).map(|n| format!("evt_{n:03}")).collect();
    assert_eq!(ids, expected);
}
