//! The description of the API says what is served, and to whom.

use std::collections::BTreeSet;

use serde_json::Value;
use valuecanvas_billing::app::api;
use valuecanvas_billing::tenancy::auth::{Access, ROUTES};

use crate::support::TestService;
use crate::support::program::{program, run};

fn described(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        methods.map(move |method| (method.to_ascii_uppercase(), path.clone()))
    });
    operations.collect()
}

#[tokio::test]
async fn the_description_and_the_table_of_access_have_the_served_routes() {
    let service = TestService::intake_only().await;
    let described = described(&api::document());
    let table: BTreeSet<_> = ROUTES
        .iter()
        .map(|(method, path, _)| (method.to_string(), (*path).to_owned()))
        .collect();
    let unlisted: Vec<_> = described.difference(&table).collect();
    assert!(unlisted.is_empty(), "in nobody's table: {unlisted:?}");
    for route in table {
        let (method, path) = &route;
        // Its address is one of an invoice's, too.
        if path.ends_with("/invoices/upcoming") {
            continue;
        }
        let url = format!("{}{}", service.base, path.replace(['{', '}'], ""));
        let request = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let answer = service.client.request(request, url).send().await.unwrap();
        // Without a credential nothing is looked up: 404 is no route.
        let status = answer.status().as_u16();
        let served = !matches!(status, 404 | 405);
        assert_eq!(
            described.contains(&route),
            served,
            "{method} {path}: {status}"
        );
        assert!(served, "{method} {path} has no handler");
    }
}

#[test]
fn each_operation_says_what_it_asks_and_what_can_go_wrong() {
    let document = api::document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = BTreeSet::new();
    for (method, path) in described(&document) {
        let operation = &document["paths"][&path][method.to_ascii_lowercase()];
        let at = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap();
        assert!(
            ids.insert(id.to_owned()),
            "{at}: {id} is another's name too"
        );
        assert!(operation["summary"].is_string(), "{at} has no summary");
        assert!(operation["tags"][0].is_string(), "{at} has no tag");
        assert!(operation["responses"]["default"].is_object(), "{at}");
        let success = operation["responses"].as_object().unwrap().keys();
        let success = success.filter(|status| status.starts_with(['2', '3']));
        assert!(success.count() > 0, "{at} never succeeds");
        let (_, _, access) = ROUTES
            .iter()
            .find(|(m, p, _)| *m == *method && *p == path)
            .unwrap();
        let open = operation["security"] == serde_json::json!([]);
        let webhook = path.ends_with("/webhooks/stripe");
        assert_eq!(open, *access == Access::Public && !webhook, "{at}");
    }
}

#[tokio::test]
async fn the_service_and_the_command_say_the_same() {
    let service = TestService::intake_only().await;
    let answer = service.get("/openapi.json").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    let served: Value = answer.json().await.unwrap();
    let printed = run(&mut program(&["openapi"]));
    assert_eq!((printed.status, &*printed.stderr), (0, ""));
    assert_eq!(printed.json(), served);
}

#[tokio::test]
async fn the_page_runs_nothing_and_fetches_nothing() {
    let service = TestService::intake_only().await;
    let answer = service.get("/docs").send().await.unwrap();
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    let page = answer.text().await.unwrap();
    for part in ["<script", "src=", "url(", "@import", "http://", "https://"] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("/api/operator/dead-letters/replay"));
}
