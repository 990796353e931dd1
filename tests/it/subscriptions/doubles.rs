//! Several subscriptions of one organization, made in Stripe: which one stays, and the end of
//! the others by `subscriptions end-doubles`.

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{VISA, World, text};
use crate::support::program::{Ran, program_with_stripe, run_beside};

async fn end_doubles(world: &World, arguments: &[&str]) -> Ran {
    let all = [&["subscriptions", "end-doubles", "--json"][..], arguments].concat();
    let base = world.stripe.sandbox.url();
    run_beside(program_with_stripe(&world.service.db, &base, &all)).await
}

impl World {
    /// Subscribes a customer in Stripe's dashboard.
    pub async fn subscribe_elsewhere(&self, customer: &str, tier: &str) -> String {
        let key = format!("valuecanvas_{tier}_monthly");
        let prices = self
            .stripe
            .get("/v1/prices", &[("lookup_keys[]", &*key)])
            .await;
        let price = text(&prices["data"][0], "id");
        self.subscribe_to(customer, &price).await
    }

    async fn subscribe_to(&self, customer: &str, price: &str) -> String {
        let fields = [("customer", customer), ("items[0][price]", price)];
        let made = self.stripe.post("/v1/subscriptions", &fields).await;
        text(&made, "id")
    }

    /// What the audit log has of refunds: amounts, and who gave them back.
    async fn refunds_entered(&self) -> Vec<String> {
        let entries =
            "SELECT coalesce(string_agg(concat_ws(' ', after_state ->> 'amount', actor_type,
                              metadata -> 'initiator' ->> 'command'), ',' ORDER BY sequence), '')
                         FROM billing_audit_log WHERE action = 'payment_refunded'";
        let entries = self.service.db.value(entries).await;
        let entries = entries.split(',').filter(|entry| !entry.is_empty());
        entries.map(str::to_owned).collect()
    }

    async fn status_in_stripe(&self, id: &str) -> Value {
        let path = format!("/v1/subscriptions/{id}");
        self.stripe.get(&path, &[]).await["status"].clone()
    }

    async fn refunded(&self) -> i64 {
        let refunds = self.stripe.list("/v1/refunds", &[]).await;
        refunds
            .iter()
            .filter_map(|one| one["amount"].as_i64())
            .sum()
    }
}

/// One that was made here, and one like it that was made in Stripe afterwards.
async fn doubled() -> (World, String, String, String) {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let ours = text(&world.current().await, "stripeSubscriptionId");
    let theirs = world.subscribe_elsewhere(&customer, "standard").await;
    world.settle().await;
    (world, customer, ours, theirs)
}

#[tokio::test]
async fn a_dry_run_says_which_one_stays_and_why_and_changes_nothing() {
    let (world, _, ours, theirs) = doubled().await;
    let said = end_doubles(&world, &[]).await;
    assert_eq!(said.status, 0, "{}", said.stderr);
    let found = &said.json()["doubles"][0];
    assert_eq!(found["organizationId"], json!(world.organization));
    assert_eq!(found["stays"]["stripeSubscriptionId"], json!(ours));
    assert_eq!(found["because"], "made_here");
    let [end] = &found["ends"].as_array().unwrap()[..] else {
        panic!("{found:#}");
    };
    assert_eq!(end["stripeSubscriptionId"], json!(theirs));
    assert_eq!(
        (&end["paidAmount"], &end["ended"]),
        (&json!(9_900), &json!(false))
    );
    assert_eq!(world.status_in_stripe(&theirs).await, "active");
    assert_eq!(world.refunded().await, 0);
}

