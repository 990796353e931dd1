//! Service keys: the product's own, whose requests name their organization.

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::config::{Rates, SurfaceConfig, UsageConfig};
use valuecanvas_billing::tenancy::auth::{self, NewServiceKey, Permission, Role};

use crate::support::TestService;
use crate::support::product::{ORGANIZATIONS, Product};
use crate::support::program::{Ran, run_on};
use crate::support::service::Options;

const QUOTAS: &str = "/api/billing/quotas";
const CHECK: &str = "/api/billing/usage/check";

async fn api_keys(service: &TestService, arguments: &[&str]) -> Ran {
    let arguments = [&["api-keys"], arguments].concat();
    run_on(&service.db, &arguments).await
}

#[tokio::test]
async fn a_service_key_is_made_shown_once_listed_and_revoked_everywhere() {
    let service = TestService::intake_only().await;
    let other = TestService::beside(&service).await;
    service.db.organization("cus_1").await;
    let create = [
        "create",
        "--service",
        "--scope",
        "billing.read",
        "--scope",
        "organizations.manage",
        "--name",
        "product",
        "--json",
    ];
    let made = api_keys(&service, &create).await;
    assert_eq!(made.status, 0, "{}", made.stderr);
    let made = made.json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(key.starts_with("vcp_") && key.starts_with(made["prefix"].as_str().unwrap()));
    assert_eq!(
        made["scopes"],
        json!(["billing.read", "organizations.manage"])
    );
    assert!(made.get("organizationId").is_none());
    let product = Product {
        key: key.to_owned(),
    };
    for replica in [&service, &other] {
        assert_eq!(product.get(replica, ORGANIZATIONS).await.status, 200);
    }
    let plain = "service_api_keys k WHERE k::text LIKE '%vcp_%' AND length(prefix) > 12";
    assert_eq!(service.db.count(plain).await, 0, "only hashes are kept");
    let mut tries = 0;
    let listed = loop {
        let listed = api_keys(&service, &["list", "--service", "--json"])
            .await
            .json();
        if listed[0]["lastUsedAt"].is_string() {
            break listed;
        }
        tries += 1;
        assert!(tries < 100, "the use of the key is never recorded");
    };
    assert_eq!(listed[0]["id"], made["id"]);
    assert!(!listed.to_string().contains(key));

    assert_eq!(
        api_keys(&service, &["revoke", id, "--service"])
            .await
            .status,
        0
    );
    for replica in [&service, &other] {
        let refused = product.get(replica, ORGANIZATIONS).await;
        assert_eq!(refused.problem(), (401, "unauthenticated"));
    }
    let again = api_keys(&service, &["revoke", id, "--service"]).await;
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("list --service"), "{}", again.stderr);
    let entered = "SELECT string_agg(action || ' ' || resource_type || ' ' || resource_id, ', ' ORDER BY sequence)
                     FROM billing_audit_log WHERE organization_id = '00000000-0000-0000-0000-000000000000'
                      AND action LIKE 'service_key%'";
    assert_eq!(
        service.db.value(entered).await,
        format!("service_key_created service_key {id}, service_key_revoked service_key {id}")
    );
    let initiators =
        "billing_audit_log WHERE action LIKE 'service_key%' AND metadata ? 'initiator'";
    assert_eq!(service.db.count(initiators).await, 2);
}

