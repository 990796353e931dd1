//! CloudEvents in binary mode: the attributes are headers, the body is the data.

use serde_json::{Value, json};

use super::tenant::{Answer, EVENTS, Tenant};
use crate::support::TestService;
use crate::support::libraries::{LANGUAGES, ask};

async fn send(
    service: &TestService,
    tenant: &Tenant,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let request = service.post(EVENTS).bearer_auth(&tenant.key);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    Answer::of(request.body(body.to_owned()).send().await.unwrap()).await
}

const EVENT: [(&str, &str); 5] = [
    ("content-type", "application/json; charset=utf-8"),
    ("ce-specversion", "1.0"),
    ("ce-id", "Euro%20%E2%82%AC"),
    ("ce-source", "/app"),
    ("ce-type", "api_calls"),
];

#[tokio::test]
async fn attributes_are_headers_and_percent_decoded() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Binary").await;
    let answer = send(&service, &tenant, &EVENT, r#"{"quantity": 3}"#)
        .await
        .ok();
    assert_eq!(answer["id"], "Euro €");
    // The same event, in structured mode.
    let structured = json!({"specversion": "1.0", "id": "Euro €", "source": "/app",
                            "type": "api_calls", "data": {"quantity": 3}});
    let kind = "application/cloudevents+json";
    let again = tenant
        .post_raw(&service, EVENTS, kind, structured.to_string())
        .await;
    assert_eq!(again.ok()["status"], "duplicate");
    let at = "2020-01-01T00:00:00Z";
    let late = [&EVENT[..], &[("ce-id", "2"), ("ce-time", at)]].concat();
    let twice = send(&service, &tenant, &late, r#"{"quantity": 3}"#).await;
    assert_eq!(
        twice.problem(),
        (400, "invalid_cloud_event"),
        "an id that came twice"
    );
    let late: Vec<_> = late
        .into_iter()
        .filter(|header| *header != EVENT[2])
        .collect();
    let late = send(&service, &tenant, &late, r#"{"quantity": 3}"#).await;
    assert_eq!(late.problem(), (422, "period_closed"), "its time was read");
    for (without, body, code) in [
        ("ce-id", r#"{"quantity": 1}"#, "invalid_cloud_event"),
        ("ce-source", r#"{"quantity": 1}"#, "invalid_cloud_event"),
        ("", "", "invalid_event"),
        ("", "nonsense", "invalid_json"),
        ("", r#"[{"quantity": 1}]"#, "invalid_event"),
    ] {
        let headers: Vec<_> = EVENT
            .into_iter()
            .filter(|(name, _)| *name != without)
            .collect();
        let answer = send(&service, &tenant, &headers, body).await;
        assert_eq!(answer.problem(), (400, code), "{without} {body}");
    }
    assert_eq!(tenant.total(&service, "api_calls").await, "3");
}

#[tokio::test]
async fn what_cloud_events_libraries_send_in_binary_mode_is_counted() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Foreign").await;
    for language in LANGUAGES {
        let event = json!({"id": format!("{language} 1"), "source": "/app",
                           "type": "com.example.used",
                           "data": {"metric": "api_calls", "quantity": 7}});
        let request = json!({"action": "encode", "event": event, "binaryMode": true});
        let encoded = ask(language, "usage", &request).expect("it encodes");
        let encoded: Value = serde_json::from_str(&encoded).unwrap();
        let headers = encoded["headers"].as_object().unwrap();
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            .collect();
        let body = encoded["body"].as_str().unwrap();
        let answer = send(&service, &tenant, &headers, body).await;
        assert_eq!(answer.ok()["status"], "recorded", "{language}: {headers:?}");
    }
    assert_eq!(tenant.total(&service, "api_calls").await, "14");
}
