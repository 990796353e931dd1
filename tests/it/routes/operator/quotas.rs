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
    // A limit is a number as well, and is read digit by digit.
    for (limit, quota) in [
        (r#""0.25""#, "0.25"),
        ("1234.5678", "1234.5678"),
        ("7", "7"),
    ] {
        let body = serde_json::from_str(&format!("{{\"limit\":{limit}}}")).unwrap();
        let (status, set) = desk.ask(Method::PUT, &path, Some(body)).await;
        assert_eq!(status, 200, "{limit}: {set}");
        let shown = set["quota"].to_string();
        assert_eq!(shown, quota, "{limit}: {set}");
    }
    for limit in ["-1", "null", "true", "[5]", "0.00001", r#""much""#] {
        let body = serde_json::from_str(&format!("{{\"limit\":{limit}}}")).unwrap();
        let answer = desk.ask(Method::PUT, &path, Some(body)).await;
        problem(400, "invalid_limit")(answer);
    }
    // Usage over it would cost nothing, since the free plan has no rate.
    let free = json!({"limit": "10", "overLimit": "overage"});
    let answer = desk.ask(Method::PUT, &path, Some(free)).await;
    problem(400, "overage_without_rate")(answer);
    let entries = desk.entries(desk.organization).await;
    assert_eq!(entries.len(), 5, "{entries:?}");
    // Who looks at nothing leaves nothing.
    let nobody = format!("/organizations/{}/quotas", uuid::Uuid::nil());
    problem(404, "not_found")(desk.get(&nobody).await);
    assert_eq!(desk.entries(desk.organization).await.len(), 5);
}
