//! Events of a megabyte: a backlog of them takes no more memory than a few.

use serde_json::{Value, json};

use crate::support::TestService;
use crate::support::events::{event, invoice, sign};
use crate::support::floods::memory_mib;
use crate::support::serving::{Serving, serve_on};

/// What two workers' batches may cost, in a debug build too.
const COST_MIB: u64 = 120;

/// An invoice of about a megabyte, of which much is made: 4,000 lines.
fn large(number: usize) -> Value {
    let mut object = invoice(&format!("in_{number}"), "cus_1", "sub_1", "open");
    let lines: Vec<Value> = (0..4_000)
        .map(|line| {
            json!({
                "id": format!("il_{number}_{line}"), "object": "line_item", "amount": 100,
                "currency": "usd", "description": "d".repeat(60), "quantity": 1,
                "metadata": {}, "discounts": [], "taxes": [], "livemode": false,
                "period": {"start": 100, "end": 200}
            })
        })
        .collect();
    object["lines"] = json!({"object": "list", "has_more": false, "data": lines});
    event(&format!("evt_{number}"), "invoice.updated", 100, object)
}

#[tokio::test]
async fn a_backlog_of_large_events_is_processed_a_few_at_a_time() {
    let mut service = TestService::intake_only().await;
    service.db.organization("cus_1").await;
    let count = std::env::var("VCB_LARGE_EVENTS")
        .map_or(30, |count| count.parse().expect("a number of events"));
    for number in 0..count {
        let body = large(number).to_string();
        let kib = body.len() / 1024;
        assert!((800..1_024).contains(&kib), "{kib} KiB");
        let reply = service
            .deliver_raw(body.clone(), &sign(body.as_bytes()))
            .await;
        assert_eq!(reply.status(), 200);
    }
    let db = service.db.clone();
    service.stop().await;

    let serving = Serving::start(serve_on(&db).env("WORKER_CONCURRENCY", "2"));
    let before = memory_mib(serving.pid(), "VmRSS");
    while db.count("webhook_events WHERE NOT processed").await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(db.count("billing_invoices").await, count as i64);
    let most = memory_mib(serving.pid(), "VmHWM");
    assert!(most <= before + COST_MIB, "{before} MiB became {most} MiB");
}
