//! Traces: from a delivery into its processing, and to a collector.

use std::time::Duration;

use serde_json::Value;

use crate::support::TestDatabase;
use crate::support::events::{self, sign};
#[cfg(feature = "otlp")]
use crate::support::serving::serve_on;
use crate::support::serving::{Serving, entries};
use valuecanvas_billing::http_client;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

async fn deliver(base: &str, id: &str, traceparent: &str) {
    let body = events::event(id, "plan.created", 1, serde_json::json!({"id": "plan_1"}));
    let body = body.to_string();
    let client = http_client::direct_client().unwrap();
    let sent = client
        .post(format!("{base}/api/billing/webhooks/stripe"))
        .header("stripe-signature", sign(body.as_bytes()))
        .header("traceparent", traceparent)
        .body(body);
    assert_eq!(sent.send().await.unwrap().status(), 200);
}

/// The log's entry on the event's processing.
async fn processed(serving: &Serving, id: &str) -> Value {
    loop {
        let of_event = |entry: &Value| entry["event_id"] == id;
        let found = entries(&serving.log(), "Webhook event processed");
        if let Some(entry) = found.into_iter().find(of_event) {
            return entry;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn processing_goes_on_with_the_deliverys_trace() {
    let db = TestDatabase::new().await;
    let serving = Serving::on(&db);
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    deliver(&serving.base, "evt_1", &parent).await;
    deliver(&serving.base, "evt_2", "00-malformed").await;
    assert_eq!(processed(&serving, "evt_1").await["trace_id"], TRACE);
    assert_eq!(processed(&serving, "evt_2").await["trace_id"], Value::Null);
    let kept = "SELECT coalesce(traceparent, 'none') FROM webhook_events WHERE stripe_event_id = ";
    let kept = db.value(&format!("{kept}'evt_1'")).await;
    assert!(kept.contains(TRACE), "{kept}");
}

/// Takes what is exported, until the service has ended.
#[cfg(feature = "otlp")]
#[tokio::test]
async fn spans_reach_a_collector_as_parts_of_one_trace() {
    use std::sync::{Arc, Mutex};

    let exported = Arc::new(Mutex::new(Vec::<u8>::new()));
    let kept = exported.clone();
    let take = async move |body: axum::body::Bytes| {
        kept.lock().unwrap().extend_from_slice(&body);
    };
    let collector = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    let served = valuecanvas_billing::server::serve(listener, collector, stop.clone());
    let served = tokio::spawn(served);

    let db = TestDatabase::new().await;
    let serving = Serving::start(serve_on(&db).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
    deliver(
        &serving.base,
        "evt_1",
        &format!("00-{TRACE}-b7ad6b7169203331-01"),
    )
    .await;
    assert_eq!(processed(&serving, "evt_1").await["trace_id"], TRACE);
    assert_eq!(serving.terminated().await.status, 0);
    stop.cancel();
    served.await.unwrap();

    let exported = exported.lock().unwrap().clone();
    let has = |wanted: &[u8]| exported.windows(wanted.len()).any(|part| part == wanted);
    for wanted in ["request", "process event", "evt_1", "valuecanvas-billing"] {
        assert!(has(wanted.as_bytes()), "{wanted}");
    }
    // The request's span and the processing's are of the caller's trace.
    let trace = hex::decode(TRACE).unwrap();
    let spans = exported.windows(16).filter(|part| *part == trace).count();
    assert!(spans >= 2, "{spans}");
}
