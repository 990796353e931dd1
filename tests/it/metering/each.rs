//! Usage of many organizations in one request of a service key.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::tenant::{Answer, EVENTS, Tenant};
use crate::support::TestService;
use crate::support::product::Product;

const CLOUD_EVENT: &str = "application/cloudevents+json";
const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

fn event(id: &str, organization: &str) -> Value {
    json!({"id": id, "organization": organization, "metric": "api_calls", "quantity": 1})
}

fn cloud_event(id: &str, subject: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/agents", "type": "api_calls",
           "subject": subject, "data": {"quantity": 1}})
}

async fn post(service: &TestService, product: &Product, kind: &str, body: &Value) -> Answer {
    let request = product.request(service, Method::POST, EVENTS);
    let request = request.header("content-type", kind).body(body.to_string());
    product.send(request).await
}

async fn totals(service: &TestService) -> String {
    let sql = "SELECT coalesce(string_agg(o.external_id || ' ' || t.total::float, ', ' ORDER BY o.external_id), '')
                 FROM usage_totals t JOIN organizations o ON o.id = t.organization_id";
    service.db.value(sql).await
}

#[tokio::test]
async fn each_event_is_counted_on_its_own_organization() {
    let service = TestService::start().await;
    let product = Product::of(&service).await;
    let acme = product.make(&service, "acme").await;
    product.make(&service, "other").await;
    // An id is unique in its organization.
    let batch = json!([
        event("1", "acme"),
        event("1", "other"),
        event("2", &acme),
        event("1", "acme")
    ]);
    let answer = post(&service, &product, "application/json", &batch)
        .await
        .ok();
    assert_eq!(
        (
            &answer["recorded"],
            &answer["duplicates"],
            &answer["rejected"]
        ),
        (&json!(3), &json!(1), &json!(0)),
        "{answer}"
    );
    let one = post(&service, &product, "application/json", &event("3", "other"))
        .await
        .ok();
    assert_eq!(one, json!({"id": "3", "status": "recorded"}));
    let one = post(&service, &product, CLOUD_EVENT, &cloud_event("4", "other"))
        .await
        .ok();
    assert_eq!(one["status"], "recorded");
    let many = json!([cloud_event("5", "acme"), cloud_event("5", "other")]);
    let many = post(&service, &product, CLOUD_EVENTS, &many).await.ok();
    assert_eq!(many["recorded"], 2);
    assert_eq!(totals(&service).await, "acme 3, other 4");
}

#[tokio::test]
async fn each_bad_event_has_its_result_and_the_others_are_counted() {
    let service = TestService::start().await;
    let product = Product::of(&service).await;
    product.make(&service, "acme").await;
    let long = "x".repeat(256);
    let nowhere = json!({"id": "2", "metric": "api_calls", "quantity": 1});
    let batch = json!({"events": [event("1", "acme"), nowhere, event("3", "nobody"), event("4", ""),
        event("5", "a\0"), event("6", &long), {"id": "7", "organization": 1, "metric": "api_calls", "quantity": 1},
        {"id": "8", "organization": "acme", "metric": "nothing", "quantity": 1}, event("9", "acme")]});
    let answer = post(&service, &product, "application/json", &batch)
        .await
        .ok();
    let results = answer["results"].as_array().unwrap();
    let codes: Vec<&str> = results
        .iter()
        .map(|r| r["code"].as_str().unwrap_or(""))
        .collect();
    assert_eq!(
        codes,
        [
            "",
            "organization_missing",
            "organization_not_found",
            "organization_invalid",
            "organization_invalid",
            "organization_invalid",
            "organization_invalid",
            "unknown_metric",
            ""
        ]
    );
    let ids: Vec<&str> = results.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(
        results.iter().all(|r| r.get("retryable").is_none()),
        "{answer}"
    );
    assert_eq!(totals(&service).await, "acme 2");
    let missing = json!({"id": "2", "metric": "api_calls", "quantity": 1});
    for (body, problem) in [
        (missing, (400, "organization_missing")),
        (event("3", "nobody"), (404, "organization_not_found")),
        (event("4", " "), (400, "organization_invalid")),
    ] {
        let refused = post(&service, &product, "application/json", &body).await;
        assert_eq!(refused.problem(), problem);
    }
    let mut unnamed = cloud_event("1", "");
    unnamed.as_object_mut().unwrap().remove("subject");
    let refused = post(&service, &product, CLOUD_EVENT, &unnamed).await;
    assert_eq!(refused.problem(), (400, "organization_missing"));
}

