//! Details of cards, invoices and subscriptions that Stripe shows or refuses.

use crate::support::{START, World, text};

#[tokio::test]
async fn test_cards_end_in_stripes_digits() {
    let world = World::new().await;
    let clock = world.clock(START).await;
    for (card, brand, last4) in [
        ("pm_card_amex", "amex", "8431"),
        ("pm_card_discover", "discover", "9424"),
        ("pm_card_mastercard_prepaid", "mastercard", "5100"),
    ] {
        let customer = world.customer(&clock, card).await;
        let path = format!("/v1/customers/{customer}/payment_methods");
        let methods = world.get(&path, &[]).await.ok();
        let shown = &methods["data"][0]["card"];
        assert_eq!(shown["brand"], brand, "{card}");
        assert_eq!(shown["last4"], last4, "{card}");
    }
}

#[tokio::test]
async fn a_card_over_its_velocity_limit_is_declined_for_that_reason() {
    let world = World::new().await;
    let clock = world.clock(START).await;
    let card = "pm_card_visa_chargeDeclinedVelocityLimitExceeded";
    let customer = text(
        &world
            .post("/v1/customers", &[("test_clock", &*clock)])
            .await
            .ok(),
        "id",
    );
    // Such a card cannot even be saved.
    let attach = format!("/v1/payment_methods/{card}/attach");
    let error = world
        .post(&attach, &[("customer", &*customer)])
        .await
        .error(402);
    assert_eq!(error["code"], "card_declined");
    assert_eq!(error["decline_code"], "card_velocity_exceeded");
}

#[tokio::test]
async fn a_paid_invoice_advances_no_more() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world.subscribe(&customer, &price, "flexible").await;
    let invoice = world.latest_invoice(&text(&subscription, "id")).await;
    assert_eq!(invoice["status"], "paid");
    assert_eq!(invoice["auto_advance"], false);
    assert_eq!(invoice["attempt_count"], 1);
}

#[tokio::test]
async fn a_payment_that_waits_for_its_payer_is_no_attempt_yet() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world
        .customer(&clock, "pm_card_authenticationRequired")
        .await;
    let subscription = world.subscribe(&customer, &price, "flexible").await;
    assert_eq!(subscription["status"], "incomplete");
    let invoice = world.latest_invoice(&text(&subscription, "id")).await;
    assert_eq!(invoice["status"], "open");
    assert_eq!(invoice["attempt_count"], 0);
}

#[tokio::test]
async fn the_description_of_a_finalized_invoice_stays() {
    let world = World::new().await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let fields = [("customer", &*customer), ("description", "before")];
    let invoice = world.post("/v1/invoices", &fields).await.ok();
    let path = format!("/v1/invoices/{}", text(&invoice, "id"));
    let draft = world.post(&path, &[("description", "draft")]).await.ok();
    assert_eq!(draft["description"], "draft");
    world.post(&format!("{path}/finalize"), &[]).await.ok();
    for field in ["description", "footer"] {
        let error = world.post(&path, &[(field, "after")]).await.error(400);
        assert_eq!(error["code"], "invoice_not_editable", "{field}");
    }
    assert_eq!(world.get(&path, &[]).await.ok()["description"], "draft");
}

#[tokio::test]
async fn an_incomplete_subscription_does_not_end_with_its_period() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world
        .customer(&clock, "pm_card_authenticationRequired")
        .await;
    let subscription = world.subscribe(&customer, &price, "flexible").await;
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    let ends = [("cancel_at_period_end", "true")];
    world.post(&path, &ends).await.error(400);
    let after = world.get(&path, &[]).await.ok();
    assert_eq!(after["cancel_at_period_end"], false);
    // What changes nothing is no such change.
    let goes_on = [("cancel_at_period_end", "false")];
    assert_eq!(
        world.post(&path, &goes_on).await.ok()["status"],
        "incomplete"
    );
}

#[tokio::test]
async fn the_line_of_a_trial_says_for_how_many() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    for (quantity, said) in [
        ("1", "Free trial for 1 × Plan"),
        ("3", "Free trial for 3 × Plan"),
    ] {
        let fields = [
            ("customer", &*customer),
            ("items[0][price]", &*price),
            ("items[0][quantity]", quantity),
            ("trial_period_days", "14"),
        ];
        let subscription = world.post("/v1/subscriptions", &fields).await.ok();
        let invoice = world.latest_invoice(&text(&subscription, "id")).await;
        let line = &invoice["lines"]["data"][0];
        assert_eq!(line["description"], said);
        assert_eq!(line["amount"], 0);
    }
}
