//! Who gets a session, and what it is good for.

use reqwest::Method;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;
use valuecanvas_billing::app::api;
use valuecanvas_billing::config::{PortalConfig, SurfaceConfig};
use valuecanvas_billing::server::routes::Access;
use valuecanvas_billing::tenancy::auth::{self, Hasher, NewUser, Permission, Role};

use super::{Browser, PAGES, PASSWORD, asked, asked_with, link, path_of};
use crate::support::TestService;
use crate::support::service::Options;

#[tokio::test]
async fn a_link_opens_the_pages_once_and_is_entered_with_its_use() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let url = link(&service, &organization.to_string(), "owner").await;
    let path = path_of(&service, &url);
    let mut browser = Browser::new(&service);
    browser.get(path).await.leads_to("/portal");
    let page = browser.get("/portal").await;
    page.is(200);
    page.says("Northwind");

    // A second use is a page that says so, whoever makes it.
    let mut other = Browser::new(&service);
    let again = other.get(path).await;
    again.is(410);
    again.says("This link was used already");
    assert!(other.cookies.is_empty(), "{:?}", other.cookies);
    browser.get(path).await.is(410);
    browser.get("/portal").await.is(200);

    let plain = "portal_sessions s WHERE s::text LIKE '%vcl_%' OR s::text LIKE '%vcb_%'";
    assert_eq!(service.db.count(plain).await, 0, "only hashes are kept");
    let entries = format!(
        "SELECT string_agg(action || ' ' || actor_type, ',' ORDER BY sequence)
           FROM billing_audit_log l WHERE organization_id = '{organization}'
            AND resource_type = 'portal_session'
            AND actor_id IN (SELECT id FROM service_api_keys)"
    );
    let expected = "portal_session_created api_key,portal_session_opened api_key";
    assert_eq!(service.db.value(&entries).await, expected);
    let from = "billing_audit_log l JOIN billing_audit_personal_data p ON p.entry_id = l.id
                 WHERE action = 'portal_session_opened' AND p.user_agent = 'kitchen table'";
    assert_eq!(service.db.count(from).await, 1);

    // So is its end, once.
    let cookie = browser.cookies.clone();
    let form = [("csrf", &*browser.get("/portal").await.form_token())];
    let page = browser.send(Method::POST, "/portal/sign-out", &form).await;
    page.leads_to("/portal/sign-in");
    browser.cookies = cookie;
    browser.get("/portal").await.is(303);
    let ended =
        "billing_audit_log WHERE action = 'portal_session_ended' AND actor_type = 'api_key'";
    assert_eq!(service.db.count(ended).await, 1);
}

#[tokio::test]
async fn one_code_opened_by_many_at_once_is_one_session() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let url = link(&service, &organization.to_string(), "owner").await;
    let tries = (0..16).map(|_| {
        let request = service.client.get(&url);
        async move { request.send().await.unwrap().status().as_u16() }
    });
    let mut statuses = futures_util::future::join_all(tries).await;
    statuses.sort_unstable();
    assert_eq!(statuses[0], 303);
    assert!(statuses[1..].iter().all(|one| *one == 410), "{statuses:?}");
}

/// Anybody can try one: they share a connection of those that look credentials up.
#[tokio::test]
async fn codes_that_are_none_take_nobodys_connections() {
    let service = TestService::intake_only().await;
    let options = service.db.options("postgres");
    let mut holder = PgConnection::connect_with(&options).await.unwrap();
    holder
        .execute("BEGIN; LOCK TABLE portal_sessions IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let tries = (0..24).map(|_| {
        let (one, other) = (Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let path = format!("/portal/enter?code=vcl_{one}{other}");
        let request = service.get(&path);
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    });
    let tries = Vec::from_iter(tries);
    let waiting = "pg_stat_activity WHERE datname = current_database()
                      AND wait_event_type = 'Lock' AND query LIKE '%portal_sessions%'";
    while service.db.count(waiting).await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut most = 0;
    for _ in 0..50 {
        most = most.max(service.db.count(waiting).await);
    }
    assert!(most <= 2, "{most} wait");
    holder.execute("ROLLBACK").await.unwrap();
    for tried in tries {
        assert_eq!(tried.await.unwrap(), 404);
    }
}

#[tokio::test]
async fn what_only_looks_ahead_uses_nothing() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let url = link(&service, &organization.to_string(), "owner").await;
    let client = &service.client;
    let ahead = [
        client.head(&url),
        client.get(&url).header("sec-purpose", "prefetch;prerender"),
        client.get(&url).header("purpose", "prefetch"),
    ];
    for request in ahead {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 204);
        assert!(response.headers().get("set-cookie").is_none());
    }
    let mut browser = Browser::new(&service);
    browser
        .get(path_of(&service, &url))
        .await
        .leads_to("/portal");
}

