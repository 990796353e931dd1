//! An operator's own account: sessions, password and second factor.

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use valuecanvas_billing::config::{OperatorConfig, SurfaceConfig};
use valuecanvas_billing::tenancy::auth::totp;

use super::{Browser, Desk, OPERATOR, PASSWORD, Page, READER, is_ok};
use crate::support::TestService;
use crate::support::program::run_on;
use crate::support::service::Options;

const ACCOUNT: &str = "/console/account";
const ENROLMENT: &str = "/console/account/second-factor";
const CODE: &str = "/console/sign-in/code";

impl Page {
    /// The secret that it shows for an authenticator.
    fn secret(&self) -> Vec<u8> {
        let shown = self.text.split("<code>").skip(1);
        let shown = shown.filter_map(|rest| rest.split("</code>").next());
        let mut secrets = shown.filter(|text| text.len() == 32);
        from_base32(secrets.next().unwrap_or_else(|| panic!("{}", self.text)))
    }

    fn proposal(&self) -> String {
        self.after("name=\"proposal\" value=\"")
    }

    fn recovery_codes(&self) -> Vec<String> {
        let codes = self.text.split("<pre><code>").nth(1).unwrap();
        let codes = codes.split("</code>").next().unwrap();
        codes.lines().map(str::to_owned).collect()
    }
}

fn from_base32(text: &str) -> Vec<u8> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let values = text.chars().map(|c| alphabet.find(c).unwrap());
    let bits: Vec<bool> = values
        .flat_map(|value| (0..5).rev().map(move |bit| value >> bit & 1 == 1))
        .collect();
    let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    bits.chunks_exact(8).map(byte).collect()
}

/// The code of an authenticator.
fn code(secret: &[u8]) -> String {
    totp::code_at(secret, Timestamp::now()).unwrap()
}

/// The code of half a minute later, which counts already.
fn next_code(secret: &[u8]) -> String {
    totp::code_at(secret, Timestamp::now() + SignedDuration::from_secs(30)).unwrap()
}

impl Desk {
    /// Lets codes of before count again.
    async fn forget_codes(&self) {
        self.service
            .db
            .execute("UPDATE operator_second_factors SET last_step = 0")
            .await;
    }

