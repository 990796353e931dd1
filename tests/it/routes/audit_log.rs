//! `GET /api/billing/audit-log`

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::support::TestService;

const LOG: &str = "/api/billing/audit-log";
const USER: Uuid = Uuid::from_u128(7);

/// Two organizations with entries of their own, and a member's token of each.
async fn two_logs() -> (TestService, String, String) {
    let service = TestService::intake_only().await;
    let mut tokens = Vec::new();
    for customer in ["cus_1", "cus_2"] {
        let organization = service.db.organization(customer).await;
        tokens.push(service.token(organization, Role::Member).await);
        let log = |action: &str, kind: &str, actor: &str, resource: &str, id: &str| {
            format!(
                "SELECT log_billing_action(p_organization_id := '{organization}', p_action := '{action}',
                   p_actor_type := '{kind}', p_actor_id := {actor}, p_resource_type := '{resource}',
                   p_resource_id := '{id}');"
            )
        };
        for n in 1..=5 {
            let id = format!("sub_{customer}_{n}");
            let actor = format!("'{USER}'");
            service
                .db
                .execute(&log("plan_changed", "user", &actor, "subscription", &id))
                .await;
        }
        service
            .db
            .execute(&log(
                "invoice_paid",
                "webhook",
                "NULL",
                "invoice",
                "=HYPERLINK(1)",
            ))
            .await;
    }
    let other = tokens.pop().unwrap();
    (service, tokens.pop().unwrap(), other)
}

