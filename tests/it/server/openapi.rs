//! The description of the API says what is served, and to whom.

use std::collections::BTreeSet;

use serde_json::Value;
use valuecanvas_billing::app::api;

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

/// Routes that OpenAPI cannot describe: those of every method. This list only
/// shrinks: describe a new route with `#[utoipa::path]` instead of adding it.
const UNDESCRIBED: [&str; 3] = ["/api/enforce", "/api/enforce/", "/api/enforce/{*rest}"];

#[test]
fn every_route_is_described() {
    let described = described(&api::document());
    let mut undescribed = Vec::new();
    let mut routes = 0;
    for route in api::table() {
        // Pages for browsers are not of the API.
        if route.method.is_some() && route.operation.is_none() {
            let of_browsers = ["/console", "/portal"];
            let mut of_browsers = of_browsers.iter();
            let page = route.path == "/" || of_browsers.any(|room| route.path.starts_with(room));
            assert!(page, "{} is not described", route.path);
            continue;
        }
        let method = route.method.map(|method| method.to_string());
        let known = method.is_some_and(|method| described.contains(&(method, route.path.clone())));
        if known {
            routes += 1;
        } else {
            undescribed.push(route.path);
        }
    }
    assert_eq!(undescribed, UNDESCRIBED);
    assert_eq!(routes, described.len(), "each has one handler");
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
        let mut letters = id.chars();
        let camel = letters
            .next()
            .is_some_and(|first| first.is_ascii_lowercase())
            && letters.all(|letter| letter.is_ascii_alphanumeric());
        assert!(camel, "{at}: {id}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let empty = matches!(&**status, "204" | "302" | "304");
            let typed = response["$ref"].is_string() || response["content"].is_object();
            assert_eq!(typed, !empty, "{at}: {status}");
        }
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

/// Swagger UI, with all that it needs, from this service alone.
#[tokio::test]
async fn the_page_asks_nobody_else_for_anything() {
    let service = TestService::intake_only().await;
    let answer = service.get("/docs").send().await.unwrap();
    let policy = answer.headers()["content-security-policy"].to_str();
    assert_eq!(
        policy.unwrap(),
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    let page = answer.text().await.unwrap();
    let mut linked = Vec::new();
    for attribute in ["src=\"", "href=\""] {
        let rest = page.split(attribute).skip(1);
        linked.extend(rest.map(|rest| rest.split('"').next().unwrap()));
    }
    linked.retain(|address| *address != "data:,");
    assert_eq!(linked.len(), 4, "{linked:?}");
    for address in linked {
        let answer = service.get(&format!("/{address}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{address}");
        let kind = answer.headers()["content-type"].to_str().unwrap();
        let known = ["text/javascript", "text/css", "application/json"];
        assert!(known.contains(&kind), "{address}: {kind}");
        let tag = answer.headers()["etag"].clone();
        let again = service.get(&format!("/{address}"));
        let again = again.header("if-none-match", tag).send().await.unwrap();
        assert_eq!(again.status(), 304, "{address}");
    }
    let other = service.get("/docs/../Cargo.toml").send().await.unwrap();
    assert_eq!(other.status(), 404);
    let other = service.get("/docs/index.html").send().await.unwrap();
    assert_eq!(other.status(), 404);
}
