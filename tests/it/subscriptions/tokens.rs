//! A change made with a preview's token charges what was shown, or is refused.

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{Answer, DAY, START, SUBSCRIPTION, VISA, World, seconds};

#[track_caller]
fn stale(answer: &Answer, why: &str) {
    assert_eq!(answer.problem(), (409, "preview_stale"), "{answer:?}");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains(why), "{detail}");
}

/// What Stripe has charged a customer in all.
async fn charged(world: &World, customer: &str) -> i64 {
    let invoices = world.stripe.invoices(customer).await;
    invoices
        .iter()
        .map(|invoice| invoice["total"].as_i64().unwrap())
        .sum()
}

#[tokio::test]
async fn what_was_shown_is_charged_although_time_has_passed() {
    let (world, clock, customer) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.stripe.advance(&clock, START + 10 * DAY).await;
    let preview = world.preview("enterprise").await.ok();
    assert_eq!(preview["source"], "stripe");
    assert_eq!(seconds(&preview["effectiveDate"]), START + 10 * DAY);
    // 18 of 28 days are left: 320.79 less 63.64.
    assert_eq!(preview["dueNowAmountMinor"], 25_715);
    // A day on the customer's clock; minutes on ours.
    world.stripe.advance(&clock, START + 11 * DAY).await;
    let before = charged(&world, &customer).await;
    world.change_as(&preview).await.ok();
    assert_eq!(charged(&world, &customer).await - before, 25_715);
}

#[tokio::test]
async fn another_change_makes_it_stale() {
    let world = World::start().await;
    world.customer(VISA).await;
    let first = world.preview("standard").await.ok();
    world.create("standard").await.ok();
    // There is a subscription now.
    stale(
        &world.change_as(&world_preview(&first, "enterprise")).await,
        "another change",
    );
    let second = world.preview("enterprise").await.ok();
    world.cancel(false).await.ok();
    stale(
        &world.change_as(&second).await,
        "the subscription has changed",
    );
    assert_eq!(world.current().await["planTier"], "standard");
}

/// The same token, for another plan.
fn world_preview(preview: &Value, tier: &str) -> Value {
    json!({"newPlan": tier, "previewToken": preview["previewToken"]})
}

#[tokio::test]
async fn a_used_token_is_stale() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    let preview = world.preview("enterprise").await.ok();
    world.change_as(&preview).await.ok();
    world.change("standard").await.ok();
    stale(
        &world.change_as(&preview).await,
        "the subscription has changed",
    );
}

#[tokio::test]
async fn a_new_period_makes_it_stale_whether_or_not_we_know_of_it() {
    for known in [true, false] {
        let (world, clock, _) = World::on_clock(START).await;
        let created = world.create("standard").await.ok();
        world.settle().await;
        let end = seconds(&created["currentPeriodEnd"]);
        world.stripe.advance(&clock, end - 60).await;
        let preview = world.preview("enterprise").await.ok();
        // It holds for as long as the period lasts.
        let lasts = seconds(&preview["previewTokenExpiresAt"]) - jiff::Timestamp::now().as_second();
        assert!((0..=60).contains(&lasts), "{lasts}");
        if !known {
            world.deliver_nothing().await;
        }
        world.stripe.advance(&clock, end + 7_200).await;
        world.settle().await;
        let why = if known {
            "the subscription has changed"
        } else {
            "another billing period"
        };
        stale(&world.change_as(&preview).await, why);
    }
}

#[tokio::test]
async fn another_price_in_stripe_makes_it_stale() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    let first = world.preview("standard").await.ok();
    // A credit note, an invoice item: whatever is charged with it.
    world
        .stripe
        .post(
            "/v1/invoiceitems",
            &[
                ("customer", &customer),
                ("amount", "500"),
                ("currency", "usd"),
            ],
        )
        .await;
    stale(&world.change_as(&first).await, "another amount");
    assert!(world.stripe.subscriptions(&customer).await.is_empty());
    let again = world.preview("standard").await.ok();
    assert_eq!(again["dueNowAmountMinor"], 10_400);
    world.change_as(&again).await.ok();
    assert_eq!(charged(&world, &customer).await, 10_400);
}

#[tokio::test]
async fn a_token_of_another_organization_or_of_nobody_is_stale() {
    let world = World::start().await;
    world.customer(VISA).await;
    let preview = world.preview("standard").await.ok();
    let mut other = world;
    other.organization = other.service.organization("Blue Harbor").await;
    other.token = other
        .service
        .token(
            other.organization,
            valuecanvas_billing::tenancy::auth::Role::Owner,
        )
        .await;
    stale(&other.change_as(&preview).await, "another change");
    for forged in ["", "x", "e30.e30", &"a".repeat(5_000)] {
        let forged = json!({"newPlan": "standard", "previewToken": forged});
        stale(
            &other.change_as(&forged).await,
            "was not issued by this service",
        );
    }
}

#[tokio::test]
async fn a_first_subscription_is_bound_to_its_preview() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    let shown = world.preview("standard").await.ok();
    let subscribe = async |tier: &str, more: Value| {
        let mut body = json!({"planTier": tier, "previewToken": shown["previewToken"]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        world.call(Method::POST, SUBSCRIPTION, Some(body)).await
    };
    let trial = json!({"trialDays": 14});
    for (tier, more) in [("enterprise", json!({})), ("standard", trial)] {
        stale(&subscribe(tier, more).await, "another change");
    }
    assert_eq!(world.stripe.subscriptions(&customer).await.len(), 0);
    subscribe("standard", json!({})).await.ok();
    assert_eq!(charged(&world, &customer).await, shown["dueNowAmountMinor"]);
    let entry = "SELECT metadata -> 'wish' -> 'preview' ->> 'dueNowAmount'
                   FROM billing_audit_log
                  WHERE action = 'subscription_created' AND metadata -> 'wish' IS NOT NULL";
    assert_eq!(world.service.db.value(entry).await, "9900");
}
