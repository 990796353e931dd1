//! Who gets a session, and what it is good for.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::app::api;
use valuecanvas_billing::server::routes::Access;

use super::{Browser, Desk, OPERATOR, OWNER, PASSWORD, READER, is_ok};
use crate::support::TestService;
use crate::support::service::Options;

#[tokio::test]
async fn a_browser_is_led_to_the_console_and_a_program_is_not() {
    let service = TestService::intake_only().await;
    let page = Browser::new(&service).get("/").await;
    assert_eq!((page.status, &*page.location), (303, "/console"));
    let page = Browser::new(&service).get("/console").await;
    let sign_in = "/console/sign-in?next=%2Fconsole";
    assert_eq!((page.status, &*page.location), (303, sign_in));
    let response = service.get("/").send().await.unwrap();
    assert_eq!(response.status(), 404);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "not_found");
}

#[tokio::test]
async fn signing_in_leads_to_the_page_that_was_asked_for_and_out_again() {
    let desk = Desk::open().await;
    let mut browser = Browser::new(&desk.service);
    let asked = browser.get("/console/webhooks?type=a").await;
    let form = browser.get(&asked.location).await;
    let fields = [
        ("csrf", &*form.form_token()),
        ("next", "/console/webhooks?type=a"),
        ("email", OPERATOR),
        ("password", PASSWORD),
    ];
    let page = browser
        .send(Method::POST, "/console/sign-in", &fields)
        .await;
    assert_eq!(
        (page.status, &*page.location),
        (303, "/console/webhooks?type=a")
    );
    is_ok(&browser.get("/console").await);

    let session = browser.cookies.clone();
    let page = browser.post("/console/sign-out", &[]).await;
    assert_eq!((page.status, &*page.location), (303, "/console/sign-in"));
    browser.cookies = session;
    let page = browser.get("/console").await;
    assert_eq!(
        page.status, 303,
        "the session has ended, and not the cookie alone"
    );
}

#[tokio::test]
async fn who_is_no_operator_is_told_so_and_keeps_no_session() {
    let desk = Desk::open().await;
    let mut browser = Browser::new(&desk.service);
    let page = browser.sign_in(OWNER, PASSWORD).await;
    assert_eq!(page.status, 403);
    assert!(
        page.text.contains("This account is no operator"),
        "{}",
        page.text
    );
    assert!(!browser.cookies.contains_key("console"));
    let open = "user_sessions WHERE revoked_at IS NULL";
    assert_eq!(desk.service.db.count(open).await, 0);

    let page = browser.sign_in(OPERATOR, "a wrong password").await;
    assert_eq!(page.status, 401);
    assert!(page.text.contains("Wrong e-mail address or password"));
}

#[tokio::test]
async fn two_tabs_can_sign_in_and_a_lost_cookie_is_told() {
    let desk = Desk::open().await;
    let mut browser = Browser::new(&desk.service);
    let first = browser.get("/console/sign-in").await.form_token();
    let second = browser.get("/console/sign-in").await.form_token();
    for token in [&first, &second] {
        let fields = [
            ("csrf", &**token),
            ("email", OPERATOR),
            ("password", PASSWORD),
        ];
        let page = browser
            .send(Method::POST, "/console/sign-in", &fields)
            .await;
        assert_eq!(
            (page.status, &*page.location),
            (303, "/console"),
            "{}",
            page.text
        );
    }
    let mut without = Browser::new(&desk.service);
    let fields = [
        ("csrf", &*first),
        ("email", OPERATOR),
        ("password", PASSWORD),
    ];
    let page = without
        .send(Method::POST, "/console/sign-in", &fields)
        .await;
    assert_eq!(page.status, 403);
    assert!(
        page.text.contains("the browser sent no cookie"),
        "{}",
        page.text
    );
    let again = [
        ("csrf", &*page.form_token()),
        ("email", OPERATOR),
        ("password", PASSWORD),
    ];
    let page = without.send(Method::POST, "/console/sign-in", &again).await;
    assert_eq!(page.status, 303, "the form that is shown can be sent");
}

