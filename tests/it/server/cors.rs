//! Which other sites' scripts may call the API.

use reqwest::{Method, Response};
use valuecanvas_billing::config::SurfaceConfig;

use crate::support::TestService;
use crate::support::service::Options;

const SITE: &str = "https://app.example.com";

async fn with(origins: &[&'static str]) -> TestService {
    let surface = SurfaceConfig {
        cors_origins: origins.iter().map(|site| site.parse().unwrap()).collect(),
        ..SurfaceConfig::default()
    };
    TestService::with(Options {
        workers: 0,
        surface,
        ..Options::default()
    })
    .await
}

/// What a browser asks before a script's request.
async fn preflight(service: &TestService, origin: &str) -> Response {
    let url = format!("{}/api/billing/plans", service.base);
    let request = service.client.request(Method::OPTIONS, url);
    let request = request.header("origin", origin);
    let request = request.header("access-control-request-method", "GET");
    request.send().await.unwrap()
}

fn allowed(response: &Response) -> Option<&str> {
    let value = response.headers().get("access-control-allow-origin");
    value.map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn no_site_may_unless_it_is_named() {
    for (origins, asking, answer) in [
        (&[][..], SITE, None),
        (&[SITE], SITE, Some(SITE)),
        (&["https://other.example.com", SITE], SITE, Some(SITE)),
        (&[SITE], "https://app.example.com.evil.example", None),
        (&[SITE], "http://app.example.com", None),
        (&[SITE], "null", None),
    ] {
        let service = with(origins).await;
        let before = preflight(&service, asking).await;
        assert_eq!(allowed(&before), answer, "{origins:?} {asking}");
        assert!(
            before
                .headers()
                .get("access-control-allow-credentials")
                .is_none()
        );
        // Refusals can be read as well, and still need a token.
        let request = service.get("/api/billing/plans").header("origin", asking);
        let refused = request.send().await.unwrap();
        assert_eq!(refused.status(), 401);
        assert_eq!(allowed(&refused), answer, "{origins:?} {asking}");
    }
}
