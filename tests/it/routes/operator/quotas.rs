//! An operator's looks at quotas, and changes of them.

use reqwest::Method;
use serde_json::json;

use super::{Desk, problem};

#[tokio::test]
async fn looks_and_changes_are_entered_with_who_and_from_where() {
    let desk = Desk::open().await;
    let quotas = format!("/organizations/{}/quotas", desk.organization);
    let (status, listed) = desk.get(&quotas).await;
    assert_eq!(status, 200, "{listed}");
    let body = json!({"limit": "5000", "overLimit": "hard"});
    let path = format!("{quotas}/api_calls");
    let (status, set) = desk.ask(Method::PUT, &path, Some(body)).await;
    assert_eq!((status, &set["quota"]), (200, &json!(5000)), "{set}");
    assert_eq!(
        desk.entries(desk.organization).await,
        ["quotas_listed all", "quota_set api_calls"]
    );
    // Who looks at nothing leaves nothing.
    let nobody = format!("/organizations/{}/quotas", uuid::Uuid::nil());
    problem(404, "not_found")(desk.get(&nobody).await);
    assert_eq!(desk.entries(desk.organization).await.len(), 2);
}
