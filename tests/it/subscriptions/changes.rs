//! The life of a subscription through our API.

use reqwest::Method;
use serde_json::json;

use super::world::{DAY, START, SUBSCRIPTION, VISA, World, seconds, text};

#[tokio::test]
async fn free_to_standard_makes_customer_and_subscription_and_reaches_the_quotas_at_once() {
    let world = World::start().await;
    world.deliver_nothing().await;
    let answer = world.change("standard").await;
    // A new customer has no card.
    assert_eq!(
        answer.problem(),
        (402, "payment_method_required"),
        "{answer:?}"
    );
    let customers = world.stripe.list("/v1/customers", &[]).await;
    assert_eq!(customers.len(), 1);
    assert_eq!(
        customers[0]["metadata"]["organization_id"],
        json!(world.organization)
    );
    world
        .stripe
        .use_card(&text(&customers[0], "id"), VISA)
        .await;

    let changed = world.change("standard").await.ok();
    assert_eq!(changed["planTier"], "standard");
    assert_eq!(changed["status"], "active");
    assert_eq!(world.current().await, changed);
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    let held = world.stripe.subscriptions(&text(&customers[0], "id")).await;
    assert_eq!(held.len(), 1);
    assert_eq!(held[0]["id"], changed["stripeSubscriptionId"]);
    assert_eq!(
        held[0]["metadata"]["organization_id"],
        json!(world.organization)
    );
    assert_eq!(
        world.audit().await,
        [
            "customer_created user",
            "subscription_created user",
            "plan_changed user"
        ]
    );
}

/// How many lines of the audit log tell of what webhooks did to subscriptions.
async fn told_by_webhooks(world: &World) -> i64 {
    world
        .service
        .db
        .count(
            "billing_audit_log WHERE actor_type = 'webhook'
               AND resource_type IN ('subscription', 'organization')",
        )
        .await
}

#[tokio::test]
async fn webhooks_of_a_change_confirm_it_and_double_nothing() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    // Late, and twice.
    world.deliver_nothing().await;
    assert_eq!(world.create("standard").await.status, 201);
    let changed = world.change("enterprise").await.ok();
    world.deliver_again().await;
    for _ in 0..2 {
        for event in world.stripe.list("/v1/events", &[]).await {
            let path = format!("/_sandbox/events/{}/resend", text(&event, "id"));
            world.stripe.post(&path, &[]).await;
        }
        world.settle().await;
    }
    assert_eq!(world.current().await, changed);
    assert_eq!(
        world.plan().await,
        ("enterprise".into(), "enterprise".into())
    );
    assert_eq!(told_by_webhooks(&world).await, 0);
    let db = &world.service.db;
    assert_eq!(db.count("billing_subscriptions").await, 1);
    assert_eq!(db.count("billing_subscription_items").await, 1);
    assert_eq!(db.count("billing_invoices").await, 2);
    assert_eq!(
        db.count("billing_subscriptions WHERE ask_again_since IS NOT NULL")
            .await,
        0
    );
    // An upgrade is charged at once.
    let paid: Vec<_> = world
        .stripe
        .invoices(&customer)
        .await
        .iter()
        .map(|invoice| (invoice["status"].clone(), invoice["amount_paid"].clone()))
        .collect();
    assert_eq!(
        paid,
        [
            (json!("paid"), json!(9_900)),
            (json!("paid"), json!(40_000))
        ]
    );
}

#[tokio::test]
async fn webhooks_that_arrive_before_the_answer_double_nothing() {
    let world = World::start().await;
    world.customer(VISA).await;
    // Acts, and does not answer; the answer comes with the repetition, later
    // than the webhooks.
    let path = ("path", "/v1/subscriptions");
    world
        .stripe
        .fault(&[("fault", "timeout"), ("method", "POST"), path])
        .await;
    let changed = world.change("standard").await.ok();
    world.settle().await;
    assert_eq!(world.current().await, changed);
    let audit = world.audit().await;
    let by_user = audit.iter().filter(|entry| entry.ends_with(" user"));
    assert_eq!(
        by_user.collect::<Vec<_>>(),
        ["subscription_created user"],
        "{audit:?}"
    );
    let plans = audit
        .iter()
        .filter(|entry| entry.starts_with("plan_changed"));
    assert_eq!(plans.count(), 1, "{audit:?}");
    assert_eq!(world.plan().await.0, "standard");
}

