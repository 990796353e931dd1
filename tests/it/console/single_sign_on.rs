//! Signing in by an identity provider, which may lie, be down, or be somebody else's.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use valuecanvas_billing::tenancy::auth::BrowserSession;

use super::{Browser, Page, is_ok};
use crate::support::TestService;
use crate::support::issuer::{SigningKey, keys};
use crate::support::provider::{CLIENT, Provider, SECRET};
use crate::support::service::Options;

const BEGIN: &str = "/console/sign-in/oidc";
const CALLBACK: &str = "/console/sign-in/oidc/callback";

/// A service, its provider, and the keys that this has.
struct Site {
    service: TestService,
    provider: Provider,
    keys: Vec<SigningKey>,
}

/// What the service asks of the provider, by the address to which it leads a browser.
struct Asked(BTreeMap<String, String>);

impl Asked {
    fn of(page: &Page) -> Self {
        assert_eq!(page.status, 303, "{}", page.text);
        let address = Url::parse(&page.location).unwrap();
        Self(address.query_pairs().into_owned().collect())
    }

    fn get(&self, name: &str) -> &str {
        &self.0[name]
    }

    /// Where the provider leads back to.
    fn back(&self) -> String {
        format!("{CALLBACK}?code=a-code&state={}", self.get("state"))
    }
}

impl Site {
    async fn open() -> Self {
        Self::behind(0).await
    }

    /// Behind as many proxies.
    async fn behind(trusted_proxies: u32) -> Self {
        let keys = tokio::task::spawn_blocking(|| keys(&["ES256", "RS256"]));
        let keys = keys.await.unwrap();
        let provider = Provider::start(&[&keys[0]]).await;
        let options = Options {
            workers: 0,
            trusted_proxies,
            surface: provider.surface(),
            ..Options::default()
        };
        Self {
            service: TestService::with(options).await,
            provider,
            keys,
        }
    }

    /// Signs in with these groups, and with these changes of the ID token's claims.
    async fn signs_in(&self, browser: &mut Browser<'_>, groups: &[&str], changes: Value) -> Page {
        let asked = Asked::of(&browser.get(BEGIN).await);
        let claims = self.provider.claims(asked.get("nonce"), groups);
        self.provider.signs(&self.keys[0], &claims, changes).await;
        browser.get(&asked.back()).await
    }

    async fn role(&self) -> String {
        let role = "SELECT coalesce(string_agg(CASE WHEN operator THEN 'operator'
                      WHEN operator_reads THEN 'operator.read' ELSE 'none' END, ','), '')
                      FROM users WHERE oidc_subject = 'ada'";
        self.service.db.value(role).await
    }
}

fn refused(page: &Page, status: u16, said: &str) {
    assert_eq!(page.status, status, "{}", page.text);
    assert!(page.text.contains(said), "{said}: {}", page.text);
    assert!(page.text.contains("You are not signed in"), "{}", page.text);
    assert!(
        !page
            .cookies
            .iter()
            .any(|cookie| cookie.starts_with("console=v"))
    );
}

