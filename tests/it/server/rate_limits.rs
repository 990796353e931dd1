//! How many requests a credential may send, and how it is told.

use reqwest::{Method, Response};
use uuid::Uuid;
use valuecanvas_billing::config::{Rates, SurfaceConfig};
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::support::TestService;
use crate::support::service::Options;

async fn with(api_per_minute: u32) -> TestService {
    let rates = Rates {
        api_per_minute,
        usage_per_minute: 0,
    };
    let surface = SurfaceConfig {
        rates,
        ..SurfaceConfig::default()
    };
    TestService::with(Options {
        workers: 0,
        surface,
        ..Options::default()
    })
    .await
}

async fn ask(service: &TestService, method: Method, path: &str, credential: &str) -> Response {
    let url = format!("{}{path}", service.base);
    let request = service.client.request(method, url).bearer_auth(credential);
    request.send().await.unwrap()
}

async fn plans(service: &TestService, credential: &str) -> Response {
    ask(service, Method::GET, "/api/billing/plans", credential).await
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_credential_is_told_its_limit_and_refused_beyond_it() {
    let service = with(3).await;
    let organization = service.db.organization("cus_1").await;
    let token = service.token(organization, Role::Member).await;
    for left in [2, 1, 0] {
        let answer = plans(&service, &token).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "ratelimit-policy"), "\"api\";q=3;w=60");
        let standing = header(&answer, "ratelimit");
        assert!(
            standing.starts_with(&format!("\"api\";r={left};t=")),
            "{standing}"
        );
        assert_eq!(header(&answer, "retry-after"), "");
    }
    let refused = plans(&service, &token).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(header(&refused, "content-type"), "application/problem+json");
    assert!(header(&refused, "ratelimit").starts_with("\"api\";r=0;t="));
    let secs: u32 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=20).contains(&secs), "a third of a minute: {secs}");
    let problem: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "rate_limited");
}

#[tokio::test]
async fn credentials_have_a_limit_each_whatever_they_call() {
    let service = with(1).await;
    let organization = service.db.organization("cus_1").await;
    let scopes = [Permission::BillingRead, Permission::UsageWrite];
    let mut credentials = vec![
        service.token(organization, Role::Member).await,
        service.token(organization, Role::Owner).await,
        service.api_key(organization, &scopes).await,
        service.api_key(organization, &scopes).await,
    ];
    for credential in &credentials {
        assert_eq!(plans(&service, credential).await.status(), 200);
    }
    credentials.push(service.token(Uuid::nil(), Role::Operator).await);
    let organizations = "/api/operator/organizations";
    let operator = credentials.last().unwrap();
    let answer = ask(&service, Method::GET, organizations, operator).await;
    assert_eq!(answer.status(), 200);
    for credential in &credentials {
        for (method, path) in [
            (Method::GET, "/api/billing/invoices"),
            (Method::POST, "/api/billing/subscription"),
            (Method::GET, "/api/operator/dead-letters"),
        ] {
            let answer = ask(&service, method, path, credential).await;
            assert_eq!(answer.status(), 429, "{path}");
        }
    }
}

#[tokio::test]
async fn what_is_refused_takes_of_the_limit_as_well() {
    let service = with(2).await;
    let organization = service.db.organization("cus_1").await;
    for path in ["/api/billing/subscription", "/api/organizations/x"] {
        let token = service.token(organization, Role::Member).await;
        for (status, left) in [(403, 1), (403, 0), (429, 0)] {
            let answer = ask(&service, Method::DELETE, path, &token).await;
            let standing = header(&answer, "ratelimit");
            assert_eq!(answer.status(), status, "{path}");
            assert!(
                standing.starts_with(&format!("\"api\";r={left};")),
                "{standing}"
            );
        }
    }
    let token = service.token(organization, Role::Member).await;
    for status in [400, 400, 429] {
        let request = service.get("/api/billing/plans").bearer_auth(&token);
        let named = request.header("x-organization", "theirs");
        assert_eq!(named.send().await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn who_has_no_credential_has_no_limit_and_takes_nobodys() {
    let service = with(1).await;
    let organization = service.db.organization("cus_1").await;
    let token = service.token(organization, Role::Member).await;
    for _ in 0..5 {
        let answer = plans(&service, "vcs_none").await;
        assert_eq!(answer.status(), 401);
        assert_eq!(header(&answer, "ratelimit"), "");
        let answer = service.get("/healthz").send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(plans(&service, &token).await.status(), 200);
    assert_eq!(plans(&service, &token).await.status(), 429);
}

#[tokio::test]
async fn zero_is_no_limit() {
    let service = with(0).await;
    let organization = service.db.organization("cus_1").await;
    let token = service.token(organization, Role::Member).await;
    for _ in 0..5 {
        let answer = plans(&service, &token).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "ratelimit")),
            (200, "")
        );
    }
}
