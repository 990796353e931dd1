//! Signed delivery in both shapes, with retries.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use stripe_sandbox::webhooks::signature;

use crate::support::{OLD, START, World, text};

type Received = Arc<Mutex<Vec<(String, Bytes)>>>;

/// A receiver that responds with these statuses first, then with 200.
async fn receiver(statuses: &[u16]) -> (String, Received) {
    let received = Received::default();
    let answers = Arc::new(Mutex::new(VecDeque::from(statuses.to_vec())));
    let kept = Arc::clone(&received);
    let router = Router::new().route(
        "/hook",
        post(async move |headers: HeaderMap, body: Bytes| {
            let signature = headers["stripe-signature"]
                .to_str()
                .expect("text")
                .to_owned();
            kept.lock().expect("not poisoned").push((signature, body));
            let status = answers
                .lock()
                .expect("not poisoned")
                .pop_front()
                .unwrap_or(200);
            StatusCode::from_u16(status).expect("a status")
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/hook"), received)
}

fn taken(received: &Received) -> Vec<(String, Bytes)> {
    std::mem::take(&mut received.lock().expect("not poisoned"))
}

fn verify(secret: &str, header: &str, body: &[u8]) {
    let at: i64 = header
        .strip_prefix("t=")
        .and_then(|rest| rest.split(',').next())
        .and_then(|time| time.parse().ok())
        .expect("a time");
    assert_eq!(header, signature::header(secret, at, body));
}

#[tokio::test]
async fn events_arrive_signed_in_the_endpoints_own_shape() {
    let world = World::new().await;
    let (old_url, old_received) = receiver(&[]).await;
    let (new_url, new_received) = receiver(&[]).await;
    let all = ("enabled_events[]", "*");
    let old = world
        .post(
            "/v1/webhook_endpoints",
            &[("url", &old_url), all, ("api_version", OLD)],
        )
        .await
        .ok();
    let new = world
        .post("/v1/webhook_endpoints", &[("url", &new_url), all])
        .await
        .ok();
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    world.subscribe(&customer, &price, "classic").await;
    world.sandbox.deliveries_settled().await;
    let (old_events, new_events) = (taken(&old_received), taken(&new_received));
    assert_eq!(old_events.len(), world.event_types().await.len());
    assert_eq!(old_events.len(), new_events.len());
    let find = |events: &[(String, Bytes)], endpoint: &Value, kind: &str| -> Value {
        let mut found = Value::Null;
        for (header, body) in events {
            verify(&text(endpoint, "secret"), header, body);
            let event: Value = serde_json::from_slice(body).expect("JSON");
            if event["type"] == kind {
                found = event;
            }
        }
        found
    };
    let before = find(&old_events, &old, "invoice.paid");
    assert_eq!(before["api_version"], OLD);
    assert!(before["data"]["object"]["subscription"].is_string());
    let after = find(&new_events, &new, "invoice.paid");
    assert!(after["data"]["object"]["parent"]["subscription_details"]["subscription"].is_string());
    let change = find(&new_events, &new, "customer.subscription.updated");
    assert_eq!(
        change["data"]["previous_attributes"]["status"],
        "incomplete"
    );
}

#[tokio::test]
async fn failed_deliveries_are_retried_and_then_abandoned() {
    let world = World::new().await;
    let (url, received) = receiver(&[500, 302]).await;
    world
        .post(
            "/v1/webhook_endpoints",
            &[("url", &url), ("enabled_events[]", "product.created")],
        )
        .await
        .ok();
    world
        .post("/v1/products", &[("name", "Third time lucky")])
        .await
        .ok();
    world.sandbox.deliveries_settled().await;
    let deliveries = taken(&received);
    assert_eq!(deliveries.len(), 3);
    let id = |body: &Bytes| text(&serde_json::from_slice(body).expect("JSON"), "id");
    assert_eq!(
        id(&deliveries[0].1),
        id(&deliveries[2].1),
        "the same event each time"
    );

    let (url, received) = receiver(&[500; 3]).await;
    world
        .post(
            "/v1/webhook_endpoints",
            &[("url", &url), ("enabled_events[]", "product.updated")],
        )
        .await
        .ok();
    let product = world.post("/v1/products", &[("name", "Lost")]).await.ok();
    world
        .post(
            &format!("/v1/products/{}", text(&product, "id")),
            &[("name", "Found")],
        )
        .await
        .ok();
    world.sandbox.deliveries_settled().await;
    assert_eq!(taken(&received).len(), 3);
    let failed = world
        .get("/v1/events", &[("delivery_success", "false")])
        .await
        .ok();
    assert_eq!(failed["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(failed["data"][0]["type"], "product.updated");
    let event = text(&failed["data"][0], "id");
    world
        .post(&format!("/_sandbox/events/{event}/resend"), &[])
        .await
        .ok();
    world.sandbox.deliveries_settled().await;
    assert_eq!(taken(&received).len(), 1);
}

#[tokio::test]
async fn disabled_and_deleted_endpoints_get_nothing() {
    let world = World::new().await;
    let (url, received) = receiver(&[]).await;
    let endpoint = world
        .post(
            "/v1/webhook_endpoints",
            &[("url", &url), ("enabled_events[]", "*")],
        )
        .await
        .ok();
    let path = format!("/v1/webhook_endpoints/{}", text(&endpoint, "id"));
    let disabled = world.post(&path, &[("disabled", "true")]).await.ok();
    assert_eq!(disabled["status"], "disabled");
    assert!(disabled.get("secret").is_none(), "the secret is shown once");
    world
        .post("/v1/products", &[("name", "Unheard")])
        .await
        .ok();
    world.delete(&path, &[]).await.ok();
    world
        .post("/v1/products", &[("name", "Unheard")])
        .await
        .ok();
    world.sandbox.deliveries_settled().await;
    assert_eq!(taken(&received).len(), 0);
    let error = world
        .post(
            "/v1/webhook_endpoints",
            &[("url", "https://example.com"), ("enabled_events[]", "*")],
        )
        .await
        .error(400);
    assert_eq!(error["param"], "url");
}
