//! Cards that pay, cards that do not, and the consequences.

use crate::support::{START, World, item, text};

#[tokio::test]
async fn a_declined_card_cannot_be_attached() {
    let world = World::new().await;
    let error = world
        .post(
            "/v1/customers",
            &[("payment_method", "pm_card_chargeDeclined")],
        )
        .await
        .error(402);
    assert_eq!(
        (&error["type"], &error["code"], &error["decline_code"]),
        (
            &"card_error".into(),
            &"card_declined".into(),
            &"generic_decline".into()
        )
    );
    let customers = world.get("/v1/customers", &[]).await.ok();
    assert_eq!(customers["data"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn a_detached_event_names_the_previous_customer() {
    let world = World::new().await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_mastercard").await;
    let methods = world
        .get(&format!("/v1/customers/{customer}/payment_methods"), &[])
        .await
        .ok();
    let method = text(&methods["data"][0], "id");
    let detached = world
        .post(&format!("/v1/payment_methods/{method}/detach"), &[])
        .await
        .ok();
    assert!(detached["customer"].is_null());
    let events = world
        .get("/v1/events", &[("type", "payment_method.detached")])
        .await
        .ok();
    assert_eq!(
        events["data"][0]["data"]["previous_attributes"]["customer"],
        customer.as_str()
    );
    let customer = world
        .get(&format!("/v1/customers/{customer}"), &[])
        .await
        .ok();
    assert!(customer["invoice_settings"]["default_payment_method"].is_null());
}

#[tokio::test]
async fn a_subscription_without_a_card_is_refused() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let customer = text(&world.post("/v1/customers", &[]).await.ok(), "id");
    let fields = [
        ("customer", customer.as_str()),
        ("items[0][price]", price.as_str()),
    ];
    let error = world.post("/v1/subscriptions", &fields).await.error(400);
    assert_eq!(error["code"], "resource_missing");
    let list = world
        .get("/v1/subscriptions", &[("status", "all")])
        .await
        .ok();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn default_incomplete_waits_for_the_customer_to_pay() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let customer = text(&world.post("/v1/customers", &[]).await.ok(), "id");
    let subscription = world
        .post(
            "/v1/subscriptions",
            &[
                ("customer", &customer),
                ("items[0][price]", &price),
                ("payment_behavior", "default_incomplete"),
                (
                    "payment_settings[save_default_payment_method]",
                    "on_subscription",
                ),
                ("expand[]", "latest_invoice.payments"),
                ("expand[]", "latest_invoice.confirmation_secret"),
            ],
        )
        .await
        .ok();
    assert_eq!(subscription["status"], "incomplete");
    let invoice = &subscription["latest_invoice"];
    assert_eq!(invoice["status"], "open");
    assert!(invoice["confirmation_secret"]["client_secret"].is_string());
    let intent = text(&invoice["payments"]["data"][0]["payment"], "payment_intent");
    let path = format!("/v1/payment_intents/{intent}/confirm");
    let error = world
        .post(&path, &[("payment_method", "pm_card_chargeCustomerFail")])
        .await
        .error(402);
    assert_eq!(error["payment_intent"]["status"], "requires_payment_method");
    world
        .post(&path, &[("payment_method", "pm_card_visa")])
        .await
        .ok();
    let subscription = world.subscription(&text(&subscription, "id")).await;
    assert_eq!(subscription["status"], "active");
    assert!(subscription["default_payment_method"].is_string());
}

#[tokio::test]
async fn error_if_incomplete_leaves_no_trace() {
    let world = World::new().await;
    let (small, large) = (world.price(1_000).await, world.price(3_000).await);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &small, "flexible").await;
    let events = world.event_types().await.len();
    world
        .post(
            "/_sandbox/faults",
            &[("fault", "decline"), ("decline_code", "insufficient_funds")],
        )
        .await
        .ok();
    let error = world
        .post(
            &format!("/v1/subscriptions/{}", text(&subscription, "id")),
            &[
                ("items[0][id]", &item(&subscription)),
                ("items[0][price]", &large),
                ("proration_behavior", "always_invoice"),
                ("payment_behavior", "error_if_incomplete"),
            ],
        )
        .await
        .error(402);
    assert_eq!(error["decline_code"], "insufficient_funds");
    let after = world.subscription(&text(&subscription, "id")).await;
    assert_eq!(after, world.subscription(&text(&subscription, "id")).await);
    assert_eq!(after["items"]["data"][0]["price"]["id"], small.as_str());
    assert_eq!(world.event_types().await.len(), events);
}

#[tokio::test]
async fn a_subscription_becomes_active_after_authentication() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world
        .customer(&clock, "pm_card_authenticationRequired")
        .await;
    let subscription = world.subscribe(&customer, &price, "flexible").await;
    assert_eq!(subscription["status"], "incomplete");
    let types = world.event_types().await;
    assert!(
        types
            .iter()
            .any(|kind| kind == "invoice.payment_action_required")
    );
    let intents = world
        .get("/v1/payment_intents", &[("customer", &customer)])
        .await
        .ok();
    let intent = &intents["data"][0];
    assert_eq!(intent["status"], "requires_action");
    let path = format!(
        "/_sandbox/payment_intents/{}/authenticate",
        text(intent, "id")
    );
    world.post(&path, &[]).await.ok();
    assert_eq!(
        world.subscription(&text(&subscription, "id")).await["status"],
        "active"
    );
}