/// The header and a member are never both, and a tenant's events name nobody.
#[tokio::test]
async fn an_event_is_of_one_organization() {
    let service = TestService::start().await;
    let product = Product::of(&service).await;
    product.make(&service, "acme").await;
    product.make(&service, "other").await;
    let not_selectable = (400, "organization_not_selectable");
    let both = product
        .post_for(&service, "acme", EVENTS, &event("1", "other"))
        .await;
    assert_eq!(both.problem(), not_selectable);
    let request = product
        .request(&service, Method::POST, EVENTS)
        .header("x-organization", "acme");
    let request = request
        .header("content-type", CLOUD_EVENT)
        .body(cloud_event("1", "other").to_string());
    assert_eq!(product.send(request).await.problem(), not_selectable);
    let plain = json!([{"id": "1", "metric": "api_calls", "quantity": 1}]);
    product
        .post_for(&service, "acme", EVENTS, &plain)
        .await
        .ok();

    let tenant = Tenant::of(&service, "Tenant").await;
    let refused = tenant.post(&service, EVENTS, &event("1", "acme")).await;
    assert_eq!(refused.problem(), not_selectable);
    // A subject says nothing to whoever has one organization.
    let body = cloud_event("2", "acme").to_string();
    tenant
        .post_raw(&service, EVENTS, CLOUD_EVENT, body)
        .await
        .ok();
    assert_eq!(tenant.total(&service, "api_calls").await, "1");
    assert_eq!(totals(&service).await, "acme 1");
}

#[tokio::test]
async fn an_organization_that_is_held_keeps_no_other_waiting() {
    let service = TestService::start().await;
    let product = Product::of(&service).await;
    for n in 0..9 {
        product.make(&service, &format!("o{n}")).await;
    }
    let mut held = service.db.pool.begin().await.unwrap();
    sqlx::query(
        "SELECT 1 FROM usage_quotas q JOIN organizations o ON o.id = q.organization_id
          WHERE o.external_id = 'o0' FOR UPDATE OF q",
    )
    .execute(&mut *held)
    .await
    .unwrap();
    let events: Vec<Value> = (0..9).map(|n| event("1", &format!("o{n}"))).collect();
    let batch = json!(events);
    let sending = post(&service, &product, "application/json", &batch);
    let others_counted = async {
        // While the batch still waits for the held one, the others are counted.
        while service.db.count("usage_events").await < 8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (answer, ()) = tokio::join!(sending, others_counted);
    let answer = answer.ok();
    assert_eq!(
        (&answer["recorded"], &answer["rejected"]),
        (&json!(8), &json!(1)),
        "{answer}"
    );
    let first = &answer["results"][0];
    assert_eq!(
        (&first["code"], &first["retryable"]),
        (&json!("usage_unavailable"), &json!(true))
    );
    // Alone it is refused as a whole.
    let alone = post(
        &service,
        &product,
        "application/json",
        &json!([event("1", "o0")]),
    )
    .await;
    assert_eq!(alone.problem(), (503, "usage_unavailable"));
    held.rollback().await.unwrap();
    let again = post(&service, &product, "application/json", &batch)
        .await
        .ok();
    assert_eq!(
        again["recorded"].as_i64().unwrap() + again["duplicates"].as_i64().unwrap(),
        9
    );
    let each_once = "(SELECT FROM usage_totals WHERE total = 1) t";
    assert_eq!(service.db.count(each_once).await, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_hundreds_of_organizations_are_counted_exactly() {
    let service = TestService::start().await;
    let product = Product::of(&service).await;
    let makes = (0..200).map(|n| {
        let (service, product) = (&service, &product);
        async move { product.make(service, &format!("o{n}")).await }
    });
    futures_util::future::join_all(makes).await;
    let batches = (0..8).map(|batch| {
        let events: Vec<Value> = (0..1_000)
            .map(|n| event(&format!("{batch}-{n}"), &format!("o{}", n % 200)))
            .collect();
        let (service, product) = (&service, &product);
        async move { post(service, product, "application/json", &json!(events)).await }
    });
    for answer in futures_util::future::join_all(batches).await {
        assert_eq!(answer.ok()["recorded"], 1_000);
    }
    let exact = "(SELECT FROM usage_totals WHERE total = 40) t";
    assert_eq!(service.db.count(exact).await, 200);
}
