//! Forms: of one session, by who may, once, and about their own organization alone.

use reqwest::Method;
use uuid::Uuid;
use valuecanvas_billing::config::{Rates, SurfaceConfig};

use super::{Browser, FORMS, PAGES};
use crate::subscriptions::world::{START, VISA, World, text};
use crate::support::TestService;
use crate::support::service::Options;

#[tokio::test]
async fn no_form_passes_without_the_sessions_own_token() {
    let service = TestService::intake_only().await;
    let (one, other) = (
        service.organization("One").await,
        service.organization("Other").await,
    );
    let mut browser = Browser::of(&service, one, "owner").await;
    let foreign = Browser::of(&service, other, "owner").await;
    let mut foreign = foreign;
    let foreign = foreign.get("/portal").await.form_token();
    let session = browser.cookies["portal"].clone();
    let entries = service.db.count("billing_audit_log").await;
    for path in FORMS.into_iter().chain(["/portal/sign-out"]) {
        for token in ["", "x", &foreign, &session] {
            let address = format!("{path}?once={}", Uuid::now_v7());
            let form = [("csrf", token), ("plan", "standard"), ("id", "pm_1")];
            let page = browser.send(Method::POST, &address, &form).await;
            page.is(403);
            page.says("Nothing was done");
        }
        // A browser that says that it comes from another site is believed.
        let token = browser.get("/portal").await.form_token();
        let request = service.post(path).form(&[("csrf", token)]);
        let request = request
            .header("cookie", format!("portal={session}"))
            .header("sec-fetch-site", "cross-site");
        assert_eq!(request.send().await.unwrap().status(), 403, "{path}");
    }
    assert_eq!(service.db.count("billing_audit_log").await, entries);
    browser.get("/portal").await.is(200);
}

#[tokio::test]
async fn a_member_sees_everything_and_changes_nothing() {
    let (world, ..) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.settle().await;
    let mut member = Browser::of(&world.service, world.organization, "member").await;
    let mut owner = Browser::of(&world.service, world.organization, "owner").await;
    for path in PAGES {
        let page = member.get(path).await;
        page.is(200);
        page.says("you may look, and change nothing");
        for act in ["<button class=\"main\"", "Add a card", "/portal/cancel\""] {
            assert!(!page.text.contains(act), "{path}: {act}: {}", page.text);
        }
    }
    owner.get("/portal").await.says("/portal/cancel\"");
    let before = world.audit().await;
    for path in FORMS {
        let form = [("plan", "enterprise"), ("id", "pm_1"), ("token", "x")];
        let page = member.post(path, &form).await;
        page.is(403);
        page.says("You may look, and change nothing");
    }
    for path in ["/portal/cancel", "/portal/keep", "/portal/call-off"] {
        member.get(path).await.is(403);
    }
    let asks = member.get("/portal/payment-methods/remove?id=pm_1").await;
    asks.is(403);
    assert_eq!(world.audit().await, before);
    assert_eq!(world.plan().await.0, "standard");
    // Addresses are for those who may see them.
    member
        .get("/portal/activity")
        .await
        .says("Portal session opened");
    assert!(
        !member
            .get("/portal/activity")
            .await
            .text
            .contains("127.0.0.1")
    );
    owner.get("/portal/activity").await.says("127.0.0.1");
}