async fn get(service: &TestService, token: &str, path: &str) -> (u16, Value) {
    let response = service.get(path).bearer_auth(token).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

fn resources(page: &Value) -> Vec<String> {
    let entries = page["data"].as_array().unwrap().iter();
    entries
        .map(|entry| entry["resourceId"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn it_is_filtered_and_paged_newest_first() {
    let (service, token, _) = two_logs().await;
    let changes: Vec<String> = (1..=5).rev().map(|n| format!("sub_cus_1_{n}")).collect();
    for query in [
        "action=plan_changed".to_owned(),
        "actor=user".to_owned(),
        format!("actor={USER}"),
        "resourceType=subscription".to_owned(),
        "from=2020-01-01T00:00:00Z&to=9999-01-01T00:00:00Z&actor=user".to_owned(),
    ] {
        let mut path = format!("{LOG}?limit=2&{query}");
        let mut found = Vec::new();
        loop {
            let (status, page) = get(&service, &token, &path).await;
            assert_eq!(status, 200, "{query}: {page}");
            found.extend(resources(&page));
            match page["nextCursor"].as_str() {
                Some(cursor) => path = format!("{LOG}?limit=2&{query}&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(found, changes, "{query}");
    }
    let (_, nothing) = get(&service, &token, &format!("{LOG}?to=2020-01-01T00:00:00Z")).await;
    assert_eq!(nothing, json!({"data": [], "nextCursor": null}));
}

#[tokio::test]
async fn what_is_no_time_is_told_what_is() {
    let (service, token, _) = two_logs().await;
    for query in [
        "from=yesterday",
        "to=2026-01-31",
        "from=",
        "to=2026-01-31T12:00:00+01:00",
    ] {
        let (status, problem) = get(&service, &token, &format!("{LOG}?{query}")).await;
        let code = &problem["code"];
        assert_eq!((status, code), (400, &json!("invalid_query")), "{query}");
        let detail = problem["detail"].as_str().unwrap();
        let (name, _) = query.split_once('=').unwrap();
        assert!(
            detail.starts_with(&format!("{name}: a time as in RFC 3339")),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn a_cursor_is_of_one_organization_and_its_filters() {
    let (service, token, other) = two_logs().await;
    let (_, page) = get(&service, &token, &format!("{LOG}?limit=1&actor=user")).await;
    let cursor = page["nextCursor"].as_str().unwrap();
    for (token, query) in [
        (&other, format!("actor=user&cursor={cursor}")),
        (&token, format!("actor=webhook&cursor={cursor}")),
        (&token, format!("cursor={cursor}")),
        (&token, format!("actor=user&cursor={cursor}x")),
        (&token, "actor=user&cursor=".to_owned()),
    ] {
        let (status, problem) = get(&service, token, &format!("{LOG}?{query}")).await;
        assert_eq!(
            (status, &problem["code"]),
            (400, &json!("invalid_cursor")),
            "{query}"
        );
    }
    // How many are shown is no filter.
    let (status, page) = get(
        &service,
        &token,
        &format!("{LOG}?limit=9&actor=user&cursor={cursor}"),
    )
    .await;
    assert_eq!((status, resources(&page).len()), (200, 4));
}

#[tokio::test]
async fn as_csv_it_is_exported_whole_and_inert() {
    let (service, token, _) = two_logs().await;
    let request = service
        .get(LOG)
        .bearer_auth(&token)
        .header("accept", "text/csv");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["content-type"],
        "text/csv; charset=utf-8"
    );
    let text = response.text().await.unwrap();
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert!(lines[0].starts_with("id,organizationId,sequence,action,"));
    // The organization's own creation is the first entry of its log.
    assert_eq!(lines.len(), 1 + 7, "{text}");
    assert!(
        text.contains(",'=HYPERLINK(1),") && !text.contains("cus_2"),
        "{text}"
    );
    let filtered = service.get(&format!("{LOG}?actor=webhook"));
    let filtered = filtered.bearer_auth(&token).header("accept", "text/csv");
    let text = filtered.send().await.unwrap().text().await.unwrap();
    assert_eq!(text.matches("\r\n").count(), 2);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let (service, token, _) = two_logs().await;
    for (query, code) in [
        ("from=yesterday", "invalid_query"),
        ("to=2025-13-01T00:00:00Z", "invalid_query"),
        ("limit=0", "invalid_query"),
        ("limit=1&limit=2", "invalid_query"),
        ("organizationId=1", "unknown_field"),
        ("action=%00", "invalid_text"),
    ] {
        let (status, problem) = get(&service, &token, &format!("{LOG}?{query}")).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)), "{query}");
    }
}

#[tokio::test]
async fn within_a_microsecond_the_chain_decides() {
    let (service, token, _) = two_logs().await;
    service
        .db
        .execute(
            "ALTER TABLE billing_audit_log DISABLE TRIGGER USER;
             UPDATE billing_audit_log SET created_at = '2026-05-05T05:05:05.000005Z';
             ALTER TABLE billing_audit_log ENABLE TRIGGER USER",
        )
        .await;
    let mut sequences = Vec::new();
    let mut more = String::new();
    loop {
        let (status, page) = get(&service, &token, &format!("{LOG}?limit=2{more}")).await;
        assert_eq!(status, 200, "{page}");
        let data = page["data"].as_array().unwrap();
        sequences.extend(data.iter().map(|entry| entry["sequence"].as_i64().unwrap()));
        match page["nextCursor"].as_str() {
            Some(cursor) => more = format!("&cursor={cursor}"),
            None => break,
        }
    }
    let newest = i64::try_from(sequences.len()).unwrap();
    assert!(newest > 5);
    assert_eq!(sequences, (1..=newest).rev().collect::<Vec<_>>());
}

/// From where somebody acts, and by which address, is for those who manage.
#[tokio::test]
async fn addresses_are_shown_to_those_with_the_permission_only() {
    let service = TestService::intake_only().await;
    let organization = service.db.organization("cus_1").await;
    service
        .db
        .execute(&format!(
            "SELECT log_billing_action('{organization}', 'user_created', 'user', '{USER}', 'user', 'ada@example.com',
               '{{\"email\": \"old@example.com\"}}', '{{\"email\": \"ada@example.com\", \"role\": \"owner\"}}',
               '{{\"note\": [\"by ada@example.com\"]}}', '203.0.113.9', 'ada''s browser')"
        ))
        .await;
    let secrets = [
        "ada@example.com",
        "old@example.com",
        "203.0.113.9",
        "browser",
    ];
    let key = |scopes: &'static [Permission]| service.api_key(organization, scopes);
    let shown = [
        service.token(organization, Role::Owner).await,
        service.token(organization, Role::BillingManager).await,
        key(&[Permission::BillingRead, Permission::BillingAudit]).await,
    ];
    let concealed = [
        service.token(organization, Role::Member).await,
        key(&[Permission::BillingRead]).await,
        key(&[Permission::BillingRead, Permission::BillingManage]).await,
    ];
    for (credentials, shows) in [(shown, true), (concealed, false)] {
        for credential in credentials {
            for accept in ["application/json", "text/csv"] {
                let request = service.get(&format!("{LOG}?action=user_created"));
                let request = request.bearer_auth(&credential).header("accept", accept);
                let text = request.send().await.unwrap().text().await.unwrap();
                assert!(
                    text.contains("owner") && text.contains(&USER.to_string()),
                    "{text}"
                );
                for secret in secrets {
                    assert_eq!(text.contains(secret), shows, "{accept} {secret}: {text}");
                }
            }
        }
    }
}