    async fn log_in(&self, body: Value) -> (u16, Value) {
        let request = self.service.post("/api/auth/login").json(&body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Gives the operator a second factor: its secret, recovery codes, and the code that was used.
    async fn enrolled(&self, browser: &mut Browser<'_>) -> (Vec<u8>, Vec<String>, String) {
        let form = browser.get(ENROLMENT).await;
        is_ok(&form);
        let secret = form.secret();
        let used = code(&secret);
        let fields = [
            ("csrf", &*form.form_token()),
            ("proposal", &*form.proposal()),
            ("code", &*used),
            ("current", PASSWORD),
        ];
        let page = browser.send(Method::POST, ENROLMENT, &fields).await;
        is_ok(&page);
        assert!(page.text.contains("It is in use"), "{}", page.text);
        (secret, page.recovery_codes(), used)
    }
}

impl Browser<'_> {
    /// Sends the code that is due.
    async fn code(&mut self, code: &str) -> Page {
        let form = self.get(CODE).await;
        let fields = [("csrf", &*form.form_token()), ("code", code)];
        self.send(Method::POST, CODE, &fields).await
    }

    async fn is_signed_in(&mut self) -> bool {
        self.get("/console").await.status == 200
    }
}

#[tokio::test]
async fn sessions_are_listed_with_where_they_are_from_and_end_on_every_replica() {
    let desk = Desk::open().await;
    let replica = TestService::beside(&desk.service).await;
    let mut here = Browser::of(&desk.service, OPERATOR).await;
    let mut there = Browser::of(&desk.service, OPERATOR).await;
    let mut third = Browser::of(&desk.service, OPERATOR).await;
    let page = here.get(ACCOUNT).await;
    is_ok(&page);
    assert_eq!(
        page.text.matches("127.0.0.1</span>").count(),
        3,
        "{}",
        page.text
    );
    assert_eq!(page.text.matches(">this one<").count(), 1);
    // The one that was used last comes first; one of the others is ended.
    let one = page.after("name=\"session\" value=\"");
    let ended = here
        .post(ACCOUNT, &[("do", "end-session"), ("session", &one)])
        .await;
    assert_eq!((ended.status, &*ended.location), (303, ACCOUNT));
    let left = [there.is_signed_in().await, third.is_signed_in().await];
    assert_eq!(left.iter().filter(|is| **is).count(), 1, "{left:?}");
    let again = here
        .post(ACCOUNT, &[("do", "end-session"), ("session", &one)])
        .await;
    assert!(again.text.contains("It had ended"), "{}", again.text);

    let others = here.post(ACCOUNT, &[("do", "end-others")]).await;
    assert_eq!(others.status, 303);
    for browser in [&mut there, &mut third] {
        assert!(!browser.is_signed_in().await);
        browser.service = &replica;
        assert!(!browser.is_signed_in().await, "nor on the other replica");
    }
    here.service = &replica;
    assert!(here.is_signed_in().await);
    assert_eq!(desk.entries("user_session_ended", OPERATOR).await, 1);
    assert_eq!(desk.entries("user_sessions_ended", OPERATOR).await, 1);
    assert_eq!(desk.entries("operator_signed_in", OPERATOR).await, 3);
}

#[tokio::test]
async fn an_operator_ends_anothers_sessions_and_who_only_reads_ends_their_own() {
    let desk = Desk::open().await;
    let mut operator = Browser::of(&desk.service, OPERATOR).await;
    let mut reader = Browser::of(&desk.service, READER).await;
    let mut second = Browser::of(&desk.service, READER).await;
    let id = |email: &str| format!("SELECT id::text FROM users WHERE email = '{email}'");
    let of_reader = desk.service.db.value(&id(READER)).await;
    let of_operator = desk.service.db.value(&id(OPERATOR)).await;

    let path = format!("/console/operators/{of_operator}");
    let page = reader.get(&path).await;
    is_ok(&page);
    assert!(page.text.contains("127.0.0.1"), "they look");
    assert!(!page.text.contains("name=\"do\""), "without buttons");
    let refused = reader.post(&path, &[("do", "end-all")]).await;
    assert_eq!(refused.status, 403);
    assert!(operator.is_signed_in().await);

    let own = reader.post(ACCOUNT, &[("do", "end-others")]).await;
    assert_eq!(own.status, 303, "{}", own.text);
    assert!(!second.is_signed_in().await);
    assert!(reader.is_signed_in().await);

    let path = format!("/console/operators/{of_reader}");
    let page = operator.get(&path).await;
    let session = page.after("name=\"session\" value=\"");
    // Of another operator it is none.
    let wrong = format!("/console/operators/{of_operator}");
    operator
        .post(&wrong, &[("do", "end-session"), ("session", &session)])
        .await;
    assert!(reader.is_signed_in().await);
    let ended = operator
        .post(&path, &[("do", "end-session"), ("session", &session)])
        .await;
    assert_eq!((ended.status, &*ended.location), (303, &*path));
    assert!(!reader.is_signed_in().await);
    assert!(desk.entries("operator_shown", READER).await > 0);
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions_and_the_old_one_is_asked_for() {
    let desk = Desk::open().await;
    let mut here = Browser::of(&desk.service, OPERATOR).await;
    let mut there = Browser::of(&desk.service, OPERATOR).await;
    let change = |current: &'static str, new: &'static str, again: &'static str| {
        [
            ("do", "password"),
            ("current", current),
            ("new", new),
            ("again", again),
        ]
    };
    for (fields, said) in [
        (
            change("a wrong one", "another one", "another one"),
            "password of now is wrong",
        ),
        (
            change(PASSWORD, "another one", "another two"),
            "two new passwords differ",
        ),
        (
            change(PASSWORD, "short", "short"),
            "expected a password of 6 to",
        ),
    ] {
        let page = here.post(ACCOUNT, &fields).await;
        assert_eq!(page.status, 422, "{}", page.text);
        assert!(page.text.contains(said), "{said}: {}", page.text);
    }
    assert!(there.is_signed_in().await);
    let page = here
        .post(ACCOUNT, &change(PASSWORD, "another one", "another one"))
        .await;
    assert_eq!(page.status, 303, "{}", page.text);
    assert!(here.is_signed_in().await);
    assert!(!there.is_signed_in().await);
    assert_eq!(there.sign_in(OPERATOR, PASSWORD).await.status, 401);
    assert_eq!(there.sign_in(OPERATOR, "another one").await.status, 303);
    assert_eq!(desk.entries("user_password_set", OPERATOR).await, 1);
}

#[tokio::test]
async fn a_second_factor_is_asked_for_wherever_an_operator_signs_in() {
    let desk = Desk::open().await;
    let mut here = Browser::of(&desk.service, OPERATOR).await;
    let mut there = Browser::of(&desk.service, OPERATOR).await;
    let (secret, _, used) = desk.enrolled(&mut here).await;
    assert!(here.is_signed_in().await);
    assert!(
        !there.is_signed_in().await,
        "its session had a password alone"
    );

    let page = there.sign_in(OPERATOR, PASSWORD).await;
    assert_eq!((page.status, page.location.starts_with(CODE)), (303, true));
    assert!(
        !there.is_signed_in().await,
        "the password alone is no session"
    );
    // That of the enrolment was used.
    let page = there.code(&used).await;
    assert_eq!(page.status, 422, "{}", page.text);
    assert!(page.text.contains("wrong, or was used"), "{}", page.text);
    let used = next_code(&secret);
    let page = there.code(&used).await;
    assert_eq!(
        (page.status, &*page.location),
        (303, "/console"),
        "{}",
        page.text
    );
    assert!(there.is_signed_in().await);

    let login = |code: Option<&str>| json!({"email": OPERATOR, "password": PASSWORD, "code": code});
    let (status, problem) = desk.log_in(login(None)).await;
    assert_eq!((status, &problem["code"]), (401, &json!("code_required")));
    let (status, problem) = desk.log_in(login(Some(&used))).await;
    assert_eq!((status, &problem["code"]), (401, &json!("invalid_code")));
    desk.forget_codes().await;
    let (status, session) = desk.log_in(login(Some(&code(&secret)))).await;
    assert_eq!((status, &session["role"]), (200, &json!("operator")));
    let kept = "operator_recovery_codes";
    assert_eq!(desk.service.db.count(kept).await, 10);
    assert_eq!(desk.entries("second_factor_enrolled", OPERATOR).await, 1);
}

#[tokio::test]
async fn a_code_is_for_the_browser_and_the_password_that_asked_for_it() {
    let desk = Desk::open().await;
    let mut here = Browser::of(&desk.service, OPERATOR).await;
    let (secret, _, _) = desk.enrolled(&mut here).await;
    desk.forget_codes().await;
    let mut there = Browser::new(&desk.service);
    there.sign_in(OPERATOR, PASSWORD).await;
    let right = code(&secret);

    // Another site's form, and another browser's.
    let forged = [("csrf", "forged"), ("code", &*right)];
    let page = there.send(Method::POST, CODE, &forged).await;
    assert_eq!((page.status, &*page.location), (303, "/console/sign-in"));
    assert!(!there.is_signed_in().await);
    let mut stranger = Browser::new(&desk.service);
    let form = stranger.get("/console/sign-in").await;
    let fields = [("csrf", &*form.form_token()), ("code", &*right)];
    let page = stranger.send(Method::POST, CODE, &fields).await;
    assert_eq!((page.status, &*page.location), (303, "/console/sign-in"));
    assert!(!stranger.is_signed_in().await);

    // What is sealed cannot be made up, and a planted session is none.
    there.sign_in(OPERATOR, PASSWORD).await;
    let sealed = there.cookies["console-step"].clone();
    there
        .cookies
        .insert("console-step".to_owned(), format!("{sealed}A"));
    assert_eq!(there.code(&right).await.location, "/console/sign-in");
    there
        .cookies
        .insert("console-step".to_owned(), sealed.clone());
    let planted = format!("vcs_{}", "a".repeat(64));
    there.cookies.insert("console".to_owned(), planted.clone());
    let page = there.code(&code(&secret)).await;
    assert_eq!(page.status, 303, "{}", page.text);
    assert_ne!(there.cookies["console"], planted);
    assert!(there.is_signed_in().await);

    // With another password, one begins again.
    let mut late = Browser::new(&desk.service);
    late.sign_in(OPERATOR, PASSWORD).await;
    here.post(
        ACCOUNT,
        &[
            ("do", "password"),
            ("current", PASSWORD),
            ("new", "another one"),
            ("again", "another one"),
        ],
    )
    .await;
    desk.forget_codes().await;
    assert_eq!(late.code(&right).await.location, "/console/sign-in");
}

#[tokio::test]
async fn a_recovery_code_is_used_once_and_new_ones_end_the_old() {
    let desk = Desk::open().await;
    let mut here = Browser::of(&desk.service, OPERATOR).await;
    let (secret, codes, _) = desk.enrolled(&mut here).await;
    assert_eq!(codes.len(), 10);
    let mut there = Browser::new(&desk.service);
    there.sign_in(OPERATOR, PASSWORD).await;
    let typed = codes[0].to_uppercase().replace('-', " ");
    assert_eq!(there.code(&typed).await.status, 303);
    assert!(there.is_signed_in().await);
    let mut third = Browser::new(&desk.service);
    third.sign_in(OPERATOR, PASSWORD).await;
    assert_eq!(third.code(&codes[0]).await.status, 422);
    assert_eq!(desk.entries("recovery_code_used", OPERATOR).await, 1);

    desk.forget_codes().await;
    let right = code(&secret);
    let renew = [("do", "recovery-codes"), ("code", &*right)];
    let page = here.post(ACCOUNT, &renew).await;
    is_ok(&page);
    let renewed = page.recovery_codes();
    assert_eq!(third.code(&codes[1]).await.status, 422);
    assert_eq!(third.code(&renewed[1]).await.status, 303);
    let stored = "operator_recovery_codes WHERE used_at IS NULL";
    assert_eq!(desk.service.db.count(stored).await, 9);

    let wrong = [("do", "remove-second-factor"), ("code", "000000")];
    assert_eq!(here.post(ACCOUNT, &wrong).await.status, 422);
    let remove = [("do", "remove-second-factor"), ("code", &*renewed[2])];
    assert_eq!(here.post(ACCOUNT, &remove).await.status, 303);
    let mut plain = Browser::of(&desk.service, OPERATOR).await;
    assert!(plain.is_signed_in().await);
}

#[tokio::test]
async fn guesses_of_codes_are_slowed_down() {
    let desk = Desk::open().await;
    let mut here = Browser::of(&desk.service, OPERATOR).await;
    let (secret, _, _) = desk.enrolled(&mut here).await;
    desk.forget_codes().await;
    let mut there = Browser::new(&desk.service);
    there.sign_in(OPERATOR, PASSWORD).await;
    assert_eq!(there.code("000000").await.status, 422);
    desk.service
        .db
        .execute("UPDATE login_throttles SET blocked_until = now() + interval '1 hour'")
        .await;
    let page = there.code(&code(&secret)).await;
    assert_eq!(page.status, 429, "{}", page.text);
    assert!(
        page.text.contains("Too many failed attempts"),
        "{}",
        page.text
    );
    assert!(!there.is_signed_in().await);
}

#[tokio::test]
async fn where_it_is_required_one_sets_it_up_at_sign_in() {
    let desk = Desk::open().await;
    let mut before = Browser::of(&desk.service, OPERATOR).await;
    let surface = SurfaceConfig {
        operators: OperatorConfig {
            require_second_factor: true,
            ..OperatorConfig::default()
        },
        ..SurfaceConfig::default()
    };
    let options = Options {
        workers: 0,
        surface,
        ..Options::default()
    };
    let strict = TestService::beside_with(&desk.service, options).await;
    assert!(before.is_signed_in().await);
    before.service = &strict;
    assert!(
        !before.is_signed_in().await,
        "a password alone is not enough any more"
    );
    let token = before.cookies["console"].clone();
    let request = strict.get("/api/operator/organizations").bearer_auth(token);
    assert_eq!(request.send().await.unwrap().status(), 401);
    let login = json!({"email": OPERATOR, "password": PASSWORD});
    let request = strict.post("/api/auth/login").json(&login);
    let problem: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(problem["code"], "second_factor_required");

    let mut browser = Browser::new(&strict);
    let path = "/console/sign-in/second-factor";
    let page = browser.sign_in(OPERATOR, PASSWORD).await;
    assert!(page.location.starts_with(path), "{}", page.location);
    let form = browser.get(&page.location).await;
    is_ok(&form);
    let secret = form.secret();
    let send = async |browser: &mut Browser<'_>, form: &Page, code: &str| {
        let (token, proposal) = (form.form_token(), form.proposal());
        let fields = [("csrf", &*token), ("proposal", &*proposal), ("code", code)];
        browser.send(Method::POST, path, &fields).await
    };
    let wrong = send(&mut browser, &form, "000000").await;
    assert_eq!(wrong.status, 422, "{}", wrong.text);
    assert_eq!(wrong.secret(), secret, "the same is shown again");
    assert!(!browser.is_signed_in().await);
    let page = send(&mut browser, &wrong, &code(&secret)).await;
    is_ok(&page);
    assert_eq!(page.recovery_codes().len(), 10);
    assert!(browser.is_signed_in().await);
    let remove = [
        ("do", "remove-second-factor"),
        ("code", &*next_code(&secret)),
    ];
    assert_eq!(browser.post(ACCOUNT, &remove).await.status, 409);
}

#[tokio::test]
async fn a_lost_second_factor_is_removed_by_a_command() {
    let desk = Desk::open().await;
    let mut here = Browser::of(&desk.service, OPERATOR).await;
    desk.enrolled(&mut here).await;
    let reset = ["users", "reset-second-factor", "--email", OPERATOR];
    let ran = run_on(&desk.service.db, &reset).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(!here.is_signed_in().await);
    let mut plain = Browser::of(&desk.service, OPERATOR).await;
    assert!(plain.is_signed_in().await);
    let left = "operator_recovery_codes";
    assert_eq!(desk.service.db.count(left).await, 0);
    let entered = "billing_audit_log WHERE action = 'second_factor_reset'
                    AND actor_type = 'system' AND metadata->'initiator' IS NOT NULL";
    assert_eq!(desk.service.db.count(entered).await, 1);
    let ran = run_on(&desk.service.db, &reset).await;
    assert!(
        ran.stderr.contains("has no second factor"),
        "{}",
        ran.stderr
    );
}