#[tokio::test]
async fn nothing_of_another_organization_is_shown_or_touched() {
    let (mut world, clock, customer) = World::on_clock(START).await;
    world.stripe.use_card(&customer, VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let victim = world.organization;
    let of = |column: &str, table: &str| {
        format!("SELECT min({column}) FROM {table} WHERE organization_id = '{victim}'")
    };
    let invoice = of("stripe_invoice_id", "billing_invoices");
    let invoice = world.service.db.value(&invoice).await;
    let card = of("stripe_payment_method_id", "billing_payment_methods");
    let card = world.service.db.value(&card).await;
    let mut own = Browser::of(&world.service, victim, "owner").await;
    own.get(&format!("/portal/invoices/{invoice}"))
        .await
        .is(200);
    own.get(&format!("/portal/payment-methods/remove?id={card}"))
        .await
        .is(200);
    let cursors = own.get("/portal/invoices").await;
    cursors.says(&invoice);

    world.newcomer(&clock).await;
    world.create("standard").await.ok();
    world.settle().await;
    let mut other = Browser::of(&world.service, world.organization, "owner").await;
    for path in [
        format!("/portal/invoices/{invoice}"),
        format!("/portal/invoices/{invoice}/pdf"),
        format!("/portal/payment-methods/remove?id={card}"),
    ] {
        let page = other.get(&path).await;
        page.is(404);
        assert!(
            !page.text.contains(&invoice) && !page.text.contains(&card),
            "{path}"
        );
    }
    for path in PAGES {
        let page = other.get(path).await;
        page.is(200);
        for secret in [&*invoice, &card, "Northwind", &victim.to_string()] {
            assert!(!page.text.contains(secret), "{path}: {secret}");
        }
    }
    for path in [
        "/portal/payment-methods/default",
        "/portal/payment-methods/remove",
    ] {
        other.post(path, &[("id", &card)]).await.is(404);
    }
    // What a browser sends chooses no organization, whatever its name.
    let named = victim.to_string();
    let form = [("reason", "x"), ("organization", &*named)];
    let page = other.post("/portal/cancel", &form).await;
    page.leads_to("/portal?done=canceled");
    let ends = format!(
        "billing_subscriptions WHERE organization_id = '{victim}' AND cancel_at_period_end"
    );
    assert_eq!(world.service.db.count(&ends).await, 0);
    let attached = of("status", "billing_payment_methods");
    assert_eq!(world.service.db.value(&attached).await, "attached");
}

#[tokio::test]
async fn a_form_that_is_sent_again_does_nothing_again() {
    let (world, _, customer) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.settle().await;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let page = browser.get("/portal/cancel").await;
    let (act, token) = (page.act("/portal/cancel"), page.form_token());
    let form = [
        ("csrf", &*token),
        ("reason", "We close"),
        ("feedback", "unused"),
    ];
    for _ in 0..3 {
        let page = browser.send(Method::POST, &act, &form).await;
        page.leads_to("/portal?done=canceled");
    }
    world.settle().await;
    let canceled = "billing_audit_log WHERE action = 'subscription_cancel_scheduled'";
    assert_eq!(world.service.db.count(canceled).await, 1);
    let held = &world.stripe.subscriptions(&customer).await[0];
    assert_eq!(held["cancel_at_period_end"], true);
    assert_eq!(text(&held["cancellation_details"], "feedback"), "unused");
    // Without a key, what acts does not act.
    let page = browser.post_to("/portal/keep", &[]).await;
    page.is(403);
    let page = browser.get("/portal?done=canceled").await;
    page.says("Your subscription is canceled");
    page.says("Your subscription ends on");
}

#[tokio::test]
async fn a_button_that_is_pressed_twice_shows_what_was_done_once() {
    let (world, ..) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.settle().await;
    let mut browser = Browser::of(&world.service, world.organization, "owner").await;
    let page = browser.get("/portal/cancel").await;
    let (act, token) = (page.act("/portal/cancel"), page.form_token());
    let mut again = Browser::new(&world.service);
    again.cookies = browser.cookies.clone();
    let form = [("csrf", &*token), ("reason", "We close")];
    let (first, second) = tokio::join!(
        browser.send(Method::POST, &act, &form),
        again.send(Method::POST, &act, &form),
    );
    first.leads_to("/portal?done=canceled");
    second.leads_to("/portal?done=canceled");
    world.settle().await;
    let canceled = "billing_audit_log WHERE action = 'subscription_cancel_scheduled'";
    assert_eq!(world.service.db.count(canceled).await, 1);
}

#[tokio::test]
async fn what_is_refused_before_a_page_is_made_is_a_page_all_the_same() {
    let options = Options {
        workers: 0,
        surface: SurfaceConfig {
            rates: Rates {
                api_per_minute: 40,
                usage_per_minute: 40,
            },
            ..SurfaceConfig::default()
        },
        ..Options::default()
    };
    let service = TestService::with(options).await;
    let organization = service.organization("Northwind").await;
    let mut browser = Browser::of(&service, organization, "owner").await;
    let token = browser.get("/portal").await.form_token();
    let act = format!("/portal/payment-methods/default?once={}", Uuid::now_v7());
    let form = [("csrf", &*token), ("id", "pm_1")];
    browser.send(Method::POST, &act, &form).await;
    // The same form's key with something else in it.
    let other = [("csrf", &*token), ("id", "pm_2")];
    let page = browser.send(Method::POST, &act, &other).await;
    page.is(422);
    page.says("<!doctype html>");
    page.says("This form was sent before");
    // A body of another kind.
    let cookie = format!("portal={}", browser.cookies["portal"]);
    let request = service.post(&act).header("cookie", &cookie).body("{}");
    let response = request.header("content-type", "application/json").send();
    let response = response.await.unwrap();
    assert!(response.status().is_client_error(), "{response:?}");
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("text/html"), "{kind}");
    // And too many.
    let page = loop {
        let page = browser.get("/portal").await;
        if page.status != 200 {
            break page;
        }
    };
    page.is(429);
    page.says("That was too often");
    page.says("href=\"/portal\"");
    assert!(
        page.policy.contains("default-src 'none'"),
        "{}",
        page.policy
    );
}

#[tokio::test]
async fn an_archived_organization_looks_and_changes_nothing() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let mut browser = Browser::of(&service, organization, "owner").await;
    let archive =
        format!("UPDATE organizations SET archived_at = now() WHERE id = '{organization}'");
    service.db.execute(&archive).await;
    for path in PAGES {
        browser.get(path).await.is(200);
    }
    for path in FORMS {
        let page = browser.post(path, &[("plan", "standard")]).await;
        page.is(409);
        page.says("This account is closed");
    }
}

#[tokio::test]
async fn what_is_malformed_is_a_page_that_says_what_to_do() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Northwind").await;
    let mut browser = Browser::of(&service, organization, "owner").await;
    for (form, says) in [
        (
            vec![("plan", "none")],
            "This plan cannot be bought like that",
        ),
        (vec![], "This plan cannot be bought like that"),
        (
            vec![("plan", "standard"), ("quantity", "-1")],
            "This number of seats is not possible",
        ),
        (
            vec![("plan", "standard"), ("interval", "week")],
            "This plan cannot be bought like that",
        ),
        (vec![("plan", "free")], "You have this plan already"),
    ] {
        let page = browser.post("/portal/plans/preview", &form).await;
        assert!(
            (400..500).contains(&page.status),
            "{form:?} {}",
            page.status
        );
        page.says(says);
        page.says("Choose Standard");
    }
    browser.get("/portal/nothing").await.is(404);
    browser.get("/portal/invoices/none").await.is(404);
    browser.get("/portal/invoices?cursor=x").await.is(400);
    let long = "x".repeat(20_000);
    let page = browser.post("/portal/cancel", &[("reason", &long)]).await;
    page.is(413);
    browser
        .get("/portal/cancel")
        .await
        .says("There is nothing left to do here");
}
