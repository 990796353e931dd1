//! Checkout sessions and their hosted page, saved cards, and the portal.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::support::{DAY, START, World, text};

const PAY: &str = "/v1/checkout/sessions";

/// A customer without a card.
async fn stranger(world: &World) -> String {
    text(&world.post("/v1/customers", &[]).await.ok(), "id")
}

async fn session(world: &World, customer: &str, price: &str, more: &[(&str, &str)]) -> Value {
    let mut fields = vec![
        ("mode", "subscription"),
        ("customer", customer),
        ("line_items[0][price]", price),
        ("line_items[0][quantity]", "1"),
        ("success_url", "https://app.test/ok?s={CHECKOUT_SESSION_ID}"),
        ("cancel_url", "https://app.test/back"),
    ];
    fields.extend(more);
    world.post(PAY, &fields).await.ok()
}

/// Sends the page's form: the status, where it leads, and what it says.
async fn submit(session: &Value, fields: &[(&str, &str)]) -> (u16, String, String) {
    let form: String = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let request = Request::post(text(session, "url"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form))
        .expect("a request");
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let response = client
        .build_http()
        .request(request)
        .await
        .expect("an answer");
    let location = response.headers().get("location");
    let location = location.map_or(String::new(), |to| to.to_str().expect("text").to_owned());
    let status = response.status().as_u16();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (
        status,
        location,
        String::from_utf8_lossy(&body).into_owned(),
    )
}

async fn read(world: &World, session: &Value) -> Value {
    world
        .get(&format!("{PAY}/{}", text(session, "id")), &[])
        .await
        .ok()
}

#[tokio::test]
async fn a_customer_subscribes_on_the_page() {
    let world = World::new().await;
    let (customer, price) = (stranger(&world).await, world.price(1_000).await);
    let metadata = ("subscription_data[metadata][order]", "7");
    let made = session(&world, &customer, &price, &[metadata]).await;
    assert_eq!(
        (&made["status"], &made["payment_status"]),
        (&"open".into(), &"unpaid".into())
    );
    assert_eq!(made["amount_total"], 1_000);
    assert_eq!(
        made["expires_at"].as_i64().unwrap() - made["created"].as_i64().unwrap(),
        DAY
    );

    let (status, _, said) =
        submit(&made, &[("action", "pay"), ("number", "4000000000000002")]).await;
    assert_eq!(status, 200);
    assert!(said.contains("Your card was declined."), "{said}");
    let (status, to, _) = submit(&made, &[("action", "cancel")]).await;
    assert_eq!((status, &*to), (303, "https://app.test/back"));
    assert_eq!(read(&world, &made).await["status"], "open");
    let nothing = world
        .get("/v1/subscriptions", &[("customer", &customer)])
        .await
        .ok();
    assert_eq!(nothing["data"], serde_json::json!([]));

    let (status, to, _) = submit(
        &made,
        &[("action", "pay"), ("number", "4242 4242 4242 4242")],
    )
    .await;
    assert_eq!(status, 303);
    assert_eq!(to, format!("https://app.test/ok?s={}", text(&made, "id")));
    let done = read(&world, &made).await;
    assert_eq!(
        (&done["status"], &done["payment_status"]),
        (&"complete".into(), &"paid".into())
    );
    assert_eq!(done["url"], Value::Null);
    let subscription = world.subscription(&text(&done, "subscription")).await;
    assert_eq!(subscription["status"], "active");
    assert_eq!(subscription["metadata"]["order"], "7");
    assert_eq!(
        world.invoice(&text(&done, "invoice")).await["status"],
        "paid"
    );
    let types = world.event_types().await;
    assert!(
        types.contains(&"checkout.session.completed".to_owned()),
        "{types:?}"
    );

    let (again, _, _) = submit(&made, &[("action", "pay"), ("number", "4242424242424242")]).await;
    assert_eq!(again, 410);
    let all = world
        .get("/v1/subscriptions", &[("customer", &customer)])
        .await
        .ok();
    assert_eq!(all["data"].as_array().unwrap().len(), 1);
    let expire = format!("{PAY}/{}/expire", text(&made, "id"));
    world.post(&expire, &[]).await.error(400);
}

