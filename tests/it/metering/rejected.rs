//! Usage that Stripe accepted and rejected afterwards: it is found, and told again.

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::metering::reports;

use super::billed::Billed;
use crate::support::program::run_on;

async fn told(metric: &str, quantity: &str) -> Billed {
    let billed = Billed::start().await;
    billed.record("a", metric, quantity).await;
    assert_eq!(billed.report(Timestamp::now()).await.sent, 1);
    billed
}

/// Stripe rejects the newest report, and says so. Returns the event.
async fn reject(billed: &Billed) -> Value {
    let newest = "SELECT identifier FROM usage_reports ORDER BY created_at DESC LIMIT 1";
    let identifier = billed.service().db.value(newest).await;
    let path = format!("/_sandbox/meter_events/{identifier}/reject");
    let code = [("code", "meter_event_customer_not_found")];
    let event = billed.world.stripe.post(&path, &code).await;
    billed.service().deliver(&event).await;
    billed.service().settle().await;
    event
}

async fn explain(billed: &Billed) {
    let pool = billed.service().db.service_pool();
    reports::explain_new(&pool, &billed.client).await.unwrap();
}

#[tokio::test]
async fn usage_that_stripe_rejects_is_found_and_told_again() {
    for (metric, quantity, over) in [("api_calls", 300_000, 200_000), ("storage_gb", 150, 50)] {
        let billed = told(metric, &quantity.to_string()).await;
        assert_eq!(billed.in_stripe(metric).await, quantity);
        let event = reject(&billed).await;
        assert_eq!(billed.in_stripe(metric).await, 0);
        explain(&billed).await;
        // Asking again, and a second delivery, change nothing.
        billed.service().deliver(&event).await;
        explain(&billed).await;
        let report = billed.report(Timestamp::now()).await;
        assert_eq!(report.sent, 0);
        let found: Vec<_> = report
            .unbilled
            .iter()
            .map(|found| found.reason.as_str())
            .collect();
        assert_eq!(found, ["rejected"], "{metric}");
        assert_eq!(report.unbilled[0].units.0, over.into(), "{metric}");

        let db = &billed.service().db;
        let ran = run_on(db, &["usage", "rejected", "--json"]).await;
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(ran.json()[0]["count"], 1);
        assert_eq!(
            ran.json()[0]["errors"][0]["code"],
            "meter_event_customer_not_found"
        );
        let ran = run_on(db, &["doctor", "--json"]).await;
        let checks = ran.json();
        let mut checks = checks.as_array().unwrap().iter();
        let check = checks
            .find(|check| check["name"] == "rejected usage")
            .unwrap();
        assert_eq!(check["verdict"], "failed");

        let ran = run_on(db, &["usage", "rejected", "--tell-again"]).await;
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(
            run_on(db, &["usage", "rejected", "--json"]).await.json(),
            json!([])
        );
        let report = billed.report(Timestamp::now()).await;
        assert_eq!((report.sent, report.unbilled.len()), (1, 0), "{metric}");
        assert_eq!(billed.in_stripe(metric).await, quantity);
        assert_eq!(billed.report(Timestamp::now()).await.sent, 0);
    }
}

#[tokio::test]
async fn an_event_that_stripe_does_not_explain_stays_to_be_seen() {
    let billed = Billed::start().await;
    let thin = json!({"id": "evt_unknown", "object": "v2.core.event", "livemode": false,
                      "created": "2026-01-01T00:00:00Z", "type": "v1.billing.meter.no_meter_found"});
    let db = &billed.service().db;
    billed.service().deliver(&thin).await;
    billed.service().settle().await;
    // It occurred when it came: a thin event says it in another form.
    explain(&billed).await;
    let ran = run_on(db, &["usage", "rejected", "--json"]).await;
    let listed = ran.json();
    assert_eq!(listed[0]["eventId"], "evt_unknown");
    assert!(
        listed[0]["problem"]
            .as_str()
            .unwrap()
            .contains("No such event"),
        "{listed}"
    );
    let outcome = "SELECT outcome FROM webhook_events WHERE stripe_event_id = 'evt_unknown'";
    assert_eq!(db.value(outcome).await, "applied");
}