#[tokio::test]
async fn attempts_are_throttled_together_with_those_by_the_api() {
    let desk = Desk::open().await;
    let mut browser = Browser::new(&desk.service);
    let page = browser.sign_in(OPERATOR, "a wrong password").await;
    assert_eq!(page.status, 401);
    let counters = desk.service.db.count("login_throttles").await;
    assert!(counters > 0);
    let attempt = |password: &str| {
        let login = json!({"email": OPERATOR, "password": password});
        desk.service.post("/api/auth/login").json(&login).send()
    };
    assert_eq!(attempt("another wrong one").await.unwrap().status(), 401);
    let now = desk.service.db.count("login_throttles").await;
    assert_eq!(now, counters, "the same are counted on");
    desk.service
        .db
        .execute("UPDATE login_throttles SET blocked_until = now() + interval '1 hour'")
        .await;
    assert_eq!(attempt(PASSWORD).await.unwrap().status(), 429);
    let page = browser.sign_in(OPERATOR, PASSWORD).await;
    assert_eq!(page.status, 429);
    assert!(
        page.text.contains("Too many failed attempts"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn a_session_is_made_anew_and_none_that_was_planted_is_taken() {
    let desk = Desk::open().await;
    let mut browser = Browser::new(&desk.service);
    let planted = format!("vcs_{}", "a".repeat(64));
    browser
        .cookies
        .insert("console".to_owned(), planted.clone());
    let page = browser.sign_in(OPERATOR, PASSWORD).await;
    assert_eq!(page.status, 303);
    let first = browser.cookies["console"].clone();
    assert_ne!(first, planted);
    // Signing in once more ends the session before it.
    let mut again = Browser::new(&desk.service);
    again.cookies.insert("console".to_owned(), first.clone());

    let mut other = Browser::new(&desk.service);
    let form = other.get("/console/sign-in").await;
    other.cookies.insert("console".to_owned(), first.clone());
    let fields = [
        ("csrf", &*form.form_token()),
        ("email", OPERATOR),
        ("password", PASSWORD),
    ];
    let page = other.send(Method::POST, "/console/sign-in", &fields).await;
    assert_eq!(page.status, 303);
    assert_ne!(other.cookies["console"], first);
    assert_eq!(again.get("/console").await.status, 303, "it has ended");
}

#[tokio::test]
async fn the_cookie_is_out_of_reach_of_scripts_and_of_other_sites() {
    let desk = Desk::open().await;
    let mut browser = Browser::new(&desk.service);
    let page = browser.sign_in(OPERATOR, PASSWORD).await;
    let session = page
        .cookies
        .iter()
        .find(|cookie| cookie.starts_with("console="));
    let session = session.expect("a session");
    for flag in ["; HttpOnly", "; SameSite=Lax", "; Path=/"] {
        assert!(session.contains(flag), "{session}");
    }

    let mut options = Options::default();
    options.surface.addresses.public = Some("https://billing.example.com".parse().unwrap());
    let secure = TestService::beside_with(&desk.service, options).await;
    let mut browser = Browser::new(&secure);
    let page = browser.sign_in(OPERATOR, PASSWORD).await;
    let mut cookies = page.cookies.iter();
    let session = cookies.find(|cookie| cookie.starts_with("__Host-console=vcs_"));
    assert!(session.unwrap().contains("; Secure"), "{session:?}");
}

#[tokio::test]
async fn a_cookie_opens_no_route_of_the_api_and_a_token_no_page() {
    let desk = Desk::open().await;
    let browser = Browser::of(&desk.service, OPERATOR).await;
    let token = &browser.cookies["console"];
    let cookie = format!("console={token}");
    let mut tried = 0;
    for route in api::table() {
        let method = route.method.clone().unwrap_or(Method::GET);
        let path = route
            .path
            .replace("{*rest}", "below")
            .replace("{id}", "none");
        let path = path.replace("{organization}", &desk.organization.to_string());
        let path = ["{user}", "{endpoint}", "{delivery}"]
            .into_iter()
            .fold(path, |path, id| path.replace(id, &Uuid::nil().to_string()));
        let url = format!("{}{path}", desk.service.base);
        let request = desk.service.client.request(method.clone(), url);
        if route.access == Access::Operator {
            let answer = request.header("cookie", &cookie).send().await.unwrap();
            assert_eq!(answer.status(), 401, "{method} {path}");
            tried += 1;
        } else if route.access == Access::Console && !path.ends_with("/sign-in") {
            let answer = request.bearer_auth(token).send().await.unwrap();
            assert_eq!(answer.status(), 303, "{method} {path}");
            let to = answer.headers()["location"].to_str().unwrap();
            assert!(to.starts_with("/console/sign-in"), "{to}");
            tried += 1;
        }
    }
    assert!(tried > 30);
}

#[tokio::test]
async fn a_read_only_operator_changes_nothing_by_the_api_either() {
    let desk = Desk::open().await;
    let login = json!({"email": READER, "password": PASSWORD});
    let answer = desk
        .service
        .post("/api/auth/login")
        .json(&login)
        .send()
        .await;
    let session: Value = answer.unwrap().json().await.unwrap();
    assert_eq!(session["role"], "operator.read");
    let token = session["token"].as_str().unwrap();
    let list = desk
        .service
        .get("/api/operator/dead-letters")
        .bearer_auth(token);
    assert_eq!(list.send().await.unwrap().status(), 200);
    let replay = desk.service.post("/api/operator/dead-letters/replay");
    let replay = replay
        .bearer_auth(token)
        .json(&json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(replay.status(), 403);
    let problem: Value = replay.json().await.unwrap();
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("operator.read"),
        "{problem}"
    );
}
