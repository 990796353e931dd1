//! Invoice items, the order of invoice lines, and credits.

use serde_json::Value;

use crate::support::{DAY, OLD, START, World, amounts, item, text};

#[tokio::test]
async fn lines_of_a_manual_invoice_come_newest_first() {
    let world = World::new().await;
    let customer = text(&world.post("/v1/customers", &[]).await.ok(), "id");
    let add = async |amount: &str, invoice: Option<&str>| {
        let mut fields = vec![
            ("customer", customer.as_str()),
            ("amount", amount),
            ("currency", "usd"),
        ];
        fields.extend(invoice.map(|invoice| ("invoice", invoice)));
        world.post("/v1/invoiceitems", &fields).await.ok()
    };
    for amount in ["100", "200", "300"] {
        add(amount, None).await;
    }
    let fields = [
        ("customer", customer.as_str()),
        ("pending_invoice_items_behavior", "include"),
    ];
    let invoice = world.post("/v1/invoices", &fields).await.ok();
    assert_eq!(amounts(&invoice), [300, 200, 100]);
    let id = text(&invoice, "id");
    // Items added later follow, in order.
    add("400", Some(&id)).await;
    add("500", Some(&id)).await;
    let invoice = world.invoice(&id).await;
    assert_eq!(amounts(&invoice), [300, 200, 100, 400, 500]);
    assert_eq!(invoice["total"], 1_500);
}

#[tokio::test]
async fn items_are_priced_by_price_data_and_by_decimals() {
    let world = World::new().await;
    let customer = text(&world.post("/v1/customers", &[]).await.ok(), "id");
    let product = text(
        &world.post("/v1/products", &[("name", "Hours")]).await.ok(),
        "id",
    );
    let base = [("customer", customer.as_str()), ("quantity", "3")];
    let with = |more: &[(&'static str, &'static str)]| {
        let mut fields: Vec<(&str, &str)> = base.to_vec();
        fields.extend_from_slice(more);
        fields
    };
    for (unit, amount) in [("0.5", 2), ("33.333333333333", 100), ("-250", -750)] {
        let mut fields = with(&[("currency", "usd")]);
        fields.push(("unit_amount_decimal", unit));
        let item = world.post("/v1/invoiceitems", &fields).await.ok();
        assert_eq!(item["amount"], amount, "{unit}");
        assert_eq!(item["quantity"], 3);
        assert_eq!(item["pricing"]["unit_amount_decimal"], unit);
    }
    let mut fields = with(&[
        ("price_data[currency]", "usd"),
        ("price_data[unit_amount]", "1500"),
    ]);
    fields.push(("price_data[product]", &product));
    let item = world.post("/v1/invoiceitems", &fields).await.ok();
    assert_eq!(item["amount"], 4_500);
    let made = text(&item["pricing"]["price_details"], "price");
    let price = world.get(&format!("/v1/prices/{made}"), &[]).await.ok();
    assert_eq!(
        (&price["active"], &price["unit_amount"]),
        (&false.into(), &1_500.into())
    );
    assert_eq!(price["product"], product.as_str());
    let invoice = [
        ("customer", customer.as_str()),
        ("pending_invoice_items_behavior", "include"),
    ];
    let invoice = world.post("/v1/invoices", &invoice).await.ok();
    assert_eq!(amounts(&invoice), [4_500, -750, 100, 2]);
}