#[tokio::test]
async fn codes_and_sessions_end() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let name = organization.to_string();
    let late = link(&service, &name, "owner").await;
    let expire = "UPDATE portal_sessions SET code_expires_at = now()";
    service.db.execute(expire).await;
    let mut browser = Browser::new(&service);
    let page = browser.get(path_of(&service, &late)).await;
    page.is(410);
    page.says("This link has expired");

    for end in [
        "UPDATE portal_sessions SET expires_at = now()",
        "UPDATE portal_sessions SET ended_at = now()",
        "UPDATE service_api_keys SET revoked_at = now()",
        "UPDATE service_api_keys SET expires_at = now()",
    ] {
        let mut browser = Browser::of(&service, organization, "owner").await;
        browser.get("/portal").await.is(200);
        service.db.execute(end).await;
        let page = browser.get("/portal").await;
        page.leads_to("/portal/sign-in?next=%2Fportal");
    }
    // A code whose key was revoked, or has expired, opens nothing, and nothing is said to be.
    let opened = "billing_audit_log WHERE action = 'portal_session_opened'";
    let before = service.db.count(opened).await;
    for end in ["revoked_at", "expires_at"] {
        let url = link(&service, &name, "owner").await;
        let end = format!("UPDATE service_api_keys SET {end} = now()");
        service.db.execute(&end).await;
        let page = Browser::new(&service).get(path_of(&service, &url)).await;
        page.is(410);
    }
    assert_eq!(service.db.count(opened).await, before);

    // Signing out ends the session, and not the cookie alone.
    let mut browser = Browser::of(&service, organization, "owner").await;
    let kept = browser.cookies.clone();
    let page = browser.post_to("/portal/sign-out", &[]).await;
    page.leads_to("/portal/sign-in");
    assert!(!browser.cookies.contains_key("portal"));
    browser.cookies = kept;
    browser.get("/portal").await.is(303);
}

#[tokio::test]
async fn a_browser_never_goes_on_with_a_session_that_somebody_gave_it() {
    let service = TestService::intake_only().await;
    let victim = service.organization("Victim").await;
    let attacker = service.organization("Attacker").await;
    // The attacker's session, planted in the victim's browser, ends when the victim comes.
    let planted = Browser::of(&service, attacker, "owner").await;
    let mut browser = Browser::new(&service);
    browser.cookies = planted.cookies.clone();
    let url = link(&service, &victim.to_string(), "owner").await;
    browser
        .get(path_of(&service, &url))
        .await
        .leads_to("/portal");
    assert_ne!(browser.cookies["portal"], planted.cookies["portal"]);
    browser.get("/portal").await.says("Victim");
    let mut planted = planted;
    planted.get("/portal").await.is(303);
    // What nobody was given is no session, and two cookies are none.
    let invented = format!("vcb_{}", "0".repeat(64));
    let own = browser.cookies["portal"].clone();
    for value in [invented.clone(), format!("{own}; portal={invented}")] {
        browser.cookies.insert("portal".to_owned(), value);
        browser.get("/portal").await.is(303);
    }
}

#[tokio::test]
async fn cookie_and_bearer_never_stand_for_each_other() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let browser = Browser::of(&service, organization, "owner").await;
    let session = browser.cookies["portal"].clone();
    let request = service.get("/api/billing/subscription");
    let refused = request.bearer_auth(&session).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let cookie = format!("portal={session}");
    let request = service.get("/api/billing/subscription");
    let refused = request.header("cookie", &cookie).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    // The console is not theirs, nor are these pages an operator's.
    let request = service
        .get("/console")
        .header("cookie", format!("console={session}"));
    let refused = request.send().await.unwrap();
    assert_eq!(refused.status(), 303);
    let operator = service.token(Uuid::nil(), Role::Operator).await;
    let key = service.api_key(organization, &Permission::ALL).await;
    for token in [operator, key] {
        let mut browser = Browser::new(&service);
        browser.cookies.insert("portal".to_owned(), token);
        browser.get("/portal").await.is(303);
    }
}