#[tokio::test]
async fn a_key_is_an_organizations_or_the_products() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Acme").await.to_string();
    let scope = ["--scope", "billing.read"];
    for (arguments, said) in [
        (vec!["create"], "--service"),
        (
            vec!["create", "--service", "--organization", &organization],
            "cannot be used with",
        ),
        (vec!["list"], "--service"),
    ] {
        let arguments = [
            &arguments[..],
            if arguments[0] == "create" {
                &scope[..]
            } else {
                &[]
            },
        ]
        .concat();
        let refused = api_keys(&service, &arguments).await;
        assert_eq!(refused.status, 2, "{arguments:?}");
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    let manage = [
        "create",
        "--organization",
        &organization,
        "--scope",
        "organizations.manage",
    ];
    let refused = api_keys(&service, &manage).await;
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("--service"), "{}", refused.stderr);
    // By SQL it is no use either.
    let key = service
        .api_key(organization.parse().unwrap(), &Permission::OF_SERVICE)
        .await;
    let product = Product { key };
    let refused = product.get(&service, ORGANIZATIONS).await;
    assert_eq!(refused.problem(), (403, "forbidden"));
    let expired = NewServiceKey {
        name: "product".to_owned(),
        scopes: vec![Permission::BillingRead],
        expires_at: Some(jiff::Timestamp::now()),
    };
    let now = jiff::Timestamp::now();
    let refused =
        auth::create_service_key(&service.db.service_pool(), expired, now, &auth::By::SYSTEM).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_request_says_which_organization_it_is_for() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let acme = product.make(&service, "acme").await;
    let other = product.make(&service, "%C3%BCber%2Fother").await;
    let missing = product.get(&service, QUOTAS).await;
    assert_eq!(missing.problem(), (400, "organization_missing"));
    let unknown = product.get_for(&service, "nobody", QUOTAS).await;
    assert_eq!(unknown.problem(), (404, "organization_not_found"));
    let nil = Uuid::nil().to_string();
    let unknown = product.get_for(&service, &nil, QUOTAS).await;
    assert_eq!(unknown.problem(), (404, "organization_not_found"));

    let long = "x".repeat(256);
    for bad in [&b""[..], b" ", b"\xfc", b"a\tb", b".", long.as_bytes()] {
        let bad = HeaderValue::from_bytes(bad).unwrap();
        let request = product.request(&service, Method::GET, QUOTAS);
        let refused = product
            .send(request.header("x-organization", bad.clone()))
            .await;
        assert_eq!(refused.problem(), (400, "organization_invalid"), "{bad:?}");
    }
    let request = product.request(&service, Method::GET, QUOTAS);
    let twice = request
        .header("x-organization", "acme")
        .header("x-organization", "acme");
    assert_eq!(
        product.send(twice).await.problem(),
        (400, "organization_invalid")
    );
    let path = format!("{ORGANIZATIONS}/acme");
    let both = product.get_for(&service, "acme", &path).await;
    assert_eq!(both.problem(), (400, "organization_not_selectable"));

    // What is counted is the named organization's, by either name.
    let check = json!({"metric": "api_calls", "quantity": 1, "consume": true});
    for named in ["acme", &acme] {
        product.post_for(&service, named, CHECK, &check).await.ok();
    }
    let name = HeaderValue::from_bytes("über/other".as_bytes()).unwrap();
    let request = product.request(&service, Method::POST, CHECK).json(&check);
    product
        .send(request.header("x-organization", name))
        .await
        .ok();
    let totals =
        "SELECT string_agg(organization_id || ' ' || total::float, ', ' ORDER BY total DESC)
                    FROM usage_totals";
    assert_eq!(
        service.db.value(totals).await,
        format!("{acme} 2, {other} 1")
    );
}

#[tokio::test]
async fn with_any_other_credential_the_header_is_refused() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let acme: Uuid = product.make(&service, "acme").await.parse().unwrap();
    let user = service.token(acme, Role::Owner).await;
    let key = service.api_key(acme, &Permission::ALL).await;
    let operator = service.token(Uuid::nil(), Role::Operator).await;
    for (credential, path) in [
        (&user, QUOTAS),
        (&key, QUOTAS),
        (&operator, "/api/operator/organizations"),
    ] {
        let request = service
            .get(path)
            .bearer_auth(credential)
            .header("x-organization", "acme");
        let refused = product.send(request).await;
        assert_eq!(refused.problem(), (400, "organization_not_selectable"));
        let request = service.get(ORGANIZATIONS).bearer_auth(credential);
        assert_eq!(product.send(request).await.problem(), (403, "forbidden"));
    }
    let operators = product.get(&service, "/api/operator/organizations").await;
    assert_eq!(operators.problem(), (403, "forbidden"));
    let logout = product.request(&service, Method::POST, "/api/auth/logout");
    assert_eq!(product.send(logout).await.problem(), (403, "forbidden"));
}

