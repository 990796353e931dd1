//! Tokens of the product's own issuer, made by `jose`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Permission;

use crate::metering::tenant::Answer;
use crate::subscriptions::world::{Stripe, VISA, World};
use crate::support::TestService;
use crate::support::issuer::{
    AUDIENCE, Answers, ISSUER, Issuer, SigningKey, claims, keys, sign, token, wanted, with,
};
use crate::support::product::Product;
use crate::support::program::{program_on, run_beside};
use crate::support::service::Options;

const QUOTAS: &str = "/api/billing/quotas";
const STATE: &str = "/api/billing/state";
const PREVIEW: &str = "/api/billing/subscription/preview";
const SUBSCRIPTION: &str = "/api/billing/subscription";
const ROLES: [(&str, &str); 3] = [
    ("admin", "owner"),
    ("finance", "billing_manager"),
    ("member", "member"),
];

/// A service that accepts the issuer's tokens.
async fn service_of(issuer: &Issuer) -> TestService {
    TestService::with(Options {
        workers: 0,
        surface: issuer.surface(&ROLES),
        ..Options::default()
    })
    .await
}

/// The same, once it has read the keys.
async fn service_with_keys_of(issuer: &Issuer) -> TestService {
    let service = service_of(issuer).await;
    for _ in 0..1_000 {
        let read = service.metric("signing_keys_reads_total{outcome=\"ok\"}");
        if read.await > Some(0) {
            return service;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the keys are not read");
}

async fn get(service: &TestService, token: &str, path: &str) -> Answer {
    let request = service.get(path).bearer_auth(token);
    Answer::of(request.send().await.unwrap()).await
}

async fn post(service: &TestService, token: &str, path: &str, body: &Value) -> Answer {
    let request = service.post(path).bearer_auth(token).json(body);
    Answer::of(request.send().await.unwrap()).await
}

/// An issuer with one key, a service, and an organization of the product's.
async fn one() -> (Issuer, SigningKey, TestService, String) {
    let key = keys(&["ES256"]).remove(0);
    let issuer = Issuer::start(&[&key]).await;
    let service = service_with_keys_of(&issuer).await;
    let product = Product::of(&service).await;
    let id = product.make(&service, "acme").await;
    (issuer, key, service, id)
}

#[tokio::test]
async fn a_users_token_reads_and_manages_its_organization() {
    let algorithms = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ];
    let keys = keys(&algorithms);
    let issuer = Issuer::start(&keys.iter().collect::<Vec<_>>()).await;
    let world = World::with(
        Stripe::start().await,
        Options {
            surface: issuer.surface(&ROLES),
            ..Options::default()
        },
    )
    .await;
    let (service, organization) = (&world.service, world.organization.to_string());
    world.customer(VISA).await;
    let wanted: Vec<Value> = keys
        .iter()
        .map(|key| wanted(key, &claims(&organization, "admin")))
        .collect();
    let tokens = sign(&wanted);
    for (token, algorithm) in tokens.iter().zip(algorithms) {
        let answer = get(service, token, QUOTAS).await;
        assert_eq!(answer.status, 200, "{algorithm}: {answer:?}");
    }
    let made = post(
        service,
        &tokens[0],
        SUBSCRIPTION,
        &json!({"planTier": "standard"}),
    )
    .await;
    assert_eq!(made.status, 201, "{made:?}");
    // The same user on every replica, whatever the key: in the issuer's namespace.
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, ISSUER.as_bytes());
    let user = Uuid::new_v5(&namespace, b"auth0|ada");
    let entries = format!(
        "billing_audit_log WHERE organization_id = '{organization}' AND actor_type = 'user'
            AND actor_id = '{user}' AND resource_type = 'subscription'"
    );
    assert!(service.db.count(&entries).await > 0);
    assert_eq!(
        service
            .metric("issued_tokens_total{outcome=\"accepted\"}")
            .await,
        Some(10)
    );
}

