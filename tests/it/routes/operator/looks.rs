//! Every route of operators leaves an entry, whatever it does.

use serde_json::{Value, json};
use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::Access;

use super::Desk;

/// A path of the template, and a body, for which the route answers 2xx.
fn request(desk: &Desk, method: &str, template: &str) -> (String, Option<Value>) {
    let organization = desk.organization.to_string();
    let path = template
        .trim_start_matches("/api/operator")
        .replace("{organization}", &organization)
        .replace("{metric}", "api_calls")
        .replace("{feature}", "sso");
    let (id, body) = match (method, template) {
        ("GET", "/api/operator/webhook-events/{id}") => ("evt_1", None),
        ("GET", "/api/operator/dead-letters/{id}") => ("evt_2", None),
        ("POST", "/api/operator/dead-letters/{id}/replay") => ("evt_3", None),
        ("DELETE", "/api/operator/dead-letters/{id}") => ("evt_4", None),
        ("POST", "/api/operator/dead-letters/replay") => ("", Some(json!({"eventIds": ["evt_5"]}))),
        ("PUT", "/api/operator/organizations/{organization}/quotas/{metric}") => {
            ("", Some(json!({"limit": "9"})))
        }
        ("PUT", "/api/operator/organizations/{organization}/features/{feature}") => {
            ("", Some(json!({"value": true, "reason": "a promise"})))
        }
        _ if template.contains("{id}") => panic!("say here what {method} {template} is about"),
        _ => ("", None),
    };
    (path.replace("{id}", id), body)
}

#[tokio::test]
async fn each_look_and_each_change_is_entered_with_who_and_from_where() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    desk.deliver("cus_2", &["evt_2", "evt_3", "evt_4", "evt_5"])
        .await;
    let entered = "billing_audit_log l JOIN billing_audit_personal_data p ON p.entry_id = l.id
                  WHERE metadata->>'operator' = 'true' AND actor_type = 'user'
                    AND p.user_agent = 'desk' AND p.ip_address = '127.0.0.1'
                    AND actor_id = (SELECT id FROM users WHERE operator)";
    let mut routes = 0;
    for route in api::table() {
        let below = route.path.starts_with("/api/operator");
        let operators = route.access == Access::Operator;
        assert_eq!(below, operators, "{}", route.path);
        let Some(method) = route.method.filter(|_| operators) else {
            continue;
        };
        routes += 1;
        let (path, body) = request(&desk, method.as_str(), &route.path);
        let before = desk.service.db.count(entered).await;
        let (status, answer) = desk.ask(method.clone(), &path, body).await;
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        let after = desk.service.db.count(entered).await;
        assert_eq!(after, before + 1, "{method} {path}");
    }
    assert!(routes >= 10);
}
