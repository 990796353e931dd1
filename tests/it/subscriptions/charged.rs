//! Which card is charged, and that it is the one that is shown: a subscription's own before
//! the customer's default, of schedules too. What is paid with it is in the audit log.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::cards::with_application;
use super::later::RENEWAL;
use super::world::{START, Stripe, VISA, World, text};

const MASTERCARD: &str = "pm_card_mastercard";
const REFUSED: &str = "pm_card_chargeCustomerFail";

impl World {
    async fn charge_from_now_on(&self, id: &str) -> Value {
        let path = format!("/api/billing/payment-methods/{id}/default");
        self.call(Method::PUT, &path, None).await.ok()
    }

    /// The cards that are shown as charged, page by page.
    async fn shown_as_charged(&self) -> Vec<String> {
        let mut charged = Vec::new();
        let mut query = "?limit=1".to_owned();
        loop {
            let path = format!("/api/billing/payment-methods{query}");
            let page = self.call(Method::GET, &path, None).await.ok();
            let data = page["data"].as_array().unwrap().iter();
            let data = data.filter(|one| one["isDefault"] == json!(true));
            charged.extend(data.map(|one| text(one, "id")));
            match page["nextCursor"].as_str() {
                Some(next) => query = format!("?limit=1&cursor={next}"),
                None => return charged,
            }
        }
    }

