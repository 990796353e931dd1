//! Usage events: durable, once each, exact, and told apart.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::tenant::{Answer, CHECK, EVENTS, Tenant};
use crate::support::TestService;
use crate::support::libraries::{LANGUAGES, ask};

fn event(id: &str, metric: &str, quantity: impl Into<Value>) -> Value {
    json!({"id": id, "metric": metric, "quantity": quantity.into()})
}

async fn tenant() -> (TestService, Tenant) {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Metered").await;
    (service, tenant)
}

#[tokio::test]
async fn an_event_counts_once_by_its_id() {
    let (service, tenant) = tenant().await;
    let first = event("a", "api_calls", "0.2501");
    let answer = tenant.post(&service, EVENTS, &first).await.ok();
    assert_eq!(answer, json!({"id": "a", "status": "recorded"}));
    let again = tenant.post(&service, EVENTS, &first).await.ok();
    assert_eq!(again["status"], "duplicate");
    // The same number in other clothes is the same content.
    let number = tenant
        .post_raw(
            &service,
            EVENTS,
            "application/json",
            r#"{"quantity":0.2501,"id":"a","metric":"api_calls"}"#,
        )
        .await;
    assert_eq!(number.ok()["status"], "duplicate");
    for other in [
        event("a", "api_calls", "0.2502"),
        event("a", "llm_tokens", "0.2501"),
        json!({"id": "a", "metric": "api_calls", "quantity": "0.2501", "metadata": {"x": 1}}),
        json!({"id": "a", "metric": "api_calls", "quantity": "0.2501",
               "occurredAt": Timestamp::now()}),
    ] {
        let answer = tenant.post(&service, EVENTS, &other).await;
        assert_eq!(answer.problem(), (409, "event_id_reused"), "{other}");
    }
    assert_eq!(tenant.total(&service, "api_calls").await, "0.2501");
    assert_eq!(service.db.count("usage_events").await, 1);
    // Another organization's ids are its own.
    let other = Tenant::of(&service, "Other").await;
    let theirs = other.post(&service, EVENTS, &first).await.ok();
    assert_eq!(theirs["status"], "recorded");
    assert_eq!(
        other.usage(&service, "api_calls").await["usage"],
        json!(0.2501)
    );
}

#[tokio::test]
async fn a_faulty_event_does_not_spoil_its_batch() {
    let (service, tenant) = tenant().await;
    tenant
        .post(&service, EVENTS, &event("old", "api_calls", 1))
        .await
        .ok();
    let batch = json!([
        event("a", "api_calls", 1),
        event("a", "api_calls", 1),
        event("a", "api_calls", 2),
        event("old", "api_calls", 1),
        event("old", "api_calls", 5),
        event("b", "nothing", 1),
        event("c", "api_calls", -1),
        {"id": "d", "metric": "api_calls", "quantity": 1, "organizationId": "x"},
        event("e", "llm_tokens", "12.5"),
        "text",
        {"metric": "api_calls", "quantity": 1},
        {"id": "f", "metric": "api_calls", "quantity": 1, "occurredAt": "9999-12-30T00:00:00Z"},
        {"id": "g", "metric": "api_calls", "quantity": 1, "occurredAt": "2020-01-01T00:00:00Z"},
    ]);
    for body in [batch.clone(), json!({"events": batch})] {
        let answer = tenant.post(&service, EVENTS, &body).await.ok();
        let results = answer["results"].as_array().unwrap();
        let told: Vec<String> = results
            .iter()
            .map(|result| {
                let id = result["id"].as_str().unwrap_or("-");
                let code = result["code"].as_str().or(result["status"].as_str());
                format!("{id} {}", code.unwrap())
            })
            .collect();
        let first = if answer["recorded"] == 2 {
            "recorded"
        } else {
            "duplicate"
        };
        assert_eq!(
            told,
            [
                format!("a {first}"),
                "a duplicate".to_owned(),
                "a event_id_reused".to_owned(),
                "old duplicate".to_owned(),
                "old event_id_reused".to_owned(),
                "b unknown_metric".to_owned(),
                "c invalid_quantity".to_owned(),
                "d unknown_field".to_owned(),
                format!("e {first}"),
                "- invalid_event".to_owned(),
                "- invalid_event".to_owned(),
                "f occurred_in_future".to_owned(),
                "g period_closed".to_owned(),
            ]
        );
    }
    assert_eq!(tenant.total(&service, "api_calls").await, "2");
    assert_eq!(tenant.total(&service, "llm_tokens").await, "12.5");
}