#[tokio::test]
async fn a_cardholder_is_asked_and_may_refuse() {
    let world = World::new().await;
    let (customer, price) = (stranger(&world).await, world.price(1_000).await);
    let made = session(&world, &customer, &price, &[]).await;
    let card = [("action", "pay"), ("number", "4000002760003184")];
    let (status, _, said) = submit(&made, &card).await;
    assert!(
        status == 200 && said.contains("confirm this payment"),
        "{said}"
    );
    let (_, _, said) = submit(&made, &[("action", "refuse")]).await;
    assert!(said.contains("unable to authenticate"), "{said}");
    assert_eq!(read(&world, &made).await["status"], "open");
    submit(&made, &card).await;
    let (status, _, _) = submit(&made, &[("action", "confirm")]).await;
    assert_eq!(status, 303);
    let done = read(&world, &made).await;
    assert_eq!(done["payment_status"], "paid");
    let subscription = world.subscription(&text(&done, "subscription")).await;
    assert_eq!(subscription["status"], "active");
}

#[tokio::test]
async fn a_bank_debit_is_paid_or_refused_later() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    for (outcome, status, event) in [
        ("paid", "active", "checkout.session.async_payment_succeeded"),
        (
            "failed",
            "past_due",
            "checkout.session.async_payment_failed",
        ),
    ] {
        let customer = stranger(&world).await;
        let made = session(&world, &customer, &price, &[]).await;
        submit(&made, &[("action", "pay"), ("account", "000123456789")]).await;
        let done = read(&world, &made).await;
        assert_eq!(
            (&done["status"], &done["payment_status"]),
            (&"complete".into(), &"unpaid".into())
        );
        let subscription = text(&done, "subscription");
        assert_eq!(world.subscription(&subscription).await["status"], "active");
        assert_eq!(
            world.invoice(&text(&done, "invoice")).await["status"],
            "open"
        );
        let settle = format!("/_sandbox/checkout/sessions/{}/settle", text(&made, "id"));
        world.post(&settle, &[("outcome", outcome)]).await.ok();
        assert_eq!(world.subscription(&subscription).await["status"], status);
        assert!(world.event_types().await.contains(&event.to_owned()));
        world
            .post(&settle, &[("outcome", outcome)])
            .await
            .error(400);
    }
}