    /// Waits until this card is shown as charged, and no other.
    async fn until_charged(&self, card: &str) {
        let since = Instant::now();
        loop {
            let shown = self.shown_as_charged().await;
            if shown == [card] {
                return;
            }
            let patient = since.elapsed() < Duration::from_secs(30);
            assert!(patient, "{shown:?}, and not {card}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn default_of_customer(&self, customer: &str) -> String {
        let shown = self
            .stripe
            .get(&format!("/v1/customers/{customer}"), &[])
            .await;
        text(&shown["invoice_settings"], "default_payment_method")
    }

    /// Gives a subscription a card of its own.
    async fn charge_subscription(&self, subscription: &str, card: &str) {
        let path = format!("/v1/subscriptions/{subscription}");
        let fields = [("default_payment_method", card)];
        self.stripe.post(&path, &fields).await;
    }

    /// The cards that the customer's charges were made to, oldest first.
    async fn charged_to(&self, customer: &str) -> Vec<String> {
        let fields = [("customer", customer)];
        let charges = self.stripe.list("/v1/charges", &fields).await;
        let charges = charges.into_iter().rev();
        let paid = charges.filter(|charge| charge["paid"] == json!(true));
        paid.map(|charge| text(&charge, "payment_method")).collect()
    }

    /// What the audit entries say that was paid, and what was refused, when a card was made
    /// the default.
    async fn owed(&self) -> Vec<Value> {
        let entries = "SELECT coalesce(json_agg(metadata -> 'owed' ORDER BY sequence), '[]')
                         FROM billing_audit_log WHERE action = 'payment_method_default_set'";
        serde_json::from_str(&self.service.db.value(entries).await).unwrap()
    }
}

#[tokio::test]
async fn a_subscriptions_own_card_is_shown_as_the_one_that_is_charged() {
    let world = with_application(Stripe::start().await).await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let subscription = text(&world.current().await, "stripeSubscriptionId");
    let default = world.default_of_customer(&customer).await;
    world.until_charged(&default).await;
    let own = world.attach(&customer, MASTERCARD).await;
    world.charge_subscription(&subscription, &own).await;
    world.until_charged(&own).await;
    // And it is.
    let path = format!("/v1/subscriptions/{subscription}");
    let fields = [
        ("billing_cycle_anchor", "now"),
        ("proration_behavior", "none"),
    ];
    world.stripe.post(&path, &fields).await;
    assert_eq!(world.charged_to(&customer).await, [default.clone(), own]);
    // The one that is chosen here is shown before any webhook.
    world.deliver_nothing().await;
    let chosen = world.charge_from_now_on(&default).await;
    assert_eq!(chosen["isDefault"], true);
    assert_eq!(world.shown_as_charged().await, [default]);
}

#[tokio::test]
async fn a_pending_change_charges_the_card_that_was_chosen_since() {
    let (world, clock, customer) = World::on_clock(START).await;
    world.create("enterprise").await.ok();
    let subscription = text(&world.current().await, "stripeSubscriptionId");
    let first = world.default_of_customer(&customer).await;
    world.charge_subscription(&subscription, &first).await;
    world.settle().await;
    world.change_when("standard", "period_end").await.ok();
    let second = world.attach(&customer, MASTERCARD).await;
    world.charge_from_now_on(&second).await;
    world.until_charged(&second).await;
    world.stripe.advance(&clock, RENEWAL + 7_200).await;
    world.settle().await;
    assert_eq!(world.current().await["planTier"], "standard");
    assert_eq!(
        world.charged_to(&customer).await,
        [first, second.clone()],
        "the renewal is charged to the card that was chosen"
    );
    assert_eq!(world.shown_as_charged().await, [second]);
}

#[tokio::test]
async fn a_card_that_is_removed_is_charged_by_no_pending_change() {
    let (world, clock, customer) = World::on_clock(START).await;
    world.create("enterprise").await.ok();
    let subscription = text(&world.current().await, "stripeSubscriptionId");
    let first = world.default_of_customer(&customer).await;
    world.charge_subscription(&subscription, &first).await;
    world.settle().await;
    world.change_when("standard", "period_end").await.ok();
    let second = world.attach(&customer, MASTERCARD).await;
    let path = format!("/api/billing/payment-methods/{first}");
    let removed = world.call(Method::DELETE, &path, None).await;
    assert_eq!(removed.status, 204, "{removed:?}");
    world.stripe.advance(&clock, RENEWAL + 7_200).await;
    world.settle().await;
    assert_eq!(world.current().await["status"], "active");
    assert_eq!(world.charged_to(&customer).await, [first, second]);
}

/// Two subscriptions that owe an invoice each: in the order in which they are paid.
async fn owing() -> (World, String, [String; 2]) {
    let world = with_application(Stripe::start().await).await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let ours = text(&world.current().await, "stripeSubscriptionId");
    let theirs = world.subscribe_elsewhere(&customer, "enterprise").await;
    world.stripe.use_card(&customer, REFUSED).await;
    let mut both = [ours, theirs];
    both.sort();
    for subscription in &both {
        let path = format!("/v1/subscriptions/{subscription}");
        let fields = [
            ("billing_cycle_anchor", "now"),
            ("proration_behavior", "none"),
            ("payment_behavior", "allow_incomplete"),
        ];
        world.stripe.post(&path, &fields).await;
    }
    world.settle().await;
    let invoices = world.stripe.invoices(&customer).await;
    let open = both.map(|subscription| {
        let of = |invoice: &&Value| {
            let parent = &invoice["parent"]["subscription_details"]["subscription"];
            let named = [parent, &invoice["subscription"]];
            invoice["status"] == "open" && named.contains(&&json!(subscription))
        };
        text(invoices.iter().find(of).expect("an open invoice"), "id")
    });
    (world, customer, open)
}

#[tokio::test]
async fn a_payment_before_one_that_is_refused_is_entered() {
    let (world, customer, [first, second]) = owing().await;
    let card = world.attach(&customer, VISA).await;
    world
        .stripe
        .fault(&[("fault", "decline"), ("every", "2"), ("next", "1")])
        .await;
    world.charge_from_now_on(&card).await;
    let [owed] = &world.owed().await[..] else {
        panic!("{:?}", world.owed().await);
    };
    assert_eq!(owed["paid"], json!([first]), "{owed:#}");
    assert_eq!(owed["refused"], json!([second]));
}

#[tokio::test]
async fn a_payment_before_one_that_stripe_does_not_take_is_entered() {
    let (world, customer, [first, second]) = owing().await;
    let card = world.attach(&customer, VISA).await;
    let path = format!("/v1/invoices/{second}/pay");
    let fault = [
        ("fault", "rate_limit"),
        ("next", "50"),
        ("retry_after", "0"),
        ("path", &*path),
    ];
    world.stripe.fault(&fault).await;
    let path = format!("/api/billing/payment-methods/{card}/default");
    let failed = world.call(Method::PUT, &path, None).await;
    assert_eq!(failed.status, 503, "{failed:?}");
    let owed = world.owed().await;
    assert_eq!(owed.len(), 1);
    assert_eq!(owed[0]["paid"], json!([first]), "{owed:?}");
    // What is left is paid once it can be.
    world.stripe.clear_faults().await;
    world.charge_from_now_on(&card).await;
    assert_eq!(world.owed().await[1]["paid"], json!([second]));
}

#[tokio::test]
async fn payments_whose_answers_are_lost_are_entered_by_whoever_goes_on() {
    let (world, customer, [first, second]) = owing().await;
    let card = world.attach(&customer, VISA).await;
    let path = format!("/v1/invoices/{second}/pay");
    let fault = [
        ("fault", "drop_after_acting"),
        ("path", &*path),
        ("next", "50"),
    ];
    world.stripe.fault(&fault).await;
    let path = format!("/api/billing/payment-methods/{card}/default");
    let lost = world.call(Method::PUT, &path, None).await;
    assert_eq!(lost.problem(), (503, "stripe_unreachable"));
    assert_eq!(world.owed().await, Vec::<Value>::new());
    world.stripe.clear_faults().await;
    // As if the time for its retries had passed.
    let aged = "UPDATE billing_stripe_requests
                   SET created_at = created_at - interval '1 hour', called_at = called_at - interval '1 hour'
                 WHERE subject = 'payment_method' AND state = 'open'";
    world.service.db.execute(aged).await;
    world.settled_in_the_background().await;
    let owed = world.owed().await;
    assert_eq!(owed.len(), 1);
    let mut paid: Vec<String> = serde_json::from_value(owed[0]["paid"].clone()).unwrap();
    paid.sort();
    let mut both = vec![first, second];
    both.sort();
    assert_eq!(paid, both);
    let charged = world.charged_to(&customer).await;
    assert_eq!(charged.iter().filter(|one| **one == card).count(), 2);
}

#[tokio::test]
async fn an_invoice_with_a_card_of_its_own_is_paid_with_the_one_that_was_chosen() {
    let (world, customer, [first, _]) = owing().await;
    let refused = world.default_of_customer(&customer).await;
    let path = format!("/v1/invoices/{first}");
    let fields = [("default_payment_method", &*refused)];
    world.stripe.post(&path, &fields).await;
    let card = world.attach(&customer, VISA).await;
    world.charge_from_now_on(&card).await;
    let shown = world.stripe.get(&path, &[]).await;
    assert_eq!(shown["status"], "paid");
}