#[tokio::test]
async fn an_item_has_one_valid_price() {
    let world = World::new().await;
    let customer = text(&world.post("/v1/customers", &[]).await.ok(), "id");
    let product = text(
        &world.post("/v1/products", &[("name", "Hours")]).await.ok(),
        "id",
    );
    let base = [("customer", customer.as_str()), ("quantity", "3")];
    let with = |more: &[(&'static str, &'static str)]| {
        let mut fields: Vec<(&str, &str)> = base.to_vec();
        fields.extend_from_slice(more);
        fields
    };
    for (bad, param) in [
        (("price_data[product]", "prod_none"), "price_data[product]"),
        (("price_data[currency]", "xyz"), "price_data[currency]"),
        (
            ("unit_amount_decimal", "1.0000000000001"),
            "unit_amount_decimal",
        ),
    ] {
        let mut fields = with(&[("currency", "usd")]);
        fields.push(bad);
        if bad.0.starts_with("price_data") {
            for known in [
                ("price_data[currency]", "usd"),
                ("price_data[unit_amount]", "1"),
                ("price_data[product]", product.as_str()),
            ] {
                if known.0 != bad.0 {
                    fields.push(known);
                }
            }
        }
        let error = world.post("/v1/invoiceitems", &fields).await.error(400);
        assert_eq!(error["param"], param, "{error:#}");
    }
    let both = with(&[
        ("currency", "usd"),
        ("amount", "5"),
        ("unit_amount_decimal", "5"),
    ]);
    world.post("/v1/invoiceitems", &both).await.error(400);
}

#[tokio::test]
async fn a_credit_refers_to_the_lines_that_it_credits() {
    for (mode, version) in [
        ("classic", None),
        ("flexible", None),
        ("classic", Some(OLD)),
    ] {
        let mut world = World::new().await;
        world.version = version;
        let (small, large) = (world.price(1_000).await, world.price(3_000).await);
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let subscription = world.subscribe(&customer, &small, mode).await;
        let first = world.latest_invoice(&text(&subscription, "id")).await;
        world.advance(&clock, START + 10 * DAY).await;
        let at = (START + 10 * DAY).to_string();
        let item = item(&subscription);
        if version.is_none() {
            let preview = world
                .post(
                    "/v1/invoices/create_preview",
                    &[
                        ("subscription", text(&subscription, "id").as_str()),
                        ("subscription_details[items][0][id]", &item),
                        ("subscription_details[items][0][price]", &large),
                        ("subscription_details[proration_behavior]", "always_invoice"),
                        ("subscription_details[proration_date]", &at),
                    ],
                )
                .await
                .ok();
            check(&preview, &first, false);
        }
        world
            .post(
                &format!("/v1/subscriptions/{}", text(&subscription, "id")),
                &[
                    ("items[0][id]", item.as_str()),
                    ("items[0][price]", &large),
                    ("proration_behavior", "always_invoice"),
                ],
            )
            .await
            .ok();
        let second = world.latest_invoice(&text(&subscription, "id")).await;
        check(&second, &first, version.is_some());
    }
}

/// The first line credits the only line of `charged`; the second credits
/// nothing.
fn check(invoice: &Value, charged: &Value, old: bool) {
    let lines = invoice["lines"]["data"].as_array().expect("lines");
    assert_eq!(lines.len(), 2);
    for (line, credits) in lines.iter().zip([true, false]) {
        let details = if old {
            line
        } else {
            let parent = &line["parent"];
            &parent[parent["type"].as_str().expect("a type")]
        };
        assert!(details["invoice_item"].is_string(), "{line:#}");
        let credited = &details["proration_details"]["credited_items"];
        if credits {
            assert_eq!(credited["invoice"], charged["id"]);
            let ids = serde_json::json!([charged["lines"]["data"][0]["id"]]);
            assert_eq!(credited["invoice_line_items"], ids);
        } else {
            assert_eq!(*credited, Value::Null);
        }
    }
}

