//! An operator's looks at features, and overrides of them.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use super::{Desk, problem};

#[tokio::test]
async fn overrides_are_set_and_removed_and_entered_with_who() {
    let desk = Desk::open().await;
    let features = format!("/organizations/{}/features", desk.organization);
    let (status, listed) = desk.get(&features).await;
    assert_eq!(status, 200, "{listed}");
    assert_eq!(listed["data"][0]["feature"], "projects");
    assert_eq!(listed["data"][0]["planValue"], 3);
    let path = format!("{features}/support");
    let body = json!({"value": "gold", "reason": "a promise", "expiresAt": "2099-01-31T12:00:00Z"});
    let (status, set) = desk.ask(Method::PUT, &path, Some(body)).await;
    assert_eq!((status, &set["value"]), (200, &json!("gold")), "{set}");
    let operator = desk
        .service
        .db
        .value("SELECT id FROM users WHERE operator")
        .await;
    assert_eq!(set["override"]["setBy"], json!(operator));
    assert_eq!(set["override"]["expiresAt"], "2099-01-31T12:00:00Z");
    let none = json!({"value": null, "reason": "not any more"});
    let (_, set) = desk.ask(Method::PUT, &path, Some(none)).await;
    assert_eq!(
        (&set["value"], &set["source"]),
        (&json!(null), &json!("override"))
    );
    let (status, unset) = desk.ask(Method::DELETE, &path, None).await;
    assert_eq!(
        (status, &unset["value"]),
        (200, &json!("community")),
        "{unset}"
    );
    problem(404, "not_found")(desk.ask(Method::DELETE, &path, None).await);
    assert_eq!(
        desk.entries(desk.organization).await,
        [
            "features_listed all",
            "feature_set support",
            "feature_set support",
            "feature_unset support"
        ]
    );
}

#[tokio::test]
async fn what_is_wrong_names_the_field_and_leaves_nothing() {
    let desk = Desk::open().await;
    let features = format!("/organizations/{}/features", desk.organization);
    for (feature, body, code) in [
        ("sso", json!({"value": 1, "reason": "x"}), "invalid_value"),
        (
            "sso",
            json!({"value": "true", "reason": "x"}),
            "invalid_value",
        ),
        (
            "sso",
            json!({"value": null, "reason": "x"}),
            "invalid_value",
        ),
        (
            "projects",
            json!({"value": -1, "reason": "x"}),
            "invalid_value",
        ),
        (
            "projects",
            json!({"value": 1.5, "reason": "x"}),
            "invalid_value",
        ),
        (
            "support",
            json!({"value": ["gold"], "reason": "x"}),
            "invalid_value",
        ),
        (
            "sso",
            json!({"value": true, "reason": " "}),
            "invalid_reason",
        ),
        (
            "sso",
            json!({"value": true, "reason": "x", "expiresAt": "2020-01-01T00:00:00Z"}),
            "invalid_time",
        ),
        (
            "sso",
            json!({"value": true, "reason": "x", "expiresAt": "soon"}),
            "invalid_request",
        ),
        ("sso", json!({"value": true}), "invalid_request"),
        ("sso", json!({"reason": "x"}), "invalid_request"),
        (
            "sso",
            json!({"value": true, "reason": "x", "until": null}),
            "unknown_field",
        ),
    ] {
        let path = format!("{features}/{feature}");
        // What cannot be read is 400; what makes no sense, 422.
        let status = match code {
            "invalid_request" | "unknown_field" => 400,
            _ => 422,
        };
        problem(status, code)(desk.ask(Method::PUT, &path, Some(body)).await);
    }
    let fine = || Some(json!({"value": true, "reason": "x"}));
    let seats = format!("{features}/seats");
    problem(404, "not_found")(desk.ask(Method::PUT, &seats, fine()).await);
    problem(404, "not_found")(desk.ask(Method::DELETE, &seats, None).await);
    let nobody = format!("/organizations/{}/features", Uuid::nil());
    problem(404, "not_found")(desk.get(&nobody).await);
    problem(404, "not_found")(
        desk.ask(Method::PUT, &format!("{nobody}/sso"), fine())
            .await,
    );
    let entries = "billing_audit_log WHERE action LIKE 'feature%'";
    assert_eq!(desk.service.db.count(entries).await, 0);
    assert_eq!(desk.service.db.count("feature_overrides").await, 0);
}

#[tokio::test]
async fn the_product_reads_what_is_in_force() {
    let desk = Desk::open().await;
    let service = &desk.service;
    let key = service
        .api_key(desk.organization, &[Permission::BillingRead])
        .await;
    let own = async |path: &str| {
        let response = service.get(path).bearer_auth(&key).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<serde_json::Value>().await.unwrap())
    };
    let free = json!({"projects": 3, "sso": false, "support": "community"});
    assert_eq!(own("/api/billing/features").await, (200, free));
    let features = format!("/organizations/{}/features", desk.organization);
    for (feature, value) in [("sso", json!(true)), ("support", json!(null))] {
        let body = json!({"value": value, "reason": "x", "expiresAt": "2099-01-01T00:00:00Z"});
        let path = format!("{features}/{feature}");
        assert_eq!(desk.ask(Method::PUT, &path, Some(body)).await.0, 200);
    }
    let now = json!({"projects": 3, "sso": true});
    assert_eq!(own("/api/billing/features?sources=false").await, (200, now));
    let until = "2099-01-01T00:00:00Z";
    let sources = json!({
        "projects": {"value": 3, "source": "plan"},
        "sso": {"value": true, "source": "override", "expiresAt": until},
        "support": {"value": null, "source": "override", "expiresAt": until},
    });
    assert_eq!(
        own("/api/billing/features?sources=true").await,
        (200, sources)
    );
    let (_, plans) = own("/api/billing/plans").await;
    assert_eq!(
        plans["data"][2]["features"],
        json!({"projects": 1000, "sso": true, "support": "priority"})
    );
    // Another organization has its own.
    let other = service.organization("Another").await;
    let token = service.token(other, Role::Member).await;
    let theirs = service.get("/api/billing/features").bearer_auth(&token);
    let theirs: serde_json::Value = theirs.send().await.unwrap().json().await.unwrap();
    assert_eq!(theirs["sso"], false);
}