#[tokio::test]
async fn a_session_expires_by_request_and_by_time() {
    let world = World::new().await;
    let (customer, price) = (stranger(&world).await, world.price(1_000).await);
    let made = session(&world, &customer, &price, &[]).await;
    let expired = world
        .post(&format!("{PAY}/{}/expire", text(&made, "id")), &[])
        .await
        .ok();
    assert_eq!(
        (&expired["status"], &expired["url"]),
        (&"expired".into(), &Value::Null)
    );
    let (status, _, _) = submit(&made, &[("action", "pay"), ("number", "4242424242424242")]).await;
    assert_eq!(status, 410);
    for days in ["-1", "2"] {
        let at =
            (made["created"].as_i64().unwrap() + days.parse::<i64>().unwrap() * DAY).to_string();
        let fields = [
            ("mode", "setup"),
            ("success_url", "https://app.test"),
            ("expires_at", at.as_str()),
        ];
        assert_eq!(
            world.post(PAY, &fields).await.error(400)["param"],
            "expires_at"
        );
    }
    let open = world
        .get(PAY, &[("status", "expired"), ("customer", &customer)])
        .await
        .ok();
    assert_eq!(open["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_trial_takes_a_card_and_no_money() {
    let world = World::new().await;
    let (customer, price) = (stranger(&world).await, world.price(1_000).await);
    let days = ("subscription_data[trial_period_days]", "14");
    let made = session(&world, &customer, &price, &[days]).await;
    assert_eq!(
        (&made["payment_status"], &made["amount_total"]),
        (&"no_payment_required".into(), &0.into())
    );
    submit(&made, &[("action", "pay"), ("number", "4242424242424242")]).await;
    let done = read(&world, &made).await;
    let subscription = world.subscription(&text(&done, "subscription")).await;
    assert_eq!(subscription["status"], "trialing");
    assert!(subscription["default_payment_method"].is_string());
}

#[tokio::test]
async fn what_a_session_cannot_be_is_refused_by_parameter() {
    let world = World::new().await;
    let (customer, price) = (stranger(&world).await, world.price(1_000).await);
    let good = [
        ("mode", "subscription"),
        ("customer", customer.as_str()),
        ("line_items[0][price]", price.as_str()),
        ("line_items[0][quantity]", "1"),
        ("success_url", "https://app.test/ok"),
    ];
    world.post(PAY, &good).await.ok();
    for (name, value, param) in [
        ("mode", "gift", "mode"),
        ("customer", "cus_none", "customer"),
        ("line_items[0][price]", "price_none", "line_items[0][price]"),
        ("success_url", "javascript:alert(1)", "success_url"),
        ("cancel_url", "/relative", "cancel_url"),
        ("locale", "tlh", "locale"),
        ("colour", "red", "colour"),
        ("line_items[0][colour]", "red", "line_items[0][colour]"),
        (
            "subscription_data[trial_period_days]",
            "0",
            "subscription_data[trial_period_days]",
        ),
        ("ui_mode", "embedded", "ui_mode"),
    ] {
        let mut fields: Vec<(&str, &str)> = good.to_vec();
        fields.retain(|(known, _)| *known != name);
        fields.push((name, value));
        assert_eq!(
            world.post(PAY, &fields).await.error(400)["param"],
            param,
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_card_is_saved_by_page_and_by_setup_intent() {
    let world = World::new().await;
    let clock = world.clock(START).await;
    let customer = text(
        &world
            .post("/v1/customers", &[("test_clock", clock.as_str())])
            .await
            .ok(),
        "id",
    );
    let fields = [
        ("mode", "setup"),
        ("customer", customer.as_str()),
        ("payment_method_types[]", "card"),
        ("success_url", "https://app.test/cards"),
        ("setup_intent_data[metadata][for]", "us"),
    ];
    let made = world.post(PAY, &fields).await.ok();
    submit(&made, &[("action", "pay"), ("number", "5555555555554444")]).await;
    let intent = text(&read(&world, &made).await, "setup_intent");
    let intent = world
        .get(&format!("/v1/setup_intents/{intent}"), &[])
        .await
        .ok();
    assert_eq!(
        (&intent["status"], &intent["metadata"]["for"]),
        (&"succeeded".into(), &"us".into())
    );

    let fields = [("customer", customer.as_str()), ("usage", "off_session")];
    let second = world.post("/v1/setup_intents", &fields).await.ok();
    assert!(text(&second, "client_secret").starts_with(&text(&second, "id")));
    let path = format!("/v1/setup_intents/{}", text(&second, "id"));
    let confirmed = world
        .post(
            &format!("{path}/confirm"),
            &[("payment_method", "pm_card_visa")],
        )
        .await
        .ok();
    assert_eq!(confirmed["status"], "succeeded");
    world.post(&format!("{path}/cancel"), &[]).await.error(400);
    let third = world.post("/v1/setup_intents", &fields).await.ok();
    let path = format!("/v1/setup_intents/{}/cancel", text(&third, "id"));
    let canceled = world
        .post(&path, &[("cancellation_reason", "abandoned")])
        .await
        .ok();
    assert_eq!(
        (&canceled["status"], &canceled["cancellation_reason"]),
        (&"canceled".into(), &"abandoned".into())
    );
    let held = world
        .get(&format!("/v1/customers/{customer}/payment_methods"), &[])
        .await
        .ok();
    assert_eq!(held["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_portal_is_made_from_a_configuration() {
    let world = World::new().await;
    let customer = stranger(&world).await;
    let path = "/v1/billing_portal/configurations";
    world
        .post(path, &[("features[subscription_update][enabled]", "true")])
        .await
        .error(400);
    world
        .post("/v1/billing_portal/sessions", &[("customer", &customer)])
        .await
        .error(400);
    let fields = [
        ("features[invoice_history][enabled]", "true"),
        ("features[subscription_cancel][enabled]", "false"),
        ("features[customer_update][enabled]", "true"),
        ("features[customer_update][allowed_updates][0]", "email"),
        ("metadata[of]", "us"),
    ];
    let made = world.post(path, &fields).await.ok();
    assert_eq!(made["features"]["subscription_cancel"]["enabled"], false);
    assert_eq!(
        made["features"]["customer_update"]["allowed_updates"][0],
        "email"
    );
    let listed = world.get(path, &[("active", "true")]).await.ok();
    assert_eq!(listed["data"][0]["metadata"]["of"], "us");
    let id = text(&made, "id");
    let fields = [
        ("customer", customer.as_str()),
        ("configuration", id.as_str()),
        ("return_url", "https://app.test"),
    ];
    let opened = world
        .post("/v1/billing_portal/sessions", &fields)
        .await
        .ok();
    assert!(text(&opened, "url").contains("/p/session/"));
    let off = world
        .post(&format!("{path}/{id}"), &[("active", "false")])
        .await
        .ok();
    assert_eq!(off["active"], false);
    world
        .post("/v1/billing_portal/sessions", &fields)
        .await
        .error(400);
}

/// The portal's page offers what its configuration says: a card that is entered there is
/// charged from then on, and invoices lead to their pages.
#[tokio::test]
async fn the_portal_shows_invoices_and_takes_cards_as_it_is_configured() {
    let world = World::new().await;
    let (customer, other) = (stranger(&world).await, stranger(&world).await);
    let offers = |name: &'static str| (name, "true");
    let mut portals = Vec::new();
    for features in [
        &[
            offers("features[payment_method_update][enabled]"),
            offers("features[invoice_history][enabled]"),
        ][..],
        &[offers("features[invoice_history][enabled]")][..],
    ] {
        let path = "/v1/billing_portal/configurations";
        let configuration = text(&world.post(path, features).await.ok(), "id");
        let fields = [
            ("customer", &*customer),
            ("configuration", &configuration),
            ("return_url", "https://app.test/account"),
        ];
        portals.push(
            world
                .post("/v1/billing_portal/sessions", &fields)
                .await
                .ok(),
        );
    }
    let (status, _, page) = submit(&portals[0], &[("number", "4242 4242 4242 4242")]).await;
    assert_eq!(status, 200);
    assert!(page.contains("visa ending in 4242 (default)"), "{page}");
    assert!(page.contains("href=\"https://app.test/account\""), "{page}");
    let path = format!("/v1/customers/{customer}");
    let shown = world.get(&path, &[]).await.ok();
    let first = text(&shown["invoice_settings"], "default_payment_method");

    let (_, _, page) = submit(&portals[0], &[("number", "4000000000000002")]).await;
    assert!(page.contains("Your card was declined."), "{page}");
    let (_, _, page) = submit(&portals[0], &[("number", "5555555555554444")]).await;
    assert!(
        page.contains("mastercard ending in 4444 (default)"),
        "{page}"
    );
    let (_, _, page) = submit(&portals[0], &[("default", &first)]).await;
    assert!(page.contains("visa ending in 4242 (default)"), "{page}");
    // Another customer's card is no choice.
    let fields = [("customer", &*other)];
    let attach = "/v1/payment_methods/pm_card_visa/attach";
    let theirs = text(&world.post(attach, &fields).await.ok(), "id");
    let (_, _, page) = submit(&portals[0], &[("default", &theirs)]).await;
    assert!(page.contains("This payment method is unknown."), "{page}");

    let price = world.price(1_000).await;
    let fields = [("customer", &*customer), ("items[0][price]", &price)];
    let made = world.post("/v1/subscriptions", &fields).await.ok();
    let invoice = text(&made, "latest_invoice");
    let (_, _, page) = submit(&portals[0], &[("default", &first)]).await;
    assert!(page.contains(&format!("/i/{invoice}\"")), "{page}");
    // Where cards are not offered, none is taken.
    let (status, ..) = submit(&portals[1], &[("default", &first)]).await;
    assert_eq!(status, 404);
}