#[tokio::test]
async fn a_session_is_asked_for_as_the_contract_says() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    service
        .db
        .execute(&format!(
            "UPDATE organizations SET external_id = 'acme/eu' WHERE id = '{organization}'"
        ))
        .await;
    let of = |more: serde_json::Value| {
        let mut body = json!({"organization": "acme/eu", "role": "member"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let (status, made) = asked(&service, &of(json!({"ttlSeconds": 60}))).await;
    assert_eq!(status, 201, "{made:#}");
    assert_eq!(made.as_object().unwrap().len(), 2, "{made:#}");
    let lasts = "SELECT extract(epoch FROM expires_at - created_at)::int / 10 FROM portal_sessions";
    assert!(["5", "6"].contains(&&*service.db.value(lasts).await));
    for (body, status, code) in [
        (json!({"role": "operator"}), 422, "role_invalid"),
        (json!({"role": "Owner"}), 422, "role_invalid"),
        (json!({"ttlSeconds": 0}), 422, "ttl_out_of_range"),
        (json!({"ttlSeconds": 86_401}), 422, "ttl_out_of_range"),
        (
            json!({"organization": "nobody"}),
            404,
            "organization_not_found",
        ),
        (json!({"organization": " "}), 400, "organization_invalid"),
        (json!({"organisation": "x"}), 400, "unknown_field"),
        (
            json!({"returnUrl": "https://evil.example"}),
            422,
            "return_url_not_allowed",
        ),
    ] {
        let (found, problem) = asked(&service, &of(body.clone())).await;
        let found = (found, problem["code"].as_str().unwrap());
        assert_eq!(found, (status, code), "{body}: {problem:#}");
    }
    // Only a service key with this scope may ask.
    let body = of(json!({}));
    let other = service.service_key(&[Permission::BillingManage]).await;
    let tenant = service.api_key(organization, &Permission::ALL).await;
    let user = service.token(organization, Role::Owner).await;
    for key in [other, tenant, user] {
        assert_eq!(asked_with(&service, &key, &body).await.0, 403);
    }
    // An archived organization is told so.
    let archive =
        format!("UPDATE organizations SET archived_at = now() WHERE id = '{organization}'");
    service.db.execute(&archive).await;
    let (status, problem) = asked(&service, &body).await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("organization_archived"))
    );
    assert_eq!(service.db.count("portal_sessions").await, 1);
}

#[tokio::test]
async fn pages_lead_back_to_the_product_and_nowhere_else() {
    let mut surface = SurfaceConfig::default();
    let product = reqwest::Url::parse("https://app.example.com/billing").unwrap();
    surface.addresses.application = Some(product.clone());
    surface.addresses.return_origins = vec![product];
    let options = Options {
        surface,
        workers: 0,
        ..Options::default()
    };
    let service = TestService::with(options).await;
    let organization = service.organization("Northwind").await.to_string();
    let named = json!({"organization": organization, "role": "member",
                       "returnUrl": "https://app.example.com/team?a=1&b=\"><script>"});
    let (status, made) = asked(&service, &named).await;
    assert_eq!(status, 201, "{made:#}");
    let mut browser = Browser::new(&service);
    let path = path_of(&service, made["url"].as_str().unwrap());
    browser.get(path).await.leads_to("/portal");
    let page = browser.get("/portal").await;
    page.says("href=\"https://app.example.com/team?a=1");
    assert!(!page.text.contains("<script"), "{}", page.text);
    for evil in [
        "javascript:alert(1)",
        "https://app.example.com@evil.example",
        "https://app.example.com.evil.example",
        "//evil.example",
        "https:/\\evil.example",
    ] {
        let body = json!({"organization": organization, "role": "member", "returnUrl": evil});
        let (status, problem) = asked(&service, &body).await;
        let found = (status, problem["code"].as_str().unwrap());
        assert_eq!(found, (422, "return_url_not_allowed"), "{evil}");
    }
    for next in ["https://evil.example", "//evil.example", "/console"] {
        let page = browser.get(&format!("/portal/sign-in?next={next}")).await;
        page.leads_to("/portal");
    }
}