#[tokio::test]
async fn a_downgrade_is_credited_with_the_renewal() {
    let (world, clock, customer) = World::on_clock(START).await;
    world.create("enterprise").await.ok();
    world.stripe.advance(&clock, START + 10 * DAY).await;
    world.settle().await;
    let changed = world.change("standard").await.ok();
    assert_eq!(changed["planTier"], "standard");
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    let invoices = world.stripe.invoices(&customer).await;
    assert_eq!(invoices.len(), 1, "nothing is invoiced yet");
    world
        .stripe
        .advance(&clock, seconds(&changed["currentPeriodEnd"]) + 7_200)
        .await;
    world.settle().await;
    let renewal = world.stripe.invoices(&customer).await.pop().unwrap();
    let amounts: Vec<_> = renewal["lines"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["amount"].as_i64().unwrap())
        .collect();
    // 18 of 28 days, from the end of January to that of February.
    assert_eq!(amounts, [-32_079, 6_364, 9_900]);
    let current = world.current().await;
    assert_eq!(current["currentPeriodStart"], changed["currentPeriodEnd"]);
}

#[tokio::test]
async fn a_subscription_ends_with_its_period_unless_it_is_reactivated() {
    let (world, clock, _) = World::on_clock(START).await;
    let created = world.create("standard").await.ok();
    let end = &created["currentPeriodEnd"];
    let ending = world.cancel(false).await.ok();
    assert_eq!(
        [
            &ending["status"],
            &ending["cancelAtPeriodEnd"],
            &ending["cancelAt"]
        ],
        [&json!("active"), &json!(true), end]
    );
    // Asked again, it is as it is.
    assert_eq!(world.cancel(false).await.ok(), ending);
    let kept = world.reactivate().await.ok();
    assert_eq!(
        [&kept["cancelAtPeriodEnd"], &kept["cancelAt"]],
        [&json!(false), &json!(null)]
    );
    assert_eq!(world.reactivate().await.problem(), (409, "not_canceling"));

    world.cancel(false).await.ok();
    assert_eq!(world.plan().await.0, "standard");
    world.stripe.advance(&clock, seconds(end) + 1).await;
    world.settle().await;
    assert_eq!(world.plan().await, ("free".into(), "free".into()));
    assert_eq!(world.current().await["status"], json!(null));
    assert_eq!(
        world.cancel(false).await.problem(),
        (404, "no_subscription")
    );
    let audit = world.audit().await;
    let made = audit
        .iter()
        .filter(|entry| entry.starts_with("subscription_") && entry.ends_with(" user"));
    assert_eq!(
        made.collect::<Vec<_>>(),
        [
            "subscription_created user",
            "subscription_cancel_scheduled user",
            "subscription_reactivated user",
            "subscription_cancel_scheduled user",
        ]
    );
    // And a new one can follow.
    let again = world.change("enterprise").await.ok();
    assert_ne!(
        again["stripeSubscriptionId"],
        created["stripeSubscriptionId"]
    );
    assert_eq!(world.plan().await.0, "enterprise");
}

#[tokio::test]
async fn a_subscription_ends_at_once_where_that_is_asked() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.deliver_nothing().await;
    let gone = world.cancel(true).await.ok();
    assert_eq!(
        [&gone["planTier"], &gone["status"]],
        [&json!("free"), &json!(null)]
    );
    assert_eq!(world.plan().await, ("free".into(), "free".into()));
    assert_eq!(
        world.stripe.subscriptions(&customer).await[0]["status"],
        "canceled"
    );
    assert_eq!(world.cancel(true).await.problem(), (404, "no_subscription"));
}