#[tokio::test]
async fn bad_input_is_told_what_is_wrong_and_counts_nothing() {
    let (service, tenant) = tenant().await;
    let long = "1".repeat(25);
    let raw =
        |quantity: &str| format!(r#"{{"id":"x","metric":"api_calls","quantity":{quantity}}}"#);
    let many: Vec<Value> = (0..1_001)
        .map(|n| event(&n.to_string(), "api_calls", 1))
        .collect();
    for (body, status, code) in [
        (raw("-1"), 400, "invalid_quantity"),
        (raw("1e309"), 400, "invalid_quantity"),
        (raw("NaN"), 400, "invalid_json"),
        (raw("\"NaN\""), 400, "invalid_quantity"),
        (raw("\"ten\""), 400, "invalid_quantity"),
        (raw(&long), 400, "invalid_quantity"),
        (raw("0.00001"), 400, "invalid_quantity"),
        (
            raw("1").replace("api_calls", "bananas"),
            400,
            "unknown_metric",
        ),
        (raw("1").replace("\"x\"", "\"\""), 400, "invalid_id"),
        (raw("1").replace("\"x\"", "\"\\n\""), 400, "invalid_id"),
        ("[]".to_owned(), 400, "empty_batch"),
        ("{\"events\":5}".to_owned(), 400, "invalid_batch"),
        ("7".to_owned(), 400, "invalid_event"),
        ("".to_owned(), 400, "invalid_json"),
        (json!(many).to_string(), 413, "batch_too_large"),
        (
            r#"{"id":"x","metric":"api_calls","quantity":1,"occurredAt":"2026-11-23T10:00:00"}"#
                .to_owned(),
            400,
            "invalid_time",
        ),
        (
            r#"{"id":"x","metric":"api_calls","quantity":1,"occurredAt":"9999-12-30T00:00:00Z"}"#
                .to_owned(),
            422,
            "occurred_in_future",
        ),
    ] {
        let answer = tenant
            .post_raw(&service, EVENTS, "application/json", body.clone())
            .await;
        assert_eq!(answer.problem(), (status, code), "{body:.200}");
    }
    let text = tenant
        .post_raw(&service, EVENTS, "text/plain", raw("1"))
        .await;
    assert_eq!(text.problem(), (415, "unsupported_media_type"));
    assert_eq!(service.db.count("usage_events").await, 0);
    assert_eq!(service.db.count("usage_totals").await, 0);
}

/// Twenty digits may all stand before the point, wherever a quantity is kept.
#[tokio::test]
async fn the_largest_quantities_are_counted_and_held() {
    let (service, tenant) = tenant().await;
    let digits = "12345678901234567890";
    let largest = event("a", "api_calls", digits);
    let answer = tenant.post(&service, EVENTS, &largest).await.ok();
    assert_eq!(answer["status"], "recorded");
    let again = tenant.post(&service, EVENTS, &largest).await.ok();
    assert_eq!(again["status"], "duplicate");
    assert_eq!(tenant.total(&service, "api_calls").await, digits);
    let check = json!({"metric": "llm_tokens", "quantity": digits, "consume": true, "id": "b"});
    let answer = tenant.post(&service, CHECK, &check).await.ok();
    assert_eq!(answer["allowed"], true);
    assert_eq!(tenant.total(&service, "llm_tokens").await, digits);
    for table in ["usage_events", "usage_reservations"] {
        let column = format!(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
              WHERE attrelid = '{table}'::regclass AND attname = 'quantity'"
        );
        assert_eq!(service.db.value(&column).await, "numeric(24,4)", "{table}");
    }
    // The total has an end of its own, and says so.
    for n in 0..7 {
        let more = event(&n.to_string(), "api_calls", digits);
        tenant.post(&service, EVENTS, &more).await.ok();
    }
    let more = tenant
        .post(&service, EVENTS, &event("z", "api_calls", digits))
        .await;
    assert_eq!(more.problem(), (422, "total_too_large"));
}

#[tokio::test]
async fn a_header_names_no_organization() {
    let (service, tenant) = tenant().await;
    let other = service.organization("Other").await;
    let request = service
        .post(EVENTS)
        .bearer_auth(&tenant.key)
        .header("x-organization-id", other.to_string())
        .header("x-tenant-id", other.to_string())
        .json(&event("a", "api_calls", 1));
    Answer::of(request.send().await.unwrap()).await.ok();
    let owner = service
        .db
        .value("SELECT organization_id FROM usage_events")
        .await;
    assert_eq!(owner, tenant.organization.to_string());
}

#[tokio::test]
async fn cloud_events_are_counted_structured_and_batched() {
    let (service, tenant) = tenant().await;
    let cloud = |id: &str| {
        json!({"specversion": "1.0", "id": id, "source": "/app", "type": "com.example.used",
               "time": Timestamp::now().to_string(), "subject": "x",
               "data": {"metric": "llm_tokens", "quantity": 7}})
    };
    let one = tenant
        .post_raw(
            &service,
            EVENTS,
            "application/cloudevents+json",
            cloud("a").to_string(),
        )
        .await;
    assert_eq!(one.ok()["status"], "recorded");
    let batch = json!([cloud("b"), {"specversion": "0.3", "id": "c", "source": "/", "type": "t",
                                    "data": {"quantity": 1}}]);
    let kind = "application/cloudevents-batch+json; charset=utf-8";
    let answer = tenant
        .post_raw(&service, EVENTS, kind, batch.to_string())
        .await
        .ok();
    assert_eq!(
        (&answer["recorded"], &answer["rejected"]),
        (&json!(1), &json!(1))
    );
    let not_a_batch = tenant
        .post_raw(&service, EVENTS, kind, cloud("d").to_string())
        .await;
    assert_eq!(not_a_batch.problem(), (400, "invalid_batch"));
    assert_eq!(tenant.total(&service, "llm_tokens").await, "14");
}

#[tokio::test]
async fn a_gauge_is_never_summed() {
    let (service, tenant) = tenant().await;
    let at = |mins: i64| Timestamp::now() - SignedDuration::from_mins(mins);
    for (id, level, time) in [("a", 2, at(0)), ("b", 40, at(3)), ("c", 30, at(2))] {
        let body = json!({"id": id, "metric": "storage_gb", "quantity": level, "occurredAt": time});
        tenant.post(&service, EVENTS, &body).await.ok();
    }
    assert_eq!(tenant.total(&service, "storage_gb").await, "2");
}

#[tokio::test]
async fn a_batch_of_a_thousand_adds_up() {
    let (service, tenant) = tenant().await;
    let batch: Vec<Value> = (0..1_000)
        .map(|n| event(&format!("e{n}"), "llm_tokens", format!("{n}.0001")))
        .collect();
    let answer = tenant.post(&service, EVENTS, &json!(batch)).await.ok();
    assert_eq!(answer["recorded"], 1_000);
    assert_eq!(tenant.total(&service, "llm_tokens").await, "499500.1");
    let usage = tenant.usage(&service, "llm_tokens").await;
    assert_eq!(usage["usage"], json!(499_500.1));
    assert_eq!(
        service
            .metric("usage_events_total{result=\"recorded\"}")
            .await,
        Some(1_000)
    );
}

#[tokio::test]
async fn what_cloud_events_libraries_send_is_counted() {
    let (service, tenant) = tenant().await;
    for (n, language) in (0_i64..).zip(LANGUAGES) {
        for (m, binary_data) in (0_i64..).zip([false, true]) {
            let event = json!({"id": format!("{language}-{binary_data}"), "source": "/app",
                "type": "com.example.used", "datacontenttype": "application/json",
                "data": {"metric": "llm_tokens", "quantity": 7}});
            let request = json!({"action": "encode", "event": event, "binaryData": binary_data});
            let encoded = ask(language, "usage", &request).expect("it encodes");
            let encoded: Value = serde_json::from_str(&encoded).unwrap();
            let kind = encoded["contentType"].as_str().unwrap();
            let body = encoded["body"].as_str().unwrap();
            let answer = tenant
                .post_raw(&service, EVENTS, kind, body.to_owned())
                .await;
            assert_eq!(answer.ok()["status"], "recorded", "{language}: {body}");
            let total = (7 * (2 * n + m + 1)).to_string();
            assert_eq!(tenant.total(&service, "llm_tokens").await, total);
        }
    }
}