#[tokio::test]
async fn invoices_are_paid_by_hand_voided_and_written_off() {
    let world = World::new().await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let make = || async {
        world
            .post(
                "/v1/invoiceitems",
                &[
                    ("customer", &customer),
                    ("amount", "700"),
                    ("currency", "usd"),
                ],
            )
            .await
            .ok();
        let invoice = world
            .post(
                "/v1/invoices",
                &[
                    ("customer", &customer),
                    ("pending_invoice_items_behavior", "include"),
                ],
            )
            .await
            .ok();
        let id = text(&invoice, "id");
        world
            .post(&format!("/v1/invoices/{id}/finalize"), &[])
            .await
            .ok();
        id
    };
    let (paid, void, lost) = (make().await, make().await, make().await);
    let response = world
        .post(&format!("/v1/invoices/{paid}/pay"), &[])
        .await
        .ok();
    assert_eq!(
        (&response["status"], &response["amount_paid"]),
        (&"paid".into(), &700.into())
    );
    world
        .post(&format!("/v1/invoices/{paid}/pay"), &[])
        .await
        .error(400);
    let response = world
        .post(&format!("/v1/invoices/{void}/void"), &[])
        .await
        .ok();
    assert_eq!(
        (&response["status"], &response["amount_remaining"]),
        (&"void".into(), &700.into())
    );
    let response = world
        .post(&format!("/v1/invoices/{lost}/mark_uncollectible"), &[])
        .await
        .ok();
    assert_eq!(response["status"], "uncollectible");
    let payments = world
        .get("/v1/invoice_payments", &[("invoice", &paid)])
        .await
        .ok();
    assert_eq!(payments["data"][0]["status"], "paid");
}

#[tokio::test]
async fn a_voided_invoice_gives_back_the_credit_it_used() {
    let world = World::new().await;
    let customer = text(
        &world
            .post("/v1/customers", &[("balance", "-300")])
            .await
            .ok(),
        "id",
    );
    let fields = [
        ("customer", customer.as_str()),
        ("amount", "1000"),
        ("currency", "usd"),
    ];
    world.post("/v1/invoiceitems", &fields).await.ok();
    let fields = [
        ("customer", customer.as_str()),
        ("pending_invoice_items_behavior", "include"),
    ];
    let id = text(&world.post("/v1/invoices", &fields).await.ok(), "id");
    let open = world
        .post(&format!("/v1/invoices/{id}/finalize"), &[])
        .await
        .ok();
    assert_eq!(
        (&open["amount_due"], &open["ending_balance"]),
        (&700.into(), &0.into())
    );
    world
        .post(&format!("/v1/invoices/{id}/void"), &[])
        .await
        .ok();
    let customer = world
        .get(&format!("/v1/customers/{customer}"), &[])
        .await
        .ok();
    assert_eq!(customer["balance"], -300);
}