#[tokio::test]
async fn an_organizations_own_users_sign_in_and_operators_do_not() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let pool = service.db.service_pool();
    for (email, role, of) in [
        ("owner@example.com", Role::Owner, Some(organization)),
        ("operator@example.com", Role::Operator, None),
    ] {
        let new = NewUser {
            email: email.to_owned(),
            role,
            organization_id: of,
            password: PASSWORD.to_owned(),
        };
        auth::create_user(&pool, &Hasher::default(), new, &auth::By::SYSTEM)
            .await
            .unwrap();
    }
    let mut browser = Browser::new(&service);
    let asked = browser.get("/portal/invoices").await;
    asked.leads_to("/portal/sign-in?next=%2Fportal%2Finvoices");
    let wrong = browser
        .sign_in("owner@example.com", "a wrong password")
        .await;
    wrong.is(401);
    wrong.says("Wrong e-mail address or password");
    let operator = browser.sign_in("operator@example.com", PASSWORD).await;
    operator.is(403);
    operator.says("/console");
    assert!(!browser.cookies.contains_key("portal"));
    browser
        .sign_in("owner@example.com", PASSWORD)
        .await
        .leads_to("/portal");
    browser.get("/portal").await.says("Northwind");
    let mut leaving = Browser::new(&service);
    leaving
        .sign_in("owner@example.com", PASSWORD)
        .await
        .leads_to("/portal");
    leaving
        .post_to("/portal/sign-out", &[])
        .await
        .leads_to("/portal/sign-in");
    let entries = "SELECT string_agg(action || ' ' || actor_type, ',' ORDER BY sequence)
                     FROM billing_audit_log WHERE resource_type = 'portal_session'
                      AND actor_id = (SELECT id FROM users WHERE email = 'owner@example.com')";
    let expected =
        "portal_session_opened user,portal_session_opened user,portal_session_ended user";
    assert_eq!(service.db.value(entries).await, expected);
    browser.get("/portal").await.says("Northwind");
    // Without the form of this browser, nobody is signed in.
    let form = [
        ("csrf", "x"),
        ("email", "owner@example.com"),
        ("password", PASSWORD),
    ];
    let mut other = Browser::new(&service);
    other.get("/portal/sign-in").await.is(200);
    let page = other.send(Method::POST, "/portal/sign-in", &form).await;
    page.is(403);
    assert!(!other.cookies.contains_key("portal"));
}

#[tokio::test]
async fn every_page_and_form_asks_for_a_session() {
    let service = TestService::intake_only().await;
    let mut browser = Browser::new(&service);
    let mut tried = 0;
    for route in api::table() {
        let open = ["/portal/enter", "/portal/sign-in"];
        if route.access != Access::Portal || open.contains(&&*route.path) {
            continue;
        }
        let path = route.path.replace("{id}", "x").replace("{*rest}", "x");
        let page = browser.send(route.method.unwrap(), &path, &[]).await;
        assert_eq!(page.status, 303, "{path}");
        assert!(page.location.starts_with("/portal/sign-in"), "{path}");
        tried += 1;
    }
    assert!(tried >= PAGES.len() + super::FORMS.len(), "{tried}");
}

#[tokio::test]
async fn pages_can_be_framed_where_the_operator_says_and_nowhere_else() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let mut browser = Browser::of(&service, organization, "owner").await;
    for path in PAGES
        .into_iter()
        .chain(["/portal/sign-in", "/portal/nothing"])
    {
        let page = browser.get(path).await;
        if page.status == 303 {
            continue;
        }
        assert!(page.policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(page.policy.starts_with("default-src 'none'"), "{path}");
        assert!(!page.policy.contains("script"), "{path}");
        assert_eq!(page.framing, "DENY", "{path}");
    }
    let url = link(&service, &organization.to_string(), "owner").await;
    let page = browser.get(path_of(&service, &url)).await;
    let cookie = page.cookies[0].as_str();
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );

    let mut surface = SurfaceConfig {
        portal: PortalConfig {
            name: "Acme".to_owned(),
            frame_ancestors: vec!["https://app.example.com".to_owned()],
            ..PortalConfig::default()
        },
        ..SurfaceConfig::default()
    };
    surface.addresses.public = Some(reqwest::Url::parse("https://billing.example.com").unwrap());
    let options = Options {
        surface,
        workers: 0,
        ..Options::default()
    };
    let framed = TestService::on(service.db.clone(), options).await;
    let url = link(&framed, &organization.to_string(), "owner").await;
    let path = url.strip_prefix("https://billing.example.com").unwrap();
    let mut browser = Browser::new(&framed);
    let page = browser.get(path).await;
    page.leads_to("/portal");
    let cookie = page.cookies[0].as_str();
    let expected = "; Path=/; HttpOnly; SameSite=None; Secure; Partitioned";
    assert!(
        cookie.starts_with("__Host-portal=vcb_") && cookie.ends_with(expected),
        "{cookie}"
    );
    let page = browser.get("/portal").await;
    page.is(200);
    page.says("Acme");
    assert!(
        page.policy
            .ends_with("frame-ancestors https://app.example.com")
    );
    assert_eq!(page.framing, "", "it would forbid what the policy allows");
    // The console stays as it is.
    assert_eq!(browser.get("/console/sign-in").await.framing, "DENY");
}