#[tokio::test]
async fn expandable_properties_are_included_on_request() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    world.subscribe(&customer, &price, "flexible").await;
    let path = format!("/v1/customers/{customer}");
    world.post(&path, &[("balance", "-250")]).await.ok();
    let fields = [
        "tax",
        "invoice_credit_balance",
        "sources",
        "tax_ids",
        "subscriptions",
    ]
    .map(|name| ("expand[]", name));
    let expanded = world.get(&path, &fields).await.ok();
    assert_eq!(expanded["invoice_credit_balance"]["usd"], 250);
    assert_eq!(expanded["tax"]["automatic_tax"], "unrecognized_location");
    assert_eq!(expanded["sources"]["object"], "list");
    assert_eq!(expanded["sources"]["data"], serde_json::json!([]));
    let bare = world.get(&path, &[]).await.ok();
    assert!(bare.get("tax").is_none() && bare.get("sources").is_none());
    let charges = [
        ("customer", customer.as_str()),
        ("expand[]", "data.balance_transaction"),
    ];
    let charge = world.get("/v1/charges", &charges).await.ok()["data"][0].clone();
    let moved = &charge["balance_transaction"];
    assert_eq!(moved["object"], "balance_transaction");
    assert_eq!(
        (&moved["amount"], &moved["net"]),
        (&1_000.into(), &1_000.into())
    );
    assert_eq!(moved["source"], charge["id"]);
    let refund = [
        ("charge", charge["id"].as_str().expect("an id")),
        ("amount", "400"),
        ("expand[]", "balance_transaction"),
        ("expand[]", "charge.refunds"),
    ];
    let refund = world.post("/v1/refunds", &refund).await.ok();
    assert_eq!(refund["balance_transaction"]["amount"], -400);
    assert_eq!(refund["balance_transaction"]["type"], "refund");
    assert_eq!(refund["charge"]["refunds"]["data"][0]["id"], refund["id"]);
    let id = text(&refund["balance_transaction"], "id");
    let path = format!("/v1/balance_transactions/{id}");
    assert_eq!(
        world.get(&path, &[]).await.ok(),
        refund["balance_transaction"]
    );
    world
        .get("/v1/balance_transactions/txn_none", &[])
        .await
        .error(404);
    let error = world
        .get(
            "/v1/charges",
            &[("expand[]", "data.colour"), ("customer", customer.as_str())],
        )
        .await
        .error(400);
    assert_eq!(error["param"], "expand");
}

#[tokio::test]
async fn cards_are_updated_by_request_and_by_their_network() {
    let world = World::new().await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let list = [("customer", customer.as_str()), ("type", "card")];
    let methods = world.get("/v1/payment_methods", &list).await.ok();
    let id = text(&methods["data"][0], "id");
    let path = format!("/v1/payment_methods/{id}");
    let fields = [("card[exp_month]", "3"), ("card[exp_year]", "2035")];
    let changed = world.post(&path, &fields).await.ok();
    assert_eq!(changed["card"]["exp_year"], 2_035);
    let renewed = world
        .post(&format!("/_sandbox/payment_methods/{id}/renew"), &[])
        .await
        .ok();
    assert_eq!(renewed["card"]["exp_year"], 2_039);
    for (kind, year) in [
        ("payment_method.updated", 2_034),
        ("payment_method.automatically_updated", 2_035),
    ] {
        let events = world.get("/v1/events", &[("type", kind)]).await.ok();
        let previous = &events["data"][0]["data"]["previous_attributes"];
        assert_eq!(previous["card"]["exp_year"], year, "{kind}");
    }
    for (name, value, code) in [
        ("card[exp_month]", "13", "invalid_expiry_month"),
        ("card[exp_year]", "2001", "invalid_expiry_year"),
    ] {
        let error = world.post(&path, &[(name, value)]).await.error(402);
        assert_eq!(error["code"], code);
    }
    let others = [("customer", customer.as_str()), ("type", "sepa_debit")];
    let none = world.get("/v1/payment_methods", &others).await.ok();
    assert_eq!(none["data"], serde_json::json!([]));
    let loose = [("type", "card"), ("card[token]", "tok_visa")];
    let loose = text(&world.post("/v1/payment_methods", &loose).await.ok(), "id");
    let path = format!("/v1/payment_methods/{loose}");
    world.post(&path, &[("metadata[a]", "b")]).await.error(400);
}
