//! Requests counted by route, method and status.

use reqwest::Method;
use valuecanvas_billing::tenancy::auth::Role;

use crate::support::TestService;
use crate::support::wire::Wire;

async fn count(service: &TestService, labels: &str) -> Option<i64> {
    let series = format!("http_requests_total{{{labels}}}");
    service.metric(&series).await
}

fn labels(method: &str, route: &str, status: u16) -> String {
    format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"")
}

#[tokio::test]
async fn requests_are_counted_by_the_routes_template() {
    let service = TestService::intake_only().await;
    let usage = "/api/billing/usage/{metric}";
    for (method, route) in [("GET", usage), ("POST", "/api/billing/webhooks/stripe")] {
        for status in [500, 503] {
            let at_first = count(&service, &labels(method, route, status)).await;
            assert_eq!(at_first, Some(0), "{method} {route} {status}");
        }
    }
    let organization = service.organization("Counted").await;
    let token = service.token(organization, Role::Owner).await;
    for metric in ["api_calls", "llm_tokens", "made-up-7"] {
        let request = service.get(&format!("/api/billing/usage/{metric}"));
        request.bearer_auth(&token).send().await.unwrap();
    }
    assert_eq!(count(&service, &labels("GET", usage, 200)).await, Some(2));
    assert_eq!(count(&service, &labels("GET", usage, 404)).await, Some(1));
    let took = format!("http_request_duration_seconds_count{{method=\"GET\",route=\"{usage}\"}}");
    assert_eq!(service.metric(&took).await, Some(3));
    service
        .get(&format!("/api/billing/usage/{organization}"))
        .send()
        .await
        .unwrap();
    assert_eq!(count(&service, &labels("GET", usage, 401)).await, Some(1));
}

#[tokio::test]
async fn what_a_client_makes_up_is_no_label() {
    let service = TestService::intake_only().await;
    for n in 0..3 {
        service.get(&format!("/made-up/{n}")).send().await.unwrap();
        let url = format!("{}/healthz", service.base);
        let method = Method::from_bytes(format!("MADEUP{n}").as_bytes()).unwrap();
        let other = service.client.request(method, url).send().await.unwrap();
        assert_eq!(other.status(), 405);
    }
    let mut wire = Wire::open(&service.base).await;
    let long = "x".repeat(9_000);
    wire.send(format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.status, 414);
    assert_eq!(
        count(&service, &labels("GET", "unmatched", 404)).await,
        Some(3)
    );
    assert_eq!(
        count(&service, &labels("GET", "unmatched", 414)).await,
        Some(1)
    );
    assert_eq!(
        count(&service, &labels("other", "/healthz", 405)).await,
        Some(3)
    );
    let text = service
        .get("/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        !text.contains("made-up") && !text.contains("MADEUP"),
        "{text}"
    );
}