#[tokio::test]
async fn groups_give_the_role_and_the_code_is_bound_to_the_browser() {
    let site = Site::open().await;
    let mut browser = Browser::new(&site.service);
    let page = browser
        .get("/console/sign-in?next=%2Fconsole%2Fwebhooks")
        .await;
    is_ok(&page);
    assert!(!page.text.contains("type=\"password\""), "{}", page.text);
    let begin = page.after("class=\"button\" href=\"").replace("&#38;", "&");
    let asked = Asked::of(&browser.get(&begin).await);
    assert_eq!(asked.get("response_type"), "code");
    assert_eq!(asked.get("client_id"), CLIENT);
    assert_eq!(asked.get("code_challenge_method"), "S256");
    let back = format!("{}{CALLBACK}", site.service.base);
    assert_eq!(asked.get("redirect_uri"), back);

    let claims = site
        .provider
        .claims(asked.get("nonce"), &["x", "billing-operators"]);
    site.provider.signs(&site.keys[0], &claims, json!({})).await;
    let page = browser.get(&asked.back()).await;
    assert_eq!(
        (page.status, &*page.location),
        (303, "/console/webhooks"),
        "{}",
        page.text
    );
    is_ok(&browser.get("/console/webhooks").await);
    assert_eq!(site.role().await, "operator");
    let (form, credentials) = site.provider.asked();
    let form: BTreeMap<String, String> = form_urlencoded::parse(form.as_bytes())
        .into_owned()
        .collect();
    assert_eq!(form["redirect_uri"], back);
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
    assert_eq!(challenge, asked.get("code_challenge"));
    let basic = credentials.strip_prefix("Basic ").unwrap();
    let basic = String::from_utf8(STANDARD.decode(basic).unwrap()).unwrap();
    let encoded: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    assert_eq!(basic, format!("{CLIENT}:{}", encoded.replace('+', "%20")));

    // The answer is for one use, and the session for what an operator does.
    let again = browser.get(&asked.back()).await;
    refused(&again, 403, "Begin again");
    let account = browser.get("/console/account").await;
    assert!(
        account.text.contains("identity provider"),
        "{}",
        account.text
    );
    assert!(!account.text.contains("type=\"password\""));
    let issuer = site.service.db.value("SELECT issuer FROM user_sessions");
    let issuer = issuer.await;
    assert!(account.text.contains(&issuer), "{}", account.text);
    let entered = format!(
        "billing_audit_log WHERE action = 'operator_signed_in'
            AND after_state->>'by' = 'oidc' AND after_state->>'issuer' = '{issuer}'"
    );
    assert_eq!(site.service.db.count(&entered).await, 1);
    // A session of another provider's ends, once this one is configured.
    let other = "UPDATE user_sessions SET issuer = 'https://former.example.com'";
    site.service.db.execute(other).await;
    let page = browser.get("/console/webhooks").await;
    assert!(
        page.location.starts_with("/console/sign-in"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn who_loses_the_group_loses_the_role_and_the_session() {
    let site = Site::open().await;
    let mut first = Browser::new(&site.service);
    let page = site
        .signs_in(&mut first, &["billing-operators"], json!({}))
        .await;
    assert_eq!(page.status, 303, "{}", page.text);
    let mut second = Browser::new(&site.service);
    let page = site
        .signs_in(&mut second, &["billing-support"], json!({}))
        .await;
    assert_eq!(page.status, 303, "{}", page.text);
    // The session of before does what the role does now.
    assert_eq!(site.role().await, "operator.read");
    let home = first.get("/console").await;
    assert!(home.text.contains("Read only"), "{}", home.text);
    let post = first
        .post("/console/operators", &[("do", "create-key")])
        .await;
    assert_eq!(post.status, 403);

    let mut third = Browser::new(&site.service);
    let page = site.signs_in(&mut third, &["another"], json!({})).await;
    refused(&page, 403, "none of your groups");
    assert_eq!(site.role().await, "none");
    for browser in [&mut first, &mut second] {
        assert_eq!(browser.get("/console").await.status, 303);
    }
    let set = "billing_audit_log WHERE action = 'operator_role_set'";
    assert_eq!(site.service.db.count(set).await, 3);
    // Back in the group, they are an operator again: the same one.
    let page = site
        .signs_in(&mut third, &["billing-operators"], json!({}))
        .await;
    assert_eq!(page.status, 303, "{}", page.text);
    assert_eq!(site.service.db.count("users").await, 1);
    site.service
        .db
        .execute("UPDATE users SET disabled_at = now()")
        .await;
    assert_eq!(third.get("/console").await.status, 303);
    let page = site
        .signs_in(&mut third, &["billing-operators"], json!({}))
        .await;
    refused(&page, 403, "disabled here");
}

#[tokio::test]
async fn an_unknown_group_gives_nothing() {
    let site = Site::open().await;
    for groups in [
        json!([]),
        json!(["Billing-Operators"]),
        json!({"billing-operators": true}),
    ] {
        let mut browser = Browser::new(&site.service);
        let changes = json!({"groups": groups});
        let page = site.signs_in(&mut browser, &[], changes).await;
        refused(&page, 403, "none of your groups");
    }
    assert_eq!(site.service.db.count("users").await, 0);
}

#[tokio::test]
async fn a_wrong_token_signs_nobody_in() {
    let site = Site::open().await;
    let mut browser = Browser::new(&site.service);
    let now = jiff::Timestamp::now().as_second();
    for (changes, said) in [
        (json!({"nonce": "another"}), "nonce"),
        (json!({"nonce": null}), "nonce"),
        (json!({"iss": "https://evil.example.com"}), "not believed"),
        (json!({"aud": "another"}), "not believed"),
        (json!({"aud": [CLIENT, "another"]}), "azp"),
        (json!({"azp": "another"}), "azp"),
        (json!({"exp": now - 120}), "not believed"),
        (json!({"iat": now + 3_600}), "iat"),
        (json!({"sub": ""}), "sub"),
    ] {
        let page = site
            .signs_in(&mut browser, &["billing-operators"], changes)
            .await;
        refused(&page, 502, said);
    }
    // Clocks may differ by a minute.
    let skewed = json!({"exp": now - 30, "iat": now + 30});
    let page = site
        .signs_in(&mut browser, &["billing-operators"], skewed)
        .await;
    assert_eq!(page.status, 303, "{}", page.text);
}

#[tokio::test]
async fn an_answer_to_another_sign_in_is_not_taken() {
    let site = Site::open().await;
    let (mut mine, mut theirs) = (Browser::new(&site.service), Browser::new(&site.service));
    let asked = Asked::of(&mine.get(BEGIN).await);
    let other = Asked::of(&theirs.get(BEGIN).await);
    let claims = site
        .provider
        .claims(asked.get("nonce"), &["billing-operators"]);
    site.provider.signs(&site.keys[0], &claims, json!({})).await;
    // Somebody else's answer, in a link that a victim follows: they have no such sign-in.
    refused(
        &Browser::new(&site.service).get(&asked.back()).await,
        403,
        "Begin again",
    );
    refused(&theirs.get(&asked.back()).await, 403, "Begin again");
    // Each sign-in is over with its first answer.
    refused(&theirs.get(&other.back()).await, 403, "Begin again");
    for wrong in [
        format!("{CALLBACK}?code=a-code"),
        format!("{CALLBACK}?code=a-code&state="),
        CALLBACK.to_owned(),
    ] {
        Asked::of(&theirs.get(BEGIN).await);
        refused(&theirs.get(&wrong).await, 403, "Begin again");
    }
    let other = Asked::of(&theirs.get(BEGIN).await);
    let foreign = format!("{}&iss=https%3A%2F%2Fevil.example.com", other.back());
    refused(&theirs.get(&foreign).await, 502, "another issuer");
    let other = Asked::of(&theirs.get(BEGIN).await);
    let denied = format!(
        "{CALLBACK}?error=%3Cb%3Eaccess_denied&state={}",
        other.get("state")
    );
    let page = theirs.get(&denied).await;
    refused(&page, 403, "access_denied");
    assert!(!page.text.contains("<b>"), "{}", page.text);
    // The one whose it is, is let in.
    assert_eq!(mine.get(&asked.back()).await.status, 303);
}

#[tokio::test]
async fn keys_rotate_and_a_key_that_is_not_published_signs_nothing() {
    let site = Site::open().await;
    let mut browser = Browser::new(&site.service);
    let page = site
        .signs_in(&mut browser, &["billing-operators"], json!({}))
        .await;
    assert_eq!(page.status, 303, "{}", page.text);
    // Another key, published meanwhile: it is read when a token names it.
    site.provider.publish(&[&site.keys[0], &site.keys[1]]);
    let asked = Asked::of(&browser.get(BEGIN).await);
    let claims = site
        .provider
        .claims(asked.get("nonce"), &["billing-operators"]);
    let mut forged = site.keys[1].clone();
    forged.private = site.keys[0].private.clone();
    forged.header = json!({"alg": "ES256", "kid": "key-1"});
    site.provider.signs(&forged, &claims, json!({})).await;
    refused(&browser.get(&asked.back()).await, 502, "does not publish");
    let asked = Asked::of(&browser.get(BEGIN).await);
    let claims = site
        .provider
        .claims(asked.get("nonce"), &["billing-operators"]);
    site.provider.signs(&site.keys[1], &claims, json!({})).await;
    let page = browser.get(&asked.back()).await;
    assert_eq!(page.status, 303, "{}", page.text);
    // None at all.
    let asked = Asked::of(&browser.get(BEGIN).await);
    let claims = site
        .provider
        .claims(asked.get("nonce"), &["billing-operators"]);
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"key-0"}"#);
    let body = URL_SAFE_NO_PAD.encode(claims.to_string());
    site.provider
        .answers(json!({"id_token": format!("{head}.{body}."), "access_token": "opaque"}));
    refused(&browser.get(&asked.back()).await, 502, "not believed");
}

#[tokio::test]
async fn groups_may_come_from_userinfo_if_it_is_about_the_same_user() {
    let site = Site::open().await;
    let mut browser = Browser::new(&site.service);
    let without = json!({"groups": null, "email": null});
    let groups = json!(["billing-support"]);
    site.provider
        .tells(json!({"sub": "somebody else", "groups": groups}));
    let page = site.signs_in(&mut browser, &[], without.clone()).await;
    refused(&page, 502, "another user");
    let said = json!({"sub": "ada", "groups": groups, "email": "ada@example.com"});
    site.provider.tells(said);
    let page = site.signs_in(&mut browser, &[], without).await;
    assert_eq!(page.status, 303, "{}", page.text);
    assert_eq!(site.role().await, "operator.read");
    let email = "SELECT email FROM users";
    assert_eq!(site.service.db.value(email).await, "ada@example.com");
}

#[tokio::test]
async fn a_provider_that_is_down_or_another_is_said_to_be_on_a_page() {
    let site = Site::open().await;
    let mut lying = site.provider.discovery();
    lying["issuer"] = json!("https://evil.example.com");
    site.provider.discovers(lying);
    let mut browser = Browser::new(&site.service);
    refused(&browser.get(BEGIN).await, 502, "another issuer");
    site.provider.discovers(site.provider.discovery());
    let replica = TestService::beside_with(
        &site.service,
        Options {
            workers: 0,
            surface: site.provider.surface(),
            ..Options::default()
        },
    )
    .await;
    let mut browser = Browser::new(&replica);
    let asked = Asked::of(&browser.get(BEGIN).await);
    site.provider.answers(json!({"error": "invalid_grant"}));
    refused(&browser.get(&asked.back()).await, 403, "invalid_grant");
    let asked = Asked::of(&browser.get(BEGIN).await);
    site.provider.is_silent();
    refused(&browser.get(&asked.back()).await, 502, "cannot be reached");
    let unavailable = "billing_oidc_sign_ins_total{outcome=\"unavailable\"}";
    assert!(site.service.metric(unavailable).await >= Some(1));
}

#[tokio::test]
async fn passwords_are_taken_beside_it_only_where_that_is_said() {
    let site = Site::open().await;
    let desk = super::Desk {
        organization: site.service.db.organization("cus_1").await,
        service: site.service,
    };
    desk.add_users().await;
    let mut browser = Browser::new(&desk.service);
    browser.get("/console/sign-in").await;
    let token = BrowserSession::new(browser.cookies["console-form"].clone()).form_token();
    let form = [
        ("csrf", &*token),
        ("email", super::OPERATOR),
        ("password", super::PASSWORD),
    ];
    let page = browser.send(Method::POST, "/console/sign-in", &form).await;
    assert_eq!(page.status, 403, "{}", page.text);
    let login = json!({"email": super::OPERATOR, "password": super::PASSWORD});
    let request = desk.service.post("/api/auth/login").json(&login);
    let problem: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(problem["code"], "sign_in_by_provider");
    // An organization's user signs in as before.
    let login = json!({"email": super::OWNER, "password": super::PASSWORD});
    let request = desk.service.post("/api/auth/login").json(&login);
    assert_eq!(request.send().await.unwrap().status(), 200);

    let mut surface = site.provider.surface();
    surface.operators.oidc.as_mut().unwrap().allow_passwords = true;
    let options = Options {
        workers: 0,
        surface,
        ..Options::default()
    };
    let lenient = TestService::beside_with(&desk.service, options).await;
    let mut browser = Browser::new(&lenient);
    let page = browser.sign_in(super::OPERATOR, super::PASSWORD).await;
    assert_eq!(page.status, 303, "{}", page.text);
    // The strict replica does not take that session.
    browser.service = &desk.service;
    assert_eq!(browser.get("/console").await.status, 303);
}

/// Anybody can begin, and lead a browser back with a code that nobody gave out.
#[tokio::test]
async fn codes_that_are_made_up_are_asked_about_so_often_and_no_more() {
    let site = Site::behind(1).await;
    let begun = site.service.get(BEGIN).send().await.unwrap();
    let cookie = begun.headers()["set-cookie"].to_str().unwrap().to_owned();
    let location = begun.headers()["location"].to_str().unwrap();
    let address = Url::parse(location).unwrap();
    let state = address.query_pairs().find(|(name, _)| name == "state");
    let back = format!("{CALLBACK}?code=made-up&state={}", state.unwrap().1);
    let kept = cookie.split(';').next().unwrap();
    let leads_back = async |from: String| {
        let request = site.service.get(&back).header("cookie", kept);
        let answer = request.header("x-forwarded-for", from).send().await;
        answer.unwrap().status().as_u16()
    };
    for n in 0..60 {
        // Its owner has all addresses of the network.
        assert_ne!(leads_back(format!("2001:db8::{n:x}")).await, 429, "{n}");
    }
    assert_eq!(leads_back("2001:db8::ffff".to_owned()).await, 429);
    assert_ne!(leads_back("192.0.2.1".to_owned()).await, 429);
}
