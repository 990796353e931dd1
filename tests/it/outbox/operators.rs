//! Operators manage endpoints and deliveries by the API as they do by commands.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Role;

use super::receiver::{Receiver, Reply, service, until_count};
use crate::support::TestService;

const ENDPOINTS: &str = "/api/operator/event-endpoints";
const DELIVERIES: &str = "/api/operator/event-deliveries";

struct Operator<'a> {
    service: &'a TestService,
    token: String,
}

impl Operator<'_> {
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.service.base);
        let mut request = self
            .service
            .client
            .request(method, url)
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, path, Some(body)).await
    }
}

#[tokio::test]
async fn an_endpoint_lives_by_the_api() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let token = service.token(Uuid::nil(), Role::Operator).await;
    let operator = Operator {
        service: &service,
        token,
    };
    let (status, made) = operator.post(ENDPOINTS, json!({"url": receiver.url})).await;
    assert_eq!(status, 201, "{made}");
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let of = format!("{ENDPOINTS}/{}", made["id"].as_str().unwrap());
    let (_, listed) = operator.ask(Method::GET, ENDPOINTS, None).await;
    assert_eq!(listed["data"][0]["id"], made["id"]);
    assert_eq!(listed["data"][0]["secret"], Value::Null);
    let (_, tested) = operator
        .ask(Method::POST, &format!("{of}/test"), None)
        .await;
    assert_eq!(
        (&tested["delivered"], &tested["responseStatus"]),
        (&json!(true), &json!(200))
    );

    service.organization("Acme").await;
    service.organization("Beta").await;
    until_count(
        &service,
        "outbound_deliveries WHERE status = 'delivered'",
        2,
    )
    .await;
    let (_, first) = operator
        .ask(Method::GET, &format!("{DELIVERIES}?limit=1"), None)
        .await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let next = format!("{DELIVERIES}?limit=1&cursor={cursor}");
    let (_, second) = operator.ask(Method::GET, &next, None).await;
    assert_ne!(first["data"][0]["id"], second["data"][0]["id"]);
    assert_eq!(second["nextCursor"], Value::Null);
    let delivery = first["data"][0]["id"].as_str().unwrap();
    let resend = format!("{DELIVERIES}/{delivery}/resend");
    assert_eq!(operator.ask(Method::POST, &resend, None).await.0, 204);
    receiver.count(4).await;

    let (_, rotated) = operator
        .post(&format!("{of}/rotate"), json!({"overlapHours": 1}))
        .await;
    assert_ne!(rotated["secret"], made["secret"]);
    let (_, disabled) = operator
        .ask(Method::POST, &format!("{of}/disable"), None)
        .await;
    assert_eq!(disabled["status"], "disabled");
    assert_eq!(
        operator
            .ask(Method::POST, &format!("{of}/disable"), None)
            .await
            .0,
        409
    );
    let (_, enabled) = operator
        .ask(Method::POST, &format!("{of}/enable"), None)
        .await;
    assert_eq!(enabled["status"], "enabled");
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    let (_, recovered) = operator.post(&format!("{of}/recover"), since).await;
    assert_eq!(recovered["deliveries"], 0);
    assert_eq!(operator.ask(Method::DELETE, &of, None).await.0, 200);
    assert_eq!(operator.ask(Method::DELETE, &of, None).await.0, 404);
    let by_nobody = "billing_audit_log WHERE action LIKE 'event_%' AND actor_id IS NULL";
    assert_eq!(service.db.count(by_nobody).await, 0);
}

#[tokio::test]
async fn a_private_address_is_refused_by_the_api_as_well() {
    let service = TestService::start().await;
    let token = service.token(Uuid::nil(), Role::Operator).await;
    let operator = Operator {
        service: &service,
        token,
    };
    for url in [
        "http://127.0.0.1:1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/",
        "x",
    ] {
        let (status, problem) = operator.post(ENDPOINTS, json!({"url": url})).await;
        assert_eq!(
            (status, &problem["code"]),
            (422, &json!("invalid_event_endpoint")),
            "{url}"
        );
    }
    let unknown = json!({"url": "https://app.example.com/", "types": ["plan.lost"]});
    assert_eq!(operator.post(ENDPOINTS, unknown).await.0, 422);
    let url = "https://app.example.com/";
    for wrong in [
        json!({"url": url, "organizationId": Uuid::from_u128(7)}),
        json!({"url": url, "description": "x".repeat(501)}),
        json!({"url": url, "description": "a\u{1}b"}),
        json!({"url": format!("{url}{}", "x".repeat(2_000))}),
    ] {
        assert_eq!(operator.post(ENDPOINTS, wrong).await.0, 422);
    }
    let chain = format!(
        "billing_audit_chain_heads WHERE organization_id = '{}'",
        Uuid::from_u128(7)
    );
    assert_eq!(service.db.count(&chain).await, 0);
    assert_eq!(service.db.count("outbound_endpoints").await, 0);
}

/// Its address means something on the machine of whoever listens only.
#[tokio::test]
async fn an_endpoint_that_listens_is_not_called_by_the_service() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let id = Uuid::from_u128(7);
    service
        .db
        .execute(&format!(
            "INSERT INTO outbound_endpoints (id, source, url, secret, lease_expires_at)
             VALUES ('{id}', 'listen', '{}', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
                     now() + interval '1 hour')",
            receiver.url
        ))
        .await;
    let token = service.token(Uuid::nil(), Role::Operator).await;
    let operator = Operator {
        service: &service,
        token,
    };
    let test = format!("{ENDPOINTS}/{id}/test");
    let (status, problem) = operator.ask(Method::POST, &test, None).await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("event_endpoint_conflict"))
    );
    assert!(receiver.all().is_empty());
}
