//! Refused requests: with Stripe's errors where Stripe refuses them, and as
//! unsupported where only the sandbox does.

use crate::support::{DAY, Fields, START, World, text};

/// Checks that the request was refused as unsupported by the sandbox.
#[track_caller]
fn assert_unsupported(error: &serde_json::Value, param: &str) {
    assert_eq!(error["code"], "sandbox_unsupported", "{error:#}");
    assert_eq!(error["param"], param, "{error:#}");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("stand-in"), "{message}");
}

#[tokio::test]
async fn searches_are_refused_as_unsupported() {
    let world = World::new().await;
    for object in [
        "charges",
        "customers",
        "invoices",
        "payment_intents",
        "prices",
        "products",
        "subscriptions",
    ] {
        let path = format!("/v1/{object}/search");
        let query = [("query", "metadata['a']:'b'")];
        assert_unsupported(&world.get(&path, &query).await.error(400), "query");
        let error = world.get(&path, &[]).await.error(400);
        assert_eq!(error["code"], "parameter_missing", "{object}");
    }
}

#[tokio::test]
async fn unsupported_parameters_are_not_reported_as_unknown() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscribe = [("customer", customer.as_str()), ("items[0][price]", &price)];
    for (path, base, name, value) in [
        ("/v1/payment_methods", &[][..], "type", "sepa_debit"),
        ("/v1/payment_methods", &[], "type", "us_bank_account"),
        (
            "/v1/prices",
            &[("currency", "usd")],
            "custom_unit_amount[enabled]",
            "true",
        ),
        ("/v1/customers", &[], "tax_exempt", "exempt"),
        ("/v1/customers", &[], "shipping[name]", "Ada"),
        ("/v1/customers", &[], "payment_method", "pm_card_radarBlock"),
        (
            "/v1/products",
            &[("name", "A")],
            "url",
            "https://example.com",
        ),
        ("/v1/subscriptions", &subscribe, "backdate_start_date", "1"),
        (
            "/v1/subscriptions",
            &subscribe,
            "transfer_data[destination]",
            "a",
        ),
        ("/v1/subscriptions", &subscribe, "coupon", "c"),
        (
            "/v1/subscriptions",
            &subscribe,
            "add_invoice_items[0][price]",
            "p",
        ),
        (
            "/v1/subscriptions",
            &subscribe,
            "items[0][price_data][currency]",
            "usd",
        ),
        (
            "/v1/invoices",
            &[("customer", customer.as_str())],
            "due_date",
            "9",
        ),
    ] {
        let mut fields = base.to_vec();
        fields.push((name, value));
        let error = world.post(path, &fields).await.error(400);
        let param = name.split_once('[').map_or(name, |(head, _)| head);
        let param = if name.starts_with("items") {
            "items[0][price_data]"
        } else {
            param
        };
        assert_unsupported(&error, param);
    }
    // What Stripe does not know either is still reported as unknown.
    let error = world
        .post("/v1/payment_methods", &[("type", "seashells")])
        .await
        .error(400);
    assert_eq!(error["param"], "type");
    assert_ne!(error["code"], "sandbox_unsupported");
    let unknown = [("payment_method", "pm_card_seashells")];
    let error = world.post("/v1/customers", &unknown).await.error(400);
    assert_eq!(error["code"], "resource_missing");
}

/// A path, valid fields, and a field with a value that Stripe refuses.
type InvalidField<'a> = (&'a str, Fields<'a>, &'a str, &'a str);