#[tokio::test]
async fn the_surplus_ends_is_refunded_and_audited_and_the_plan_stays() {
    let (world, _, ours, theirs) = doubled().await;
    let done = end_doubles(&world, &["--apply", "--refund"]).await;
    assert_eq!(done.status, 0, "{}", done.stderr);
    let end = &done.json()["doubles"][0]["ends"][0];
    assert_eq!(
        (&end["ended"], &end["refunded"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(world.status_in_stripe(&theirs).await, "canceled");
    assert_eq!(world.status_in_stripe(&ours).await, "active");
    assert_eq!(world.refunded().await, 9_900);
    // Mirrored at once, before any webhook is looked at.
    let state = world.current().await;
    assert_eq!(state["stripeSubscriptionId"], json!(ours));
    assert_eq!(state["otherSubscriptions"], json!([]));
    let entry = format!(
        "SELECT metadata FROM billing_audit_log
          WHERE action = 'subscription_canceled' AND actor_type = 'system' AND resource_id = '{theirs}'"
    );
    let entry: Value = serde_json::from_str(&world.service.db.value(&entry).await).unwrap();
    assert_eq!(entry["wish"]["stays"], json!(ours), "{entry:#}");
    assert_eq!(entry["initiator"]["command"], "subscriptions end-doubles");
    world.settle().await;
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    // Nothing is left to do, and doing it again changes nothing.
    let again = end_doubles(&world, &["--apply", "--refund"]).await;
    assert_eq!((again.status, &again.json()["doubles"]), (0, &json!([])));
    assert_eq!(world.refunded().await, 9_900);
}

#[tokio::test]
async fn a_higher_plan_stays_unless_another_one_is_named() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let ours = text(&world.current().await, "stripeSubscriptionId");
    let higher = world.subscribe_elsewhere(&customer, "enterprise").await;
    world.settle().await;
    let found = end_doubles(&world, &[]).await.json();
    assert_eq!(
        found["doubles"][0]["stays"]["stripeSubscriptionId"],
        json!(higher)
    );
    assert_eq!(found["doubles"][0]["because"], "higher_plan");

    let organization = world.organization.to_string();
    let named = ["--organization", &organization, "--keep", "sub_of_nobody"];
    assert_eq!(end_doubles(&world, &named).await.status, 2);
    assert_eq!(end_doubles(&world, &["--keep", &ours]).await.status, 2);
    assert_eq!(end_doubles(&world, &["--refund"]).await.status, 2);
    let named = ["--organization", &organization, "--keep", &ours, "--apply"];
    let done = end_doubles(&world, &named).await;
    assert_eq!(
        (done.status, &done.json()["doubles"][0]["because"]),
        (0, &json!("named"))
    );
    world.settle().await;
    assert_eq!(world.status_in_stripe(&higher).await, "canceled");
    assert_eq!(world.refunded().await, 0);
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
}

#[tokio::test]
async fn a_lost_answer_ends_it_once_and_leaves_nothing_open() {
    let (world, _, ours, theirs) = doubled().await;
    for (fault, path) in [
        ("drop_after_acting", "/v1/refunds"),
        ("server_error_after_acting", "/v1/subscriptions/*"),
    ] {
        let method = if path == "/v1/refunds" {
            "POST"
        } else {
            "DELETE"
        };
        world
            .stripe
            .fault(&[("fault", fault), ("method", method), ("path", path)])
            .await;
    }
    let done = end_doubles(&world, &["--apply", "--refund"]).await;
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    world.settle().await;
    assert_eq!(world.status_in_stripe(&theirs).await, "canceled");
    assert_eq!(world.status_in_stripe(&ours).await, "active");
    assert_eq!(world.refunded().await, 9_900);
    let open = "billing_stripe_requests WHERE state = 'open'";
    assert_eq!(world.service.db.count(open).await, 0);
    let entries = format!(
        "billing_audit_log WHERE action = 'subscription_canceled' AND resource_id = '{theirs}'"
    );
    assert_eq!(world.service.db.count(&entries).await, 1);
}

#[tokio::test]
async fn an_unpaid_invoice_of_the_surplus_is_paid_by_nobody() {
    let (world, customer, ours, theirs) = doubled().await;
    // The customer's next invoice of the second one is not paid.
    world
        .stripe
        .use_card(&customer, "pm_card_chargeCustomerFail")
        .await;
    let path = format!("/v1/subscriptions/{theirs}");
    let fields = [
        ("billing_cycle_anchor", "now"),
        ("proration_behavior", "none"),
        ("payment_behavior", "allow_incomplete"),
    ];
    world.stripe.post(&path, &fields).await;
    world.settle().await;
    assert_eq!(world.status_in_stripe(&theirs).await, "past_due");
    let found = end_doubles(&world, &[]).await.json();
    assert_eq!(found["doubles"][0]["because"], "in_force");
    let done = end_doubles(&world, &["--apply"]).await;
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    world.settle().await;
    let invoices = world.stripe.invoices(&customer).await;
    let open = invoices
        .iter()
        .filter(|one| one["status"] == "open")
        .count();
    assert_eq!(open, 0, "{invoices:#?}");
    assert_eq!(world.status_in_stripe(&ours).await, "active");
    let state = world
        .call(Method::GET, "/api/billing/state", None)
        .await
        .ok();
    assert_eq!(state["payment"]["status"], "paid");
}

const GIVEN_BACK: &str = "9900 system subscriptions end-doubles";

#[tokio::test]
async fn a_refund_is_entered_though_the_end_then_fails() {
    let (world, _, _, theirs) = doubled().await;
    let path = format!("/v1/subscriptions/{theirs}");
    let fault = [
        ("fault", "rate_limit"),
        ("next", "50"),
        ("retry_after", "0"),
        ("method", "DELETE"),
        ("path", &*path),
    ];
    world.stripe.fault(&fault).await;
    let failed = end_doubles(&world, &["--apply", "--refund"]).await;
    assert_eq!(failed.status, 1, "{}{}", failed.stdout, failed.stderr);
    let end = &failed.json()["doubles"][0]["ends"][0];
    assert_eq!(
        (&end["ended"], &end["refunded"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(world.status_in_stripe(&theirs).await, "active");
    assert_eq!(world.refunded().await, 9_900);
    assert_eq!(world.refunds_entered().await, [GIVEN_BACK]);
    world.stripe.clear_faults().await;
    let done = end_doubles(&world, &["--apply", "--refund"]).await;
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    assert_eq!(world.status_in_stripe(&theirs).await, "canceled");
    assert_eq!(world.refunded().await, 9_900);
    assert_eq!(world.refunds_entered().await, [GIVEN_BACK]);
}

#[tokio::test]
async fn a_refund_whose_answer_is_lost_is_entered_once() {
    let (world, _, _, theirs) = doubled().await;
    let fault = [
        ("fault", "drop_after_acting"),
        ("method", "POST"),
        ("path", "/v1/refunds"),
        ("next", "50"),
    ];
    world.stripe.fault(&fault).await;
    let lost = end_doubles(&world, &["--apply", "--refund"]).await;
    assert_eq!(lost.status, 1, "{}{}", lost.stdout, lost.stderr);
    assert_eq!(world.status_in_stripe(&theirs).await, "active");
    assert_eq!(world.refunded().await, 9_900);
    assert_eq!(world.refunds_entered().await, [GIVEN_BACK]);
    world.stripe.clear_faults().await;
    let done = end_doubles(&world, &["--apply", "--refund"]).await;
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    assert_eq!(world.status_in_stripe(&theirs).await, "canceled");
    assert_eq!(world.refunded().await, 9_900);
    assert_eq!(world.refunds_entered().await, [GIVEN_BACK]);
}

#[tokio::test]
async fn where_the_catalogue_does_not_know_a_plan_the_one_that_stays_is_named() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let ours = text(&world.current().await, "stripeSubscriptionId");
    let price = [
        ("currency", "usd"),
        ("unit_amount", "120000"),
        ("recurring[interval]", "month"),
        ("product_data[name]", "As agreed"),
    ];
    let price = text(&world.stripe.post("/v1/prices", &price).await, "id");
    let agreed = world.subscribe_to(&customer, &price).await;
    world.settle().await;
    let found = end_doubles(&world, &["--apply", "--refund"]).await;
    assert_eq!(found.status, 1, "{}{}", found.stdout, found.stderr);
    let found = found.json();
    assert_eq!(found["doubles"], json!([]));
    let undecided = &found["undecided"][0];
    assert_eq!(undecided["organizationId"], json!(world.organization));
    let running = undecided["running"].as_array().unwrap();
    let mut running: Vec<String> = running
        .iter()
        .map(|one| text(one, "stripeSubscriptionId"))
        .collect();
    let mut both = vec![ours.clone(), agreed.clone()];
    running.sort();
    both.sort();
    assert_eq!(running, both);
    for id in [&ours, &agreed] {
        assert_eq!(world.status_in_stripe(id).await, "active");
    }
    let organization = world.organization.to_string();
    let named = [
        "--organization",
        &organization,
        "--keep",
        &agreed,
        "--apply",
    ];
    let done = end_doubles(&world, &named).await;
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    assert_eq!(world.status_in_stripe(&ours).await, "canceled");
    assert_eq!(world.status_in_stripe(&agreed).await, "active");
}
