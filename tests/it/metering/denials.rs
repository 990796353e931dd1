//! A denied use is found by the id of its request.

use serde_json::json;

use super::tenant::{CHECK, Tenant};
use crate::support::TestService;
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