async fn check_refused(world: &World, cases: &[InvalidField<'_>]) {
    for (path, valid, name, value) in cases {
        let mut fields = valid.to_vec();
        fields.push((name, value));
        let error = world.post(path, &fields).await.error(400);
        let expected = if name.starts_with("metadata[x") {
            "metadata"
        } else {
            name
        };
        assert_eq!(error["param"], expected, "{path} {name}: {error:#}");
        assert_ne!(error["code"], "sandbox_unsupported", "{path} {name}");
    }
}

#[tokio::test]
async fn invalid_settings_of_subscriptions_are_refused() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let valid = [
        ("customer", customer.as_str()),
        ("items[0][price]", price.as_str()),
    ];
    let (before, ahead) = ((START - DAY).to_string(), (START + 800 * DAY).to_string());
    let long = "x".repeat(501);
    let cases = [
        ("trial_end", before.as_str()),
        ("trial_end", &ahead),
        ("trial_end", "soon"),
        ("backdate_start_date", &ahead),
        ("days_until_due", "7"),
        ("days_until_due", "-7"),
        ("items[0][quantity]", "-1"),
        ("items[0][quantity]", "1.5"),
        ("items[0][quantity]", "9223372036854775"),
        ("description", &long),
        ("payment_behavior", "hope"),
        ("payment_behavior", "pending_if_incomplete"),
        ("currency", "xyz"),
        ("proration_behavior", "maybe"),
    ]
    .map(|(name, value)| ("/v1/subscriptions", &valid[..], name, value));
    check_refused(&world, &cases).await;
    let list = world
        .get("/v1/subscriptions", &[("customer", customer.as_str())])
        .await
        .ok();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn invalid_amounts_and_currencies_are_refused() {
    let world = World::new().await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let customer = ("customer", customer.as_str());
    let amount = [customer, ("amount", "5")];
    let price = [("currency", "usd"), ("product_data[name]", "P")];
    let most = i64::MAX.to_string();
    let least = i64::MIN.to_string();
    let cases: [InvalidField<'_>; 10] = [
        ("/v1/invoices", &[customer], "days_until_due", "7"),
        ("/v1/invoices", &[customer], "currency", "zzz"),
        (
            "/v1/invoiceitems",
            &[customer, ("currency", "usd")],
            "amount",
            &most,
        ),
        ("/v1/invoiceitems", &amount, "currency", "doll"),
        ("/v1/invoiceitems", &amount, "currency", "xyz"),
        ("/v1/prices", &price, "unit_amount", &most),
        ("/v1/prices", &price, "unit_amount", "-1"),
        ("/v1/prices", &[("unit_amount", "1")], "currency", "xyz"),
        ("/v1/customers", &[], "balance", &least),
        ("/v1/customers", &[], "address[country]", "XX"),
    ];
    check_refused(&world, &cases).await;
}

#[tokio::test]
async fn long_texts_and_invalid_addresses_are_refused() {
    let world = World::new().await;
    let long = |length: usize| "x".repeat(length);
    let (key, value, name) = (format!("metadata[{}]", long(41)), long(501), long(257));
    let (lookup_key, text) = (long(201), long(5_001));
    let price = [
        ("currency", "usd"),
        ("unit_amount", "1"),
        ("product_data[name]", "P"),
    ];
    let all_events = [("enabled_events[]", "*")];
    let cases: [InvalidField<'_>; 10] = [
        ("/v1/prices", &price, "lookup_key", &lookup_key),
        ("/v1/prices", &price, "nickname", &text),
        ("/v1/customers", &[], "address[country]", "Germany"),
        ("/v1/customers", &[], "name", &name),
        ("/v1/customers", &[], "phone", "123456789012345678901"),
        ("/v1/customers", &[], "description", &text),
        ("/v1/customers", &[], &key, "v"),
        ("/v1/customers", &[], "metadata[k]", &value),
        (
            "/v1/webhook_endpoints",
            &all_events,
            "url",
            "example.com/hook",
        ),
        (
            "/v1/webhook_endpoints",
            &all_events,
            "url",
            "ftp://example.com",
        ),
    ];
    check_refused(&world, &cases).await;
    let valid = [("address[country]", "de"), ("metadata[k]", &long(500))];
    world.post("/v1/customers", &valid).await.ok();
}

#[tokio::test]
async fn metadata_has_at_most_fifty_keys_across_updates() {
    let world = World::new().await;
    let names: Vec<String> = (0..51).map(|n| format!("metadata[k{n}]")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let error = world.post("/v1/customers", &fields).await.error(400);
    assert_eq!(error["param"], "metadata");
    let customer = world.post("/v1/customers", &fields[..50]).await.ok();
    let path = format!("/v1/customers/{}", text(&customer, "id"));
    let one_more = [("metadata[k50]", "v")];
    let error = world.post(&path, &one_more).await.error(400);
    assert_eq!(error["param"], "metadata");
    let instead = [("metadata[k50]", "v"), ("metadata[k0]", "")];
    let after = world.post(&path, &instead).await.ok();
    assert_eq!(
        after["metadata"].as_object().map(serde_json::Map::len),
        Some(50)
    );
}

#[tokio::test]
async fn limits_out_of_range_are_clamped() {
    let world = World::new().await;
    for _ in 0..103 {
        world.post("/v1/products", &[("name", "P")]).await.ok();
    }
    for (limit, shown) in [("0", 1), ("-3", 1), ("1", 1), ("100", 100), ("101", 100)] {
        let page = world.get("/v1/products", &[("limit", limit)]).await.ok();
        assert_eq!(
            page["data"].as_array().map(Vec::len),
            Some(shown),
            "{limit}"
        );
        assert_eq!(page["has_more"], true, "{limit}");
    }
    let page = world.get("/v1/products", &[("limit", "1")]).await.ok();
    let id = text(&page["data"][0], "id");
    let both = [
        ("starting_after", id.as_str()),
        ("ending_before", id.as_str()),
    ];
    world.get("/v1/products", &both).await.error(400);
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_one_request() {
    let world = World::new().await;
    let send = async |path: &str, fields: &[(&str, &str)]| {
        let reply = world.send("POST", path, fields, Some("one")).await;
        reply.expect("a response")
    };
    let first = send("/v1/customers", &[("name", "Ada")]).await.ok();
    assert_eq!(send("/v1/customers", &[("name", "Ada")]).await.ok(), first);
    let error = send("/v1/customers", &[("name", "Eve")]).await.error(400);
    assert_eq!(error["type"], "idempotency_error");
    let error = send("/v1/products", &[("name", "Ada")]).await.error(400);
    assert_eq!(error["type"], "idempotency_error");
    let path = format!("/v1/customers/{}", text(&first, "id"));
    let error = send(&path, &[("name", "Ada")]).await.error(400);
    assert_eq!(error["type"], "idempotency_error");
}

#[tokio::test]
async fn missing_objects_are_reported_with_stripes_parameter_names() {
    let world = World::new().await;
    let customer = text(&world.post("/v1/customers", &[]).await.ok(), "id");
    let attach = [("customer", customer.as_str())];
    let error = world
        .post("/v1/payment_methods/pm_none/attach", &attach)
        .await
        .error(404);
    assert_eq!(error["param"], "payment_method");
    assert_eq!(error["code"], "resource_missing");
    for (method, path) in [
        ("GET", "/v1/invoices/in_none"),
        ("DELETE", "/v1/invoices/in_none"),
        ("POST", "/v1/invoices/in_none/send"),
    ] {
        let reply = world.send(method, path, &[], None).await;
        let error = reply.expect("a response").error(404);
        assert_eq!(error["param"], "invoice", "{method} {path}");
    }
}

#[tokio::test]
async fn invoices_of_subscriptions_cannot_be_deleted() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let id = text(&world.subscribe(&customer, &price, "flexible").await, "id");
    world.advance(&clock, START + 28 * DAY + 60).await;
    let draft = world.latest_invoice(&id).await;
    assert_eq!(draft["status"], "draft");
    let path = format!("/v1/invoices/{}", text(&draft, "id"));
    let error = world.delete(&path, &[]).await.error(400);
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.contains("subscription")),
        "{error}"
    );
    assert_eq!(world.latest_invoice(&id).await["status"], "draft");
    let error = world.post(&format!("{path}/send"), &[]).await.error(400);
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.contains("send_invoice")),
        "{error}"
    );
    let paid = world.post(&format!("{path}/pay"), &[]).await.ok();
    assert_eq!(paid["status"], "paid");
    for action in ["finalize", "pay", "void", "mark_uncollectible"] {
        let error = world
            .post(&format!("{path}/{action}"), &[])
            .await
            .error(400);
        assert_eq!(error["code"], serde_json::Value::Null, "{action}: {error}");
    }
    world.delete(&path, &[]).await.error(400);
}

#[tokio::test]
async fn the_oldest_versions_are_accepted() {
    let mut world = World::new().await;
    for version in ["2011-01-01", "2014-12-08", "2016-07-06", "2017-04-06"] {
        world.version = Some(version);
        world.get("/v1/customers", &[]).await.ok();
    }
    world.version = Some("2016-07-07");
    world.get("/v1/customers", &[]).await.error(400);
}
