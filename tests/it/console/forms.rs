//! What is done by forms, by whom, and that each form is of its own session.

use reqwest::Method;

use super::bulk::BULK;
use super::{Browser, Desk, OPERATOR, READER, is_ok};

#[tokio::test]
async fn a_form_needs_the_token_of_its_own_session() {
    let desk = Desk::open().await;
    desk.deliver("cus_2", &["evt_1"]).await;
    let mut one = Browser::of(&desk.service, OPERATOR).await;
    let mut other = Browser::of(&desk.service, OPERATOR).await;
    let own = one.get("/console").await.form_token();
    let others = other.get("/console").await.form_token();
    assert_ne!(own, others);
    for path in ["/console/webhooks/evt_1", BULK, "/console/sign-out"] {
        for token in ["", "0", &*others] {
            let form = [("csrf", token), ("do", "discard")];
            let page = one.send(Method::POST, path, &form).await;
            assert_eq!(page.status, 403, "{path} {token}");
            assert!(page.text.contains("Nothing was done"), "{}", page.text);
        }
        let page = one.send(Method::POST, path, &[("do", "discard")]).await;
        assert_eq!(page.status, 403, "{path} without one");
    }
    let sign_in = [
        ("csrf", &*own),
        ("email", OPERATOR),
        ("password", super::PASSWORD),
    ];
    let mut nobody = Browser::new(&desk.service);
    let page = nobody
        .send(Method::POST, "/console/sign-in", &sign_in)
        .await;
    assert_eq!(
        page.status, 403,
        "nobody is signed in by another site's form"
    );
    assert_eq!(desk.dead_letters().await, 1);
    is_ok(&one.get("/console").await);
}

#[tokio::test]
async fn what_another_site_sends_is_refused_whatever_it_knows() {
    let desk = Desk::open().await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let token = browser.get("/console").await.form_token();
    let request = desk.service.post("/console/sign-out");
    let cookie = format!("console={}", browser.cookies["console"]);
    let request = request
        .header("cookie", cookie)
        .header("sec-fetch-site", "cross-site");
    let answer = request.form(&[("csrf", token)]).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    is_ok(&browser.get("/console").await);
}

#[tokio::test]
async fn a_read_only_operator_sees_no_buttons_and_is_refused() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    desk.deliver("cus_2", &["evt_2"]).await;
    let mut reader = Browser::of(&desk.service, READER).await;
    // Their own account is theirs to change.
    let others = desk.pages().into_iter();
    for path in others.filter(|path| !path.starts_with("/console/account")) {
        let page = reader.get(&path).await;
        is_ok(&page);
        let acts = page.text.matches("method=\"post\"").count();
        assert_eq!(acts, 1, "{path} has the form to sign out alone");
    }
    for path in ["/console/webhooks/evt_2", BULK] {
        for act in [
            "ask-replay",
            "rehearse",
            "replay",
            "ask-discard",
            "discard",
            "start",
        ] {
            let page = reader.post(path, &[("do", act)]).await;
            assert_eq!(page.status, 403, "{path} {act}");
            assert!(page.text.contains("operator.read"), "{}", page.text);
        }
    }
    assert_eq!(desk.dead_letters().await, 1);
}

#[tokio::test]
async fn a_dead_letter_is_tried_then_replayed_and_each_step_is_entered() {
    let desk = Desk::open().await;
    desk.deliver("cus_2", &["evt_1"]).await;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let path = "/console/webhooks/evt_1";
    let page = browser.post(path, &[("do", "rehearse")]).await;
    assert!(page.text.contains("It did not succeed"), "{}", page.text);
    desk.service.db.organization("cus_2").await;
    let page = browser.post(path, &[("do", "rehearse")]).await;
    assert!(
        page.text.contains("A replay would succeed: applied"),
        "{}",
        page.text
    );
    for said in [
        "billing_subscriptions",
        "sub_evt_1",
        "plan_tier",
        "subscription_created",
        "What this cannot show",
    ] {
        assert!(page.text.contains(said), "{said}: {}", page.text);
    }
    assert_eq!(desk.dead_letters().await, 1, "nothing is kept");
    assert_eq!(desk.entries("webhook_event_rehearsed", OPERATOR).await, 2);

    let page = browser.post(path, &[("do", "ask-replay")]).await;
    assert!(page.text.contains("Replay this event?"), "{}", page.text);
    assert_eq!(desk.dead_letters().await, 1, "it asks first");
    let page = browser.post(path, &[("do", "replay")]).await;
    assert!(page.text.contains("Replayed: applied"), "{}", page.text);
    let page = browser.get(path).await;
    for said in ["What it changed", "subscription_created", "standard"] {
        assert!(page.text.contains(said), "{said}: {}", page.text);
    }
    assert_eq!(desk.dead_letters().await, 0);
    assert_eq!(desk.entries("webhook_event_replayed", OPERATOR).await, 1);
    assert!(
        desk.entries("webhook_event_shown", OPERATOR).await >= 1,
        "beside the question"
    );
}

#[tokio::test]
async fn a_reason_takes_its_own_group_and_no_word_for_an_id() {
    let desk = Desk::open().await;
    let errors = [
        "organization 019aab70-0000-7000-8000-000000000001: gone",
        "organization acme: gone",
        "no cus_Ab1 is here",
        "no cus_abc is here",
        "no cus_… is here",
    ];
    let ids = ["evt_0", "evt_1", "evt_2", "evt_3", "evt_4"];
    desk.deliver("cus_2", &ids).await;
    for (id, error) in ids.iter().zip(errors) {
        let set = format!(
            "UPDATE webhook_dead_letter_queue SET error_message = '{error}'
              WHERE stripe_event_id = '{id}'"
        );
        desk.service.db.execute(&set).await;
    }
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    for (reason, asked) in [
        ("organization …: gone", "Discard 1 dead letter?"),
        ("organization acme: gone", "Discard 1 dead letter?"),
        ("no cus_… is here", "Discard 2 dead letters?"),
        ("no cus_abc is here", "Discard 1 dead letter?"),
    ] {
        let form = [("reason", reason), ("do", "ask-discard")];
        let page = browser.post(BULK, &form).await;
        assert!(page.text.contains(asked), "{reason}: {}", page.text);
    }
}

#[tokio::test]
async fn a_form_that_is_too_long_is_not_read() {
    let desk = Desk::open().await;
    let mut browser = Browser::new(&desk.service);
    let token = browser.get("/console/sign-in").await.form_token();
    let long = "a".repeat(16 * 1024);
    let form = [("csrf", &*token), ("email", OPERATOR), ("password", &*long)];
    let page = browser.send(Method::POST, "/console/sign-in", &form).await;
    assert_eq!(page.status, 413, "{}", page.text);
}
