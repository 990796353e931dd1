//! A denied use is found by the id of its request.

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Role;

use super::tenant::{CHECK, Tenant};
use crate::support::TestService;
use crate::support::program::run_on;
use crate::support::serving::{Serving, entries};

#[tokio::test]
async fn a_denied_use_is_logged_under_the_id_that_its_answer_names() {
    let service = TestService::intake_only().await;
    let tenant = Tenant::of(&service, "Denied").await;
    tenant.set_quota(&service, "storage_gb", "1", None).await;
    let serving = Serving::on(&service.db);
    let body = json!({"metric": "storage_gb", "quantity": 2, "consume": true});
    for key in [None, Some("denied-once")] {
        let mut request = service
            .client
            .post(format!("{}{CHECK}", serving.base))
            .bearer_auth(&tenant.key)
            .json(&body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 402, "{key:?}");
        let id = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let mut found = Vec::new();
        for _ in 0..500 {
            found = entries(&serving.log(), "Use denied");
            found.retain(|entry| entry["request_id"] == id.as_str());
            if !found.is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(found.len(), 1, "{key:?}: {}", serving.log());
        assert_eq!(found[0]["organization_id"], tenant.organization.to_string());
        assert_eq!(found[0]["metric"], "storage_gb");
        assert_eq!(found[0]["reason"], "QUOTA_EXCEEDED");
    }
}

impl Tenant {
    /// Asks to use 2 of `metric`, by a request of this id.
    async fn denied(&self, service: &TestService, metric: &str, request: &str) {
        let response = service
            .client
            .post(format!("{}{CHECK}", service.base))
            .bearer_auth(&self.key)
            .header("x-request-id", request)
            .json(&json!({"metric": metric, "quantity": 2, "consume": true}))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 402);
        assert_eq!(response.headers()["x-request-id"], request);
    }
}

/// What is stored of refused uses, once that is as many as `wanted`.
async fn stored(service: &TestService, wanted: i64) {
    for _ in 0..1_500 {
        if service.db.count("usage_denials").await >= wanted {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(service.db.count("usage_denials").await, wanted);
}

#[tokio::test]
async fn a_refused_use_is_explained_by_the_id_of_its_request() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Denied").await;
    let operator = service.token(Uuid::nil(), Role::Operator).await;
    tenant.set_quota(&service, "storage_gb", "1", None).await;
    tenant.denied(&service, "storage_gb", "req_of_ours").await;
    let url = format!("{}/api/enforce?feature=sso", service.base);
    let refused = service.client.get(&url).bearer_auth(&tenant.key);
    let refused = refused.header("x-request-id", "req_feature").send().await;
    assert_eq!(refused.unwrap().status(), 403);
    stored(&service, 2).await;
    assert_eq!(service.metric("usage_denials_stored_total").await, Some(2));

    let ask = |query: &str| {
        let url = format!("{}/api/operator/explain?{query}", service.base);
        service.client.get(url).bearer_auth(&operator).send()
    };
    let explained = ask("requestId=req_of_ours").await.unwrap();
    assert_eq!(explained.status(), 200);
    let explained: Value = explained.json().await.unwrap();
    assert_eq!(
        explained["organizationId"],
        json!(tenant.organization.to_string())
    );
    let answer = explained["answer"].as_str().unwrap();
    assert!(
        answer.contains("was refused with QUOTA_EXCEEDED: 0 of 1 storage_gb were used."),
        "{answer}"
    );
    let causes = explained["causes"].as_array().unwrap();
    assert_eq!(causes[0]["kind"], "denial", "{explained:#}");
    assert_eq!(causes[0]["facts"]["requestId"], "req_of_ours");
    assert_eq!(causes[0]["facts"]["quota"], "1");
    let kinds: Vec<&str> = causes
        .iter()
        .map(|cause| cause["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"override"), "{explained:#}");
    let feature: Value = ask("requestId=req_feature")
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let answer = feature["answer"].as_str().unwrap();
    assert!(answer.contains("the feature sso"), "{answer}");
    assert_eq!(ask("requestId=req_none").await.unwrap().status(), 404);
    let both = ask("requestId=req_of_ours&event=evt_1").await.unwrap();
    assert_eq!(both.status(), 422);
    // The metric's own explanation has it, too.
    let query = format!("organizationId={}&metric=storage_gb", tenant.organization);
    let metric: Value = ask(&query).await.unwrap().json().await.unwrap();
    assert!(metric.to_string().contains("req_of_ours"), "{metric:#}");

    let asked = ["explain", "--request-id", "req_of_ours", "--json"];
    let printed = run_on(&service.db, &asked).await;
    assert_eq!(printed.status, 0, "{}", printed.stderr);
    assert_eq!(printed.json()["subject"], "req_of_ours");
    let unknown = run_on(&service.db, &["explain", "--request-id", "req_none"]).await;
    assert_eq!(unknown.status, 1);
    assert!(unknown.stderr.contains("Use denied"), "{}", unknown.stderr);
}

#[tokio::test]
async fn of_an_organization_the_newest_stay() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Flooded").await;
    let other = Tenant::of(&service, "Quiet").await;
    tenant.set_quota(&service, "storage_gb", "1", None).await;
    for (organization, rows) in [(tenant.organization, 520), (other.organization, 3)] {
        service
            .db
            .execute(&format!(
                "INSERT INTO usage_denials
                   (organization_id, id, request_id, denied_at, reason, metric)
                 SELECT '{organization}', gen_random_uuid(), 'req_' || n,
                        now() - n * interval '1 minute', 'QUOTA_EXCEEDED', 'storage_gb'
                   FROM generate_series(1, {rows}) n"
            ))
            .await;
    }
    tenant.denied(&service, "storage_gb", "req_newest").await;
    let newest = "usage_denials WHERE request_id = 'req_newest'";
    for _ in 0..1_500 {
        if service.db.count(newest).await == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(service.db.count(newest).await, 1);
    let of = |organization| format!("usage_denials WHERE organization_id = '{organization}'");
    assert_eq!(service.db.count(&of(tenant.organization)).await, 500);
    assert_eq!(service.db.count(&of(other.organization)).await, 3);
    let oldest = "SELECT request_id FROM usage_denials ORDER BY denied_at LIMIT 1";
    assert_eq!(service.db.value(oldest).await, "req_499");
}