#[tokio::test]
async fn a_role_gives_what_it_gives_here_and_an_unknown_one_nothing() {
    let (_issuer, key, service, id) = one().await;
    let of = |role: Value| wanted(&key, &with(&claims("acme", ""), json!({ "role": role })));
    let tokens = sign(&[
        of(json!("member")),
        of(json!("finance")),
        of(json!(["other", "member"])),
        of(json!("owner")),
        of(json!("operator")),
        of(json!("root")),
        of(json!(null)),
        of(json!({"admin": true})),
        wanted(&key, &claims(&id, "admin")),
    ]);
    let plan = json!({"planTier": "standard"});
    for reads in [0, 1, 2, 8] {
        assert_eq!(get(&service, &tokens[reads], QUOTAS).await.status, 200);
    }
    for only_reads in [0, 2] {
        let refused = post(&service, &tokens[only_reads], PREVIEW, &plan).await;
        assert_eq!(refused.problem(), (403, "forbidden"));
    }
    for manages in [1, 8] {
        let answer = post(&service, &tokens[manages], PREVIEW, &plan).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for nothing in &tokens[3..8] {
        for path in [QUOTAS, "/api/operator/organizations", "/api/organizations"] {
            let refused = get(&service, nothing, path).await;
            assert_eq!(refused.problem(), (403, "forbidden"), "{path}");
        }
    }
    // Whatever its role, it is a user's of one organization.
    for (method, path) in [
        (Method::GET, "/api/operator/organizations"),
        (Method::GET, "/api/organizations"),
        (Method::POST, "/api/auth/logout"),
    ] {
        let url = format!("{}{path}", service.base);
        let request = service.client.request(method, url).bearer_auth(&tokens[8]);
        let refused = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(refused.problem(), (403, "forbidden"), "{path}");
    }
}

#[tokio::test]
async fn a_token_is_for_its_organization_and_no_other() {
    let (_issuer, key, service, id) = one().await;
    let product = Product::of(&service).await;
    let other = product.make(&service, "other").await;
    let tokens = sign(&[
        wanted(&key, &claims("acme", "admin")),
        wanted(&key, &claims("nobody", "admin")),
        wanted(&key, &claims(&Uuid::now_v7().to_string(), "admin")),
    ]);
    let state = get(&service, &tokens[0], STATE).await.ok().to_string();
    assert!(state.contains(&id) && !state.contains(&other), "{state}");
    for named in ["other", other.as_str(), "acme", ""] {
        let request = service.get(STATE).bearer_auth(&tokens[0]);
        let answer = request
            .header("x-organization", named)
            .send()
            .await
            .unwrap();
        let refused = Answer::of(answer).await;
        assert_eq!(
            refused.problem(),
            (400, "organization_not_selectable"),
            "{named}"
        );
    }
    for nobody in &tokens[1..] {
        let refused = get(&service, nobody, STATE).await;
        assert_eq!(refused.problem(), (404, "organization_not_found"));
    }
    product.archive(&service, "acme").await;
    assert_eq!(get(&service, &tokens[0], STATE).await.status, 200);
    let refused = post(
        &service,
        &tokens[0],
        PREVIEW,
        &json!({"planTier": "standard"}),
    )
    .await;
    assert_eq!(refused.problem(), (409, "organization_archived"));
}

/// Everything that makes a token wrong, with what is said of it.
fn wrong_ones(
    key: &SigningKey,
    stranger: &SigningKey,
    weak: &SigningKey,
) -> Vec<(Value, &'static str)> {
    let now = jiff::Timestamp::now().as_second();
    let good = claims("acme", "admin");
    let claim = |changes: Value| wanted(key, &with(&good, changes));
    let head = |changes: Value| {
        let mut wanted = wanted(key, &good);
        wanted["header"] = with(&key.header, changes);
        wanted
    };
    let mut forged = wanted(stranger, &good);
    forged["header"] = key.header.clone();
    let unsecured = |alg: &str| json!({"header": with(&key.header, json!({"alg": alg})), "payload": good.to_string()});
    // The classic: signed with the public key as if it were a secret.
    let secret = key.public.to_string();
    let shared = json!({"secret": secret, "header": {"alg": "HS256", "kid": "key-0"},
                        "payload": good.to_string()});
    let twice = good.to_string().replacen('{', r#"{"org_id":"other","#, 1);
    let twice = json!({"key": key.private, "header": key.header, "payload": twice});
    let large = claim(json!({"x": "x".repeat(8 * 1024)}));
    vec![
        (forged, "signature"),
        (shared, "alg"),
        (unsecured("none"), "alg"),
        (unsecured("ES256"), "signature"),
        (wanted(weak, &good), "does not publish"),
        (head(json!({"kid": "key-9"})), "does not publish"),
        (head(json!({"kid": null})), "kid"),
        (head(json!({"typ": "logout+jwt"})), "typ"),
        (head(json!({"crit": ["x"], "x": 1})), "crit"),
        (claim(json!({"exp": now - 61})), "expired"),
        (claim(json!({"exp": null})), "exp"),
        (claim(json!({"exp": "never"})), "exp"),
        (claim(json!({"nbf": now + 120})), "not valid yet"),
        (claim(json!({"nbf": "soon"})), "nbf"),
        (claim(json!({"iat": now + 120})), "future"),
        (claim(json!({"iss": "https://id.example.com"})), "issuer"),
        (claim(json!({"iss": null})), "iss"),
        (claim(json!({"iss": [ISSUER]})), "issuer"),
        (claim(json!({"aud": "another"})), "another service"),
        (claim(json!({"aud": []})), "another service"),
        (claim(json!({"aud": null})), "aud"),
        (claim(json!({"sub": null})), "sub"),
        (claim(json!({"sub": ""})), "sub"),
        (claim(json!({"org_id": null})), "org_id"),
        (claim(json!({"org_id": ["acme"]})), "org_id"),
        (twice, "each name once"),
        (large, "longer than"),
        (
            json!({"key": key.private, "header": key.header, "payload": "[]"}),
            "",
        ),
        (
            json!({"key": key.private, "header": key.header, "payload": "no JSON"}),
            "",
        ),
    ]
}

#[tokio::test]
async fn each_wrong_token_is_refused_with_what_is_wrong() {
    let mut made = keys(&["ES256", "ES256", "RS256"]);
    let (weak, stranger, key) = (made.remove(2), made.remove(1), made.remove(0));
    // A key for encryption signs nothing.
    let mut other_use = weak.clone();
    other_use.public["use"] = json!("enc");
    let issuer = Issuer::start(&[&key, &other_use]).await;
    let service = service_of(&issuer).await;
    Product::of(&service).await.make(&service, "acme").await;
    let wrong = wrong_ones(&key, &stranger, &weak);
    let mut wanted: Vec<Value> = wrong.iter().map(|(wanted, _)| wanted.clone()).collect();
    let now = jiff::Timestamp::now().as_second();
    // Within the skew, and an audience among others.
    let good = with(
        &claims("acme", "admin"),
        json!({"exp": now - 30, "nbf": now + 30, "iat": now + 30, "aud": ["other", AUDIENCE]}),
    );
    wanted.push(crate::support::issuer::wanted(&key, &good));
    let mut tokens = sign(&wanted);
    let good = tokens.pop().unwrap();
    assert_eq!(get(&service, &good, QUOTAS).await.status, 200);
    let mut cut = good.clone();
    cut.truncate(good.len() - 2);
    let (said, mut wrong_tokens): (Vec<&str>, Vec<String>) =
        (wrong.iter().map(|(_, said)| *said).collect(), tokens);
    let said = [said, vec!["", "", ""]].concat();
    wrong_tokens.extend([cut, format!("{good}="), "a.b.c".to_owned()]);
    let before = service.db.count("billing_audit_log").await;
    for (token, said) in wrong_tokens.iter().zip(said) {
        for answer in [
            get(&service, token, QUOTAS).await,
            post(&service, token, PREVIEW, &json!({"planTier": "standard"})).await,
        ] {
            assert_eq!(
                answer.problem(),
                (401, "unauthenticated"),
                "{said}: {token}"
            );
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{said}");
            let detail = answer.body["detail"].as_str().unwrap();
            assert!(detail.contains(said), "{said}: {detail}");
        }
    }
    assert_eq!(service.db.count("billing_audit_log").await, before);
    // Where no issuer is named, a good one is as unknown as any other text.
    let plain = TestService::beside(&service).await;
    let refused = get(&plain, &good, QUOTAS).await;
    assert_eq!(refused.problem(), (401, "unauthenticated"));
}

#[tokio::test]
async fn keys_are_rotated_without_a_restart_and_strangers_cannot_have_them_read() {
    let keys = keys(&["ES256", "EdDSA"]);
    let issuer = Issuer::start(&[&keys[0]]).await;
    let service = service_with_keys_of(&issuer).await;
    Product::of(&service).await.make(&service, "acme").await;
    let good = claims("acme", "admin");
    let mut stranger = wanted(&keys[0], &good);
    stranger["header"]["kid"] = json!("random");
    let tokens = sign(&[wanted(&keys[0], &good), wanted(&keys[1], &good), stranger]);
    assert_eq!(get(&service, &tokens[0], QUOTAS).await.status, 200);
    issuer.publish(&[&keys[1]]);
    assert_eq!(
        get(&service, &tokens[1], QUOTAS).await.status,
        200,
        "the new key is looked for at once"
    );
    let refused = get(&service, &tokens[0], QUOTAS).await;
    assert_eq!(
        refused.problem(),
        (401, "unauthenticated"),
        "the old is gone"
    );
    let before = issuer.reads();
    let many = (0..50).map(|_| get(&service, &tokens[2], QUOTAS));
    for refused in futures_util::future::join_all(many).await {
        assert_eq!(refused.problem(), (401, "unauthenticated"));
    }
    assert!(issuer.reads() <= before + 1, "{before}, {}", issuer.reads());
    assert_eq!(get(&service, &tokens[1], QUOTAS).await.status, 200);
}

#[tokio::test]
async fn without_keys_no_token_is_called_wrong() {
    let key = keys(&["ES256"]).remove(0);
    let good = token(&key, &claims("acme", "admin"));
    let public = json!({"keys": [key.public]}).to_string();
    let slow = Arc::new(Notify::new());
    for answers in [
        Answers::With(StatusCode::INTERNAL_SERVER_ERROR, public.clone()),
        Answers::With(StatusCode::FOUND, public.clone()),
        Answers::With(StatusCode::OK, "<html>".to_owned()),
        Answers::With(StatusCode::OK, json!({"keys": []}).to_string()),
        Answers::With(
            StatusCode::OK,
            format!("{public}{}", " ".repeat(300 * 1024)),
        ),
        Answers::Late(slow.clone()),
    ] {
        let issuer = Issuer::start(&[]).await;
        issuer.answers(answers);
        let service = service_of(&issuer).await;
        Product::of(&service).await.make(&service, "acme").await;
        let answer = get(&service, &good, QUOTAS).await;
        assert_eq!(
            answer.problem(),
            (503, "signing_keys_unavailable"),
            "{answer:?}"
        );
        assert!(!answer.header("retry-after").is_empty());
        let own = service.api_key(
            service.organization("Own").await,
            &[Permission::BillingRead],
        );
        assert_eq!(get(&service, &own.await, QUOTAS).await.status, 200);
        slow.notify_waiters();
    }
}

#[tokio::test]
async fn a_host_that_is_down_leaves_the_last_keys() {
    let (issuer, key, service, _) = one().await;
    let tokens = sign(&[wanted(&key, &claims("acme", "admin"))]);
    assert_eq!(get(&service, &tokens[0], QUOTAS).await.status, 200);
    issuer.answer(StatusCode::BAD_GATEWAY, String::new());
    let before = issuer.reads();
    let mut unknown = wanted(&key, &claims("acme", "admin"));
    unknown["header"]["kid"] = json!("new");
    let unknown = sign(&[unknown]).remove(0);
    let refused = get(&service, &unknown, QUOTAS).await;
    assert_eq!(refused.problem(), (401, "unauthenticated"));
    assert!(issuer.reads() > before, "it was asked, and failed");
    let failed = service
        .metric("signing_keys_reads_total{outcome=\"failed\"}")
        .await;
    assert!(failed > Some(0));
    assert_eq!(get(&service, &tokens[0], QUOTAS).await.status, 200);
}

#[tokio::test]
async fn a_poll_ends_with_its_token() {
    let (_issuer, key, service, id) = one().await;
    let now = jiff::Timestamp::now().as_second();
    // It is over, skew included, while the poll waits.
    let short = with(&claims("acme", "admin"), json!({"exp": now - 55}));
    let tokens = sign(&[wanted(&key, &short), wanted(&key, &claims("acme", "admin"))]);
    let state = get(&service, &tokens[0], STATE).await.ok();
    let path = format!("{STATE}?after={}&wait=30", state["stateVersion"]);
    let change = async {
        // Once the short token is good for nothing.
        let until = Instant::now() + Duration::from_secs(30);
        while get(&service, &tokens[0], STATE).await.status != 401 {
            assert!(Instant::now() < until, "the token does not end");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let product = Product::of(&service).await;
        let changed = product
            .patch(&service, "acme", &json!({"name": "Acme & Co"}))
            .await;
        assert_eq!(changed.status, 200, "{changed:?}");
    };
    let polls = (
        get(&service, &tokens[0], &path),
        get(&service, &tokens[1], &path),
    );
    let (ended, goes_on, ()) = tokio::join!(polls.0, polls.1, change);
    assert_eq!(ended.problem(), (401, "unauthenticated"), "{ended:?}");
    assert!(goes_on.ok().to_string().contains(&id));
}

#[tokio::test]
async fn doctor_looks_for_the_keys() {
    let (issuer, _key, service, _) = one().await;
    let examine = async |url: &str| {
        let mut program = program_on(&service.db, &["doctor", "--json"]);
        program.env("AUTH_JWKS_URL", url);
        program.env("AUTH_ISSUER", ISSUER);
        program.env("AUTH_AUDIENCE", AUDIENCE);
        let checks = run_beside(program).await.json();
        let mut checks = checks.as_array().unwrap().iter();
        let check = checks.find(|check| check["name"] == "signing keys");
        check.unwrap().clone()
    };
    assert_eq!(examine(&issuer.url).await["verdict"], "ok");
    let away = examine("http://127.0.0.1:1/jwks").await;
    assert_eq!(away["verdict"], "failed");
    assert!(away["fix"].as_str().unwrap().contains("AUTH_JWKS_URL"));
}
