//! Every route of operators leaves an entry, whatever it does.

use serde_json::{Value, json};
use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::Access;
use valuecanvas_billing::tenancy::auth;

use super::Desk;

/// Endpoints of events, and a delivery to one.
const STAYS: &str = "019aab70-0000-7000-8000-000000000001";
const GOES: &str = "019aab70-0000-7000-8000-000000000002";
const DELIVERY: &str = "019aab70-0000-7000-8000-000000000003";
/// A member of the organization, and a key of it, and of the product.
const USER: &str = "019aab70-0000-7000-8000-000000000004";
const KEY: &str = "019aab70-0000-7000-8000-000000000005";

/// The id of the member's session.
fn session() -> String {
    auth::id_of_token("session").to_string()
}
/// What is to be done with all that match, by a replica that is not there.
const BULK: &str = "019aab70-0000-7000-8000-000000000006";

/// A path of the template, and a body, for which the route answers 2xx.
fn request(desk: &Desk, method: &str, template: &str) -> (String, Option<Value>) {
    let organization = desk.organization.to_string();
    let path = template
        .trim_start_matches("/api/operator")
        .replace("{organization}", &organization)
        .replace("{metric}", "api_calls")
        .replace("{feature}", "sso")
        .replace("{delivery}", DELIVERY)
        .replace("{user}", USER)
        .replace("{key}", KEY)
        .replace("{session}", &session())
        .replace("{bulkAction}", BULK)
        // The one that goes is another one.
        .replace("{endpoint}", if method == "DELETE" { GOES } else { STAYS });
    let (id, body) = match (method, template) {
        ("GET", "/api/operator/webhook-events/{id}") => ("evt_1", None),
        ("GET", "/api/operator/dead-letters/{id}") => ("evt_2", None),
        ("POST", "/api/operator/dead-letters/{id}/replay") => ("evt_3", None),
        ("POST", "/api/operator/webhook-events/{id}/rehearse") => ("evt_1", None),
        ("DELETE", "/api/operator/dead-letters/{id}") => ("evt_4", None),
        ("POST", "/api/operator/dead-letters/replay") => ("", Some(json!({"eventIds": ["evt_5"]}))),
        ("PUT", "/api/operator/organizations/{organization}/quotas/{metric}") => {
            ("", Some(json!({"limit": "9"})))
        }
        ("PUT", "/api/operator/organizations/{organization}/features/{feature}") => {
            ("", Some(json!({"value": true, "reason": "a promise"})))
        }
        ("POST", "/api/operator/event-endpoints") => {
            ("", Some(json!({"url": "https://app.example.com/"})))
        }
        ("POST", "/api/operator/event-endpoints/{endpoint}/rotate") => {
            ("", Some(json!({"overlapHours": 1})))
        }
        ("POST", "/api/operator/event-endpoints/{endpoint}/recover") => {
            ("", Some(json!({"since": "2026-01-01T00:00:00Z"})))
        }
        ("POST", "/api/operator/users") => (
            "",
            Some(json!({"email": "jo@example.com", "role": "operator.read"})),
        ),
        ("POST", "/api/operator/operator-keys") => ("", Some(json!({"role": "operator.read"}))),
        ("POST", _) if template.ends_with("-keys") => {
            ("", Some(json!({"scopes": ["usage.write"]})))
        }
        ("POST", "/api/operator/bulk-actions") => {
            ("", Some(json!({"action": "replay_dead_letters"})))
        }
        ("GET", "/api/operator/bulk-actions/matching") => {
            return (format!("{path}?action=replay_dead_letters"), None);
        }
        ("GET", "/api/operator/figures/customers") => {
            return (format!("{path}?standing=free"), None);
        }
        ("GET", "/api/operator/explain") => return (format!("{path}?event=evt_1"), None),
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
    // Their addresses are refused before anything is called.
    for endpoint in [STAYS, GOES] {
        desk.service
            .db
            .execute(&format!(
                "INSERT INTO outbound_endpoints (id, source, url, secret)
                 VALUES ('{endpoint}', 'operator', 'https://127.0.0.1:1/', 'whsec_{key}')",
                key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
            ))
            .await;
    }
    desk.service
        .db
        .execute(&format!(
            "INSERT INTO outbound_events (organization_id, sequence, id, event_type, body)
               VALUES ('{STAYS}', 1, '{DELIVERY}', 'plan.changed', '{{}}');
             INSERT INTO outbound_deliveries (organization_id, endpoint_id, sequence, id)
               VALUES ('{STAYS}', '{STAYS}', 1, '{DELIVERY}')"
        ))
        .await;
    desk.service
        .db
        .execute(&format!(
            "INSERT INTO users (id, email) VALUES ('{USER}', 'member@example.com');
             INSERT INTO organization_members (organization_id, user_id, role)
               VALUES ('{organization}', '{USER}', 'member');
             INSERT INTO api_keys (organization_id, id, name, prefix, key_hash, scopes)
               VALUES ('{organization}', '{KEY}', 'key', 'vck_00000000', sha256('key'), '{{billing.read}}');
             INSERT INTO service_api_keys (id, name, prefix, key_hash, scopes)
               VALUES ('{KEY}', 'key', 'vcp_00000000', sha256('key'), '{{billing.read}}');
             INSERT INTO operator_api_keys (id, name, prefix, key_hash, reads_only)
               VALUES ('{KEY}', 'key', 'vco_00000000', sha256('key'), true);
             INSERT INTO user_sessions (token_hash, user_id, expires_at)
               VALUES (sha256('session'), '{USER}', now() + interval '1 hour')",
            organization = desk.organization
        ))
        .await;
    desk.service
        .db
        .execute(&format!(
            "INSERT INTO webhook_bulk_actions (id, action, filter, counted, through, lease_expires_at)
               VALUES ('{BULK}', 'replay_events', '{{}}', 1, now(), 'infinity')"
        ))
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
        // There is no Stripe here to compare with, and the look is entered.
        let asks_stripe = path.ends_with("/drift") && status == 503;
        assert!(
            (200..300).contains(&status) || asks_stripe,
            "{method} {path}: {status} {answer}"
        );
        let after = desk.service.db.count(entered).await;
        assert_eq!(after, before + 1, "{method} {path}");
    }
    assert!(routes >= 10);
}