#[tokio::test]
async fn one_customers_card_never_pays_for_another() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let (rich, other) = (
        world.customer(&clock, "pm_card_visa").await,
        world.customer(&clock, "pm_card_visa").await,
    );
    let methods = world
        .get("/v1/payment_methods", &[("customer", &rich)])
        .await
        .ok();
    let method = text(&methods["data"][0], "id");
    let fields = [
        ("customer", other.as_str()),
        ("items[0][price]", price.as_str()),
        ("default_payment_method", method.as_str()),
    ];
    let error = world.post("/v1/subscriptions", &fields).await.error(400);
    assert_eq!(error["param"], "default_payment_method");
    let path = format!("/v1/payment_methods/{method}/attach");
    world.post(&path, &[("customer", &other)]).await.error(400);
    let field = ("invoice_settings[default_payment_method]", method.as_str());
    world
        .post(&format!("/v1/customers/{other}"), &[field])
        .await
        .error(400);
}

#[tokio::test]
async fn invoice_numbers_count_up_for_each_customer() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let subscription = world.subscribe(&customer, &price, "flexible").await;
        let number = text(
            &world.latest_invoice(&text(&subscription, "id")).await,
            "number",
        );
        numbers.push(number.rsplit('-').next().expect("a counter").to_owned());
    }
    assert_eq!(numbers, ["0001", "0002"]);
}

#[tokio::test]
async fn the_link_in_an_invoice_leads_to_a_pdf() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &price, "flexible").await;
    let invoice = world.latest_invoice(&text(&subscription, "id")).await;
    let (kind, pdf) = world.download(&text(&invoice, "invoice_pdf")).await;
    assert_eq!(kind, "application/pdf");
    assert!(pdf.starts_with(b"%PDF-1.4") && pdf.ends_with(b"%%EOF\n"));
    let start = pdf
        .windows(9)
        .rposition(|part| part == b"startxref")
        .expect("a trailer");
    let offset: usize = String::from_utf8_lossy(&pdf[start + 10..])
        .lines()
        .next()
        .and_then(|line| line.parse().ok())
        .expect("an offset");
    assert!(pdf[offset..].starts_with(b"xref"));
}

/// A customer who paid 1,000 with `card`, and the charge.
async fn paid_with(world: &World, card: &str) -> (String, String) {
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, card).await;
    let fields = [
        ("customer", customer.as_str()),
        ("items[0][price]", price.as_str()),
    ];
    world.post("/v1/subscriptions", &fields).await.ok();
    let charges = world
        .get("/v1/charges", &[("customer", customer.as_str())])
        .await
        .ok();
    (customer, text(&charges["data"][0], "id"))
}

/// The data of the newest event of this type.
async fn newest_event(world: &World, kind: &str) -> serde_json::Value {
    let events = world.get("/v1/events", &[("type", kind)]).await.ok();
    events["data"][0]["data"].clone()
}

