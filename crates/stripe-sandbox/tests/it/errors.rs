//! Errors have Stripe's format, and no parameter is silently ignored.

use axum::http::Method;

use crate::support::World;

#[tokio::test]
async fn a_request_without_a_test_key_is_refused() {
    let mut world = World::new().await;
    for key in [
        "",
        "Bearer",
        "Bearer sk_live_1234567890",
        "Basic c2tfbGl2ZTo=",
        "Bearer sk_test_",
    ] {
        world.key = key.to_owned();
        let error = world.get("/v1/account", &[]).await.error(401);
        assert_eq!(error["type"], "invalid_request_error", "{key}");
        assert!(
            !error["message"].to_string().contains("34567890"),
            "{error}"
        );
    }
    // `sk_test_abc:` in base64.
    world.key = "Basic c2tfdGVzdF9hYmM6".to_owned();
    world.get("/v1/account", &[]).await.ok();
}

#[tokio::test]
async fn every_response_has_a_request_id() {
    let world = World::new().await;
    let reply = world.get("/v1/customers/cus_none", &[]).await;
    let id = reply.header("request-id").expect("a request id").to_owned();
    let error = reply.error(404);
    assert_eq!(error["code"], "resource_missing");
    assert_eq!(error["param"], "id");
    assert!(
        error["request_log_url"]
            .as_str()
            .is_some_and(|url| url.ends_with(&id))
    );
    let reply = world.get("/v1/quotes", &[]).await;
    assert!(reply.header("request-id").is_some());
    reply.error(404);
    world
        .send("DELETE", "/v1/account", &[], None)
        .await
        .expect("a response")
        .error(404);
}

/// Every route refuses an unknown parameter: by name if no other check comes
/// first, and never with a 200.
#[tokio::test]
async fn no_route_ignores_a_parameter() {
    let world = World::new().await;
    for route in stripe_sandbox::routes() {
        if route.method == Method::GET && route.path.starts_with("/_sandbox") {
            continue;
        }
        let path = route
            .path
            .replace("{id}", "x_none")
            .replace("{method}", "x_none");
        let reply = world
            .send(
                route.method.as_str(),
                &path,
                &[("no_such_parameter", "1")],
                None,
            )
            .await
            .expect("a response");
        assert!(
            (400..500).contains(&reply.status),
            "{} {} answered {}",
            route.method,
            route.path,
            reply.status
        );
        let error = &reply.body["error"];
        assert!(
            error["param"].is_string() || error["code"].is_string(),
            "{path}: {error}"
        );
    }
    let types = world.event_types().await;
    assert_eq!(
        types,
        Vec::<String>::new(),
        "a refused request changed something"
    );
}

#[tokio::test]
async fn unknown_parameters_are_named_in_full() {
    let world = World::new().await;
    let error = world
        .post(
            "/v1/subscriptions",
            &[
                ("customer", "cus_x"),
                ("items[0][price]", "p"),
                ("items[0][colour]", "red"),
            ],
        )
        .await
        .error(400);
    assert_eq!(error["code"], "parameter_unknown");
    assert_eq!(error["param"], "items[0][colour]");
    let error = world
        .get("/v1/products", &[("limit", "many")])
        .await
        .error(400);
    assert_eq!(error["param"], "limit");
    let error = world
        .get("/v1/products", &[("expand[]", "data.colour")])
        .await;
    assert_eq!(error.status, 200, "an empty list has nothing to expand");
    let error = world
        .post("/v1/customers", &[("expand[]", "colour")])
        .await
        .error(400);
    assert_eq!(error["param"], "expand");
    // A text or a hash is not a list, whatever its content.
    for (name, param, message) in [
        ("expand", "expand", "Invalid array"),
        ("expand[a]", "expand", "Invalid array"),
        ("expand[a][b]", "expand", "Invalid array"),
        ("expand[0][a]", "expand[0]", "Invalid string: expand[0]"),
    ] {
        let error = world
            .get("/v1/products", &[(name, "data.default_price")])
            .await
            .error(400);
        assert_eq!(error["type"], "invalid_request_error", "{name}");
        assert_eq!(
            (&error["param"], &error["message"]),
            (&param.into(), &message.into()),
            "{name}"
        );
    }
    for name in ["expand[]", "expand[0]"] {
        let reply = world
            .get("/v1/products", &[(name, "data.default_price")])
            .await;
        assert_eq!(reply.status, 200, "{name}");
    }
}

#[tokio::test]
async fn a_malformed_version_is_refused() {
    let mut world = World::new().await;
    world.version = Some("yesterday");
    world.get("/v1/account", &[]).await.error(400);
    world.version = Some("2024-06-20");
    let reply = world.get("/v1/account", &[]).await;
    assert_eq!(reply.header("stripe-version"), Some("2024-06-20"));
}

#[tokio::test]
async fn an_invalid_cancel_at_or_email_is_refused() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(crate::support::START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscribe = |at: i64| {
        let at = at.to_string();
        let (world, customer, price) = (&world, &customer, &price);
        async move {
            let fields = [
                ("customer", customer.as_str()),
                ("items[0][price]", price.as_str()),
                ("cancel_at", at.as_str()),
            ];
            world.post("/v1/subscriptions", &fields).await
        }
    };
    let past = subscribe(crate::support::START - 1).await.error(400);
    assert_eq!(past["param"], "cancel_at");
    let ahead = subscribe(crate::support::START + 60).await.ok();
    let path = format!("/v1/subscriptions/{}", ahead["id"].as_str().expect("an id"));
    let error = world.post(&path, &[("cancel_at", "1")]).await.error(400);
    assert_eq!(error["param"], "cancel_at");
    for email in [
        "not an email",
        "a@b",
        "@example.com",
        "a@",
        "a b@example.com",
        "a@@example.com",
    ] {
        let error = world
            .post("/v1/customers", &[("email", email)])
            .await
            .error(400);
        assert_eq!(error["param"], "email", "{email}");
    }
    world
        .post("/v1/customers", &[("email", "josé+x@sub.example.com")])
        .await
        .ok();
}

#[tokio::test]
async fn a_version_that_stripe_never_had_is_refused() {
    for version in [
        "2099-01-01.x",
        "2025-03-31.clover",
        "2024-01-01",
        "2026-10-28",
        "basil",
        "2023-10-17",
    ] {
        let mut world = World::new().await;
        world.version = Some(version);
        world.get("/v1/customers", &[]).await.error(400);
    }
    for version in [
        "2018-02-28",
        "2023-10-16",
        "2025-03-31.basil",
        "2026-08-26.dahlia",
        "2026-10-28.endive",
    ] {
        let mut world = World::new().await;
        world.version = Some(version);
        world.get("/v1/customers", &[]).await.ok();
    }
}