/// An `Idempotency-Key` is the named organization's: another may use the same.
#[tokio::test]
async fn what_is_kept_for_a_key_is_kept_for_its_organization() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    for named in ["acme", "other"] {
        product.make(&service, named).await;
    }
    let check = json!({"metric": "api_calls", "quantity": 1, "consume": true});
    for (named, usage) in [("acme", 1), ("other", 1), ("acme", 1)] {
        let request = product.request(&service, Method::POST, CHECK).json(&check);
        let request = request
            .header("x-organization", named)
            .header("idempotency-key", "same");
        let counted = product.send(request).await.ok();
        assert_eq!(counted["usage"], usage, "{named}");
    }
    assert_eq!(
        service
            .db
            .value("SELECT sum(total)::float FROM usage_totals")
            .await,
        "2"
    );
}

#[tokio::test]
async fn no_organization_takes_what_the_key_may_send_for_others() {
    let rates = Rates {
        api_per_minute: 4,
        usage_per_minute: 5,
    };
    let surface = SurfaceConfig {
        rates,
        ..SurfaceConfig::default()
    };
    let options = Options {
        workers: 0,
        surface,
        ..Options::default()
    };
    let service = TestService::with(options).await;
    let product = Product::of(&service).await;
    for named in ["acme", "other"] {
        product.make(&service, named).await;
    }
    for _ in 0..4 {
        assert_eq!(product.get_for(&service, "acme", QUOTAS).await.status, 200);
    }
    let refused = product.get_for(&service, "acme", QUOTAS).await;
    assert_eq!(refused.problem(), (429, "rate_limited"));
    assert_eq!(product.get_for(&service, "other", QUOTAS).await.status, 200);

    let event = |id: &str, organization: &str| json!({"id": id, "organization": organization, "metric": "api_calls", "quantity": 1});
    let mut events: Vec<Value> = (0..5).map(|n| event(&format!("a{n}"), "acme")).collect();
    events.push(event("b", "other"));
    let post = async |events: &[Value]| {
        let path = "/api/billing/usage/events";
        let request = product.request(&service, Method::POST, path).json(&events);
        product.send(request).await.ok()
    };
    // A batch larger than the limit takes a full bucket, and the next one is refused: of
    // that organization alone.
    post(&events[..4]).await;
    let answer = post(&events).await;
    assert_eq!(answer["recorded"], 1, "{answer}");
    let results = answer["results"].as_array().unwrap();
    assert!(
        results[..5]
            .iter()
            .all(|r| r["code"] == "rate_limited" && r["retryable"] == true)
    );
    assert_eq!(results[5]["status"], "recorded");
}

#[tokio::test]
async fn a_proxy_names_the_organization_only_where_it_is_trusted() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let acme = product.make(&service, "acme").await;
    let enforce = "/api/enforce?metric=api_calls";
    let refused = product.get_for(&service, "acme", enforce).await;
    assert_eq!(refused.problem(), (400, "organization_not_selectable"));
    assert!(
        refused.body["detail"]
            .as_str()
            .unwrap()
            .contains("ENFORCE_TRUST_HEADERS")
    );
    let options = Options {
        workers: 0,
        usage: UsageConfig {
            trust_headers: true,
            ..UsageConfig::default()
        },
        ..Options::default()
    };
    let trusting = TestService::beside_with(&service, options).await;
    product.get_for(&trusting, "acme", enforce).await.ok();
    let missing = product.get(&trusting, enforce).await;
    assert_eq!(missing.problem(), (400, "organization_missing"));
    let total = format!("SELECT total::float FROM usage_totals WHERE organization_id = '{acme}'");
    assert_eq!(service.db.value(&total).await, "1");
}