#[tokio::test]
async fn a_charge_is_refunded_in_part_then_in_full_and_no_more() {
    let world = World::new().await;
    let (_, charge) = paid_with(&world, "pm_card_visa").await;
    let part = [("charge", charge.as_str()), ("amount", "400")];
    let refund = world.post("/v1/refunds", &part).await.ok();
    assert_eq!(
        (&refund["amount"], &refund["status"]),
        (&400.into(), &"succeeded".into())
    );
    let event = newest_event(&world, "charge.refunded").await;
    assert_eq!(event["object"]["amount_refunded"], 400);
    assert_eq!(event["object"]["refunded"], false);
    assert_eq!(event["previous_attributes"]["amount_refunded"], 0);
    let too_much = [("charge", charge.as_str()), ("amount", "601")];
    let error = world.post("/v1/refunds", &too_much).await.error(400);
    assert_eq!(error["param"], "amount");
    let rest = [("charge", charge.as_str())];
    assert_eq!(world.post("/v1/refunds", &rest).await.ok()["amount"], 600);
    assert_eq!(
        newest_event(&world, "charge.refunded").await["object"]["refunded"],
        true
    );
    let error = world.post("/v1/refunds", &rest).await.error(400);
    assert_eq!(error["code"], "charge_already_refunded");
    let all = world.get("/v1/refunds", &rest).await.ok();
    assert_eq!(all["data"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_refund_that_succeeded_fails_and_can_be_made_again() {
    let world = World::new().await;
    let (_, charge) = paid_with(&world, "pm_card_visa").await;
    let whole = [("charge", charge.as_str())];
    let refund = world.post("/v1/refunds", &whole).await.ok();
    let path = format!("/_sandbox/refunds/{}/fail", text(&refund, "id"));
    world.post(&path, &[]).await.ok();
    let failed = newest_event(&world, "refund.failed").await["object"].clone();
    assert_eq!(
        (&failed["status"], &failed["failure_reason"]),
        (&"failed".into(), &"expired_or_canceled_card".into())
    );
    for told in ["charge.refund.updated", "refund.updated"] {
        let event = newest_event(&world, told).await;
        assert_eq!(event["object"], failed);
        assert_eq!(event["previous_attributes"]["status"], "succeeded");
    }
    let now = world.get(&format!("/v1/charges/{charge}"), &[]).await.ok();
    assert_eq!(
        (&now["amount_refunded"], &now["refunded"]),
        (&0.into(), &false.into())
    );
    world.post(&path, &[]).await.error(400);
    world.post("/v1/refunds", &whole).await.ok();
}

#[tokio::test]
async fn a_dispute_is_lost_or_won() {
    let world = World::new().await;
    for (decision, outcome) in [
        ("/v1/disputes/{}/close", "lost"),
        ("/_sandbox/disputes/{}/win", "won"),
    ] {
        let (_, charge) = paid_with(&world, "pm_card_createDispute").await;
        let dispute = newest_event(&world, "charge.dispute.created").await["object"].clone();
        assert_eq!(dispute["charge"], charge.as_str());
        assert_eq!(dispute["status"], "needs_response");
        let path = decision.replace("{}", dispute["id"].as_str().expect("an id"));
        world.post(&path, &[]).await.ok();
        let closed = newest_event(&world, "charge.dispute.closed").await;
        assert_eq!(closed["object"]["status"], outcome);
        let charge = world.get(&format!("/v1/charges/{charge}"), &[]).await.ok();
        assert_eq!(charge["disputed"], true);
        world.post(&path, &[]).await.error(400);
    }
}

#[tokio::test]
async fn a_deleted_draft_takes_its_items_with_it() {
    let world = World::new().await;
    let customer = text(&world.post("/v1/customers", &[]).await.ok(), "id");
    let item = [
        ("customer", customer.as_str()),
        ("amount", "500"),
        ("currency", "usd"),
    ];
    world.post("/v1/invoiceitems", &item).await.ok();
    let draft = [
        ("customer", customer.as_str()),
        ("pending_invoice_items_behavior", "include"),
    ];
    let invoice = text(&world.post("/v1/invoices", &draft).await.ok(), "id");
    let path = format!("/v1/invoices/{invoice}");
    world
        .send("DELETE", &path, &[], None)
        .await
        .expect("a response")
        .ok();
    let event = newest_event(&world, "invoice.deleted").await;
    assert_eq!(event["object"]["id"], invoice.as_str());
    let pending = [("customer", customer.as_str()), ("pending", "true")];
    let items = world.get("/v1/invoiceitems", &pending).await.ok();
    assert_eq!(items["data"].as_array().map(Vec::len), Some(0));
}