#[tokio::test]
async fn the_free_plan_is_the_end_with_the_period() {
    let (world, clock, _) = World::on_clock(START).await;
    let created = world.create("standard").await.ok();
    let preview = world.preview("free").await.ok();
    assert_eq!(preview["effectiveDate"], created["currentPeriodEnd"]);
    assert_eq!(
        [
            &preview["proratedAmountMinor"],
            &preview["nextInvoiceAmountMinor"],
            &preview["lines"]
        ],
        [&json!(0), &json!(0), &json!([])]
    );
    let ending = world.change_as(&preview).await.ok();
    assert_eq!(
        [&ending["planTier"], &ending["cancelAtPeriodEnd"]],
        [&json!("standard"), &json!(true)]
    );
    assert_eq!(
        world.change("free").await.problem(),
        (409, "already_canceling")
    );
    // Who chooses another plan after all, keeps the subscription.
    let upgraded = world.change("enterprise").await.ok();
    assert_eq!(
        [&upgraded["planTier"], &upgraded["cancelAtPeriodEnd"]],
        [&json!("enterprise"), &json!(false)]
    );
    world.change("free").await.ok();
    world
        .stripe
        .advance(&clock, seconds(&created["currentPeriodEnd"]) + 1)
        .await;
    world.settle().await;
    assert_eq!(world.plan().await, ("free".into(), "free".into()));
}

#[tokio::test]
async fn a_trial_is_bounded_by_the_plan_and_given_once() {
    let (world, clock, customer) = World::on_clock(START).await;
    let trial = |days: u32| {
        let body = json!({"planTier": "standard", "trialDays": days});
        world.call(Method::POST, SUBSCRIPTION, Some(body))
    };
    assert_eq!(trial(31).await.problem(), (422, "trial_too_long"));
    assert_eq!(trial(70_000).await.problem(), (400, "invalid_request"));
    let created = trial(14).await.ok();
    assert_eq!(created["status"], "trialing");
    assert_eq!(seconds(&created["trialEnd"]), START + 14 * DAY);
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    // A change of plan within the trial is free, and keeps it.
    let preview = world.preview("enterprise").await.ok();
    assert_eq!(
        [
            &preview["proratedAmountMinor"],
            &preview["nextInvoiceAmountMinor"]
        ],
        [&json!(0), &json!(49_900)]
    );
    assert_eq!(preview["nextInvoiceDate"], created["trialEnd"]);
    let changed = world.change_as(&preview).await.ok();
    assert_eq!(changed["trialEnd"], created["trialEnd"]);
    world.stripe.advance(&clock, START + 14 * DAY + 7_200).await;
    world.settle().await;
    assert_eq!(world.current().await["status"], "active");
    let paid = world.stripe.invoices(&customer).await.pop().unwrap();
    assert_eq!(paid["amount_paid"], 49_900);
    world.cancel(true).await.ok();
    assert_eq!(trial(1).await.problem(), (409, "trial_used"));
}

#[tokio::test]
async fn what_happened_in_stripe_meanwhile_is_found_out() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    let created = world.create("standard").await.ok();
    world.settle().await;
    world.deliver_nothing().await;
    let path = format!(
        "/v1/subscriptions/{}",
        text(&created, "stripeSubscriptionId")
    );
    world.stripe.send(Method::DELETE, &path, &[]).await;
    // We still think that it runs. Changing it fails, so Stripe is asked, and
    // what was meant is decided anew.
    let changed = world.change("enterprise").await.ok();
    assert_eq!(changed["planTier"], "enterprise");
    assert_ne!(
        changed["stripeSubscriptionId"],
        created["stripeSubscriptionId"]
    );
    let running = world.stripe.subscriptions(&customer).await;
    assert_eq!(running.len(), 2);
    let audit = world.audit().await;
    assert!(
        audit.contains(&"subscription_reconciled system".to_owned()),
        "{audit:?}"
    );
}
