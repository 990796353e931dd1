//! What a request says and a route does not take is refused.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::{Access, Kind};
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::support::TestService;

async fn code(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

/// A request of each route that asks for a credential, with a fitting one.
async fn requests(
    service: &TestService,
    query: &str,
) -> Vec<(String, Kind, reqwest::RequestBuilder)> {
    let organization = service.organization("Asking").await;
    let key = service.api_key(organization, &Permission::ALL).await;
    let user = service.token(organization, Role::Owner).await;
    let product = service.service_key(&Permission::OF_SERVICE).await;
    let operator = service.token(Uuid::nil(), Role::Operator).await;
    let mut requests = Vec::new();
    for route in api::table() {
        let credential = match route.access {
            Access::Public | Access::StripeSignature | Access::Console | Access::Portal => {
                continue;
            }
            Access::Operator => &operator,
            Access::Token => &user,
            Access::Tenant(_) | Access::EachTenant(_) | Access::ApiKey(_) => &key,
            Access::Service(_) => &product,
        };
        let path = route.path;
        let path = path
            .replace("{*rest}", "below")
            .replace("{organization}", &organization.to_string())
            .replace("{metric}", "api_calls")
            .replace("{externalId}", "none")
            .replace("{id}", "none");
        let url = format!("{}{path}{query}", service.base);
        let method = route.method.unwrap_or(Method::GET);
        let request = service.client.request(method.clone(), url);
        let request = request.bearer_auth(credential).json(&json!({}));
        requests.push((format!("{method} {path}"), route.kind, request));
    }
    requests
}

#[tokio::test]
async fn a_parameter_that_a_route_does_not_have_is_refused() {
    let service = TestService::intake_only().await;
    for (route, kind, request) in requests(&service, "?madeUp=another").await {
        // The query of a call that is forwarded is the upstream's.
        let ours = kind != Kind::Forwarded;
        let (_, code) = code(request).await;
        assert_eq!(code == "unknown_field", ours, "{route}: {code}");
    }
}

#[tokio::test]
async fn an_organization_is_not_chosen_by_a_header() {
    let service = TestService::intake_only().await;
    for (route, _, request) in requests(&service, "").await {
        for named in ["another", "", "00000000-0000-0000-0000-000000000000"] {
            let request = request.try_clone().unwrap().header("x-organization", named);
            let expected = (400, "organization_not_selectable".to_owned());
            assert_eq!(code(request).await, expected, "{route} {named:?}");
        }
    }
    // However often it is sent.
    for (route, _, request) in requests(&service, "").await {
        let request = request
            .header("x-organization", "one")
            .header("X-ORGANIZATION", "two");
        let expected = (400, "organization_not_selectable".to_owned());
        assert_eq!(code(request).await, expected, "{route}");
    }
    // Who has no credential is told that first.
    let anonymous = service
        .get("/api/billing/usage")
        .header("x-organization", "a");
    assert_eq!(code(anonymous).await.0, 401);
}
