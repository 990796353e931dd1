//! Stripe that fails, and a service that dies in between.

use serde_json::json;

use super::world::{VISA, World, text};

/// What may go wrong with one request, and whether Stripe may have acted.
const FAULTS: [&str; 7] = [
    "rate_limit",
    "lock_timeout",
    "server_error",
    "server_error_after_acting",
    "drop",
    "drop_after_acting",
    "timeout",
];

#[tokio::test]
async fn one_failure_of_stripe_is_not_seen() {
    for fault in FAULTS {
        let world = World::start().await;
        let fields = [("fault", fault), ("method", "POST"), ("retry_after", "0")];
        let fields = if fault == "rate_limit" {
            &fields[..]
        } else {
            &fields[..2]
        };
        let customer = world.customer(VISA).await;
        world.stripe.fault(fields).await;
        let created = world.create("standard").await.ok();
        assert_eq!(created["planTier"], "standard", "{fault}");
        world.stripe.fault(fields).await;
        let changed = world.change("enterprise").await.ok();
        assert_eq!(changed["planTier"], "enterprise", "{fault}");
        world.stripe.fault(fields).await;
        assert_eq!(
            world.cancel(false).await.ok()["cancelAtPeriodEnd"],
            json!(true)
        );
        world.stripe.clear_faults().await;
        world.settle().await;
        assert_eq!(
            world.stripe.subscriptions(&customer).await.len(),
            1,
            "{fault}"
        );
        assert_eq!(world.stripe.invoices(&customer).await.len(), 2, "{fault}");
        let by_user = world.audit().await;
        let by_user = by_user
            .iter()
            .filter(|entry| entry.starts_with("subscription_") && entry.ends_with(" user"));
        assert_eq!(
            by_user.collect::<Vec<_>>(),
            [
                "subscription_created user",
                "subscription_changed user",
                "subscription_cancel_scheduled user"
            ],
            "{fault}"
        );
    }
}

#[tokio::test]
async fn a_customer_is_made_once_whatever_goes_wrong() {
    for fault in FAULTS {
        let world = World::start().await;
        world
            .stripe
            .fault(&[
                ("fault", fault),
                ("method", "POST"),
                ("path", "/v1/customers"),
            ])
            .await;
        for _ in 0..2 {
            let answer = world.create("standard").await;
            assert_eq!(
                answer.problem(),
                (402, "payment_method_required"),
                "{fault}"
            );
        }
        assert_eq!(
            world.stripe.list("/v1/customers", &[]).await.len(),
            1,
            "{fault}"
        );
        let db = &world.service.db;
        assert_eq!(db.count("billing_customers").await, 1);
        assert_eq!(
            db.count("billing_audit_log WHERE action = 'customer_created'")
                .await,
            1
        );
    }
}

#[tokio::test]
async fn stripe_out_of_reach_changes_nothing() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world
        .stripe
        .fault(&[("fault", "drop"), ("every", "1")])
        .await;
    let answer = world.create("standard").await;
    assert_eq!(answer.problem(), (503, "stripe_unreachable"));
    let answer = world.preview("standard").await;
    assert_eq!(answer.problem(), (503, "stripe_unreachable"));
    world.stripe.clear_faults().await;
    assert!(world.stripe.subscriptions(&customer).await.is_empty());
    assert_eq!(world.plan().await, ("free".into(), "free".into()));
    // The same again finishes it.
    world.create("standard").await.ok();
    assert_eq!(world.stripe.subscriptions(&customer).await.len(), 1);
}

#[tokio::test]
async fn what_stripe_did_unanswered_is_found_by_whoever_comes_next() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world
        .stripe
        .fault(&[
            ("fault", "drop_after_acting"),
            ("every", "1"),
            ("path", "/v1/subscriptions*"),
        ])
        .await;
    let answer = world.create("standard").await;
    assert_eq!(answer.problem(), (503, "stripe_unreachable"));
    world.stripe.clear_faults().await;
    // Somebody wants something else, which is decided on what is.
    assert_eq!(
        world.create("enterprise").await.problem(),
        (409, "subscription_exists")
    );
    assert_eq!(world.current().await["planTier"], "standard");
    assert_eq!(world.stripe.subscriptions(&customer).await.len(), 1);
    assert_eq!(
        world
            .audit()
            .await
            .iter()
            .filter(|e| *e == "subscription_created user")
            .count(),
        1
    );
}

#[tokio::test]
async fn what_was_left_open_is_settled_and_never_made_later() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    // One change that Stripe made, unanswered; and one that it did not.
    for (fault, tier) in [("drop_after_acting", "enterprise"), ("drop", "standard")] {
        world
            .stripe
            .fault(&[
                ("fault", fault),
                ("every", "1"),
                ("path", "/v1/subscriptions*"),
            ])
            .await;
        let answer = world.change(tier).await;
        assert_eq!(answer.problem(), (503, "stripe_unreachable"));
        world.stripe.clear_faults().await;
        let open = "billing_stripe_requests WHERE state = 'open'";
        assert_eq!(world.service.db.count(open).await, 1);
        // Too fresh to be given up: something else has to wait.
        if fault == "drop" {
            assert_eq!(
                world.cancel(true).await.problem(),
                (409, "change_in_progress")
            );
        }
        world
            .service
            .db
            .execute("UPDATE billing_stripe_requests SET created_at = created_at - interval '1 hour', called_at = called_at - interval '1 hour' WHERE state = 'open'")
            .await;
        world.settled_in_the_background().await;
        assert_eq!(world.current().await["planTier"], "enterprise");
        let price = &world.stripe.subscriptions(&customer).await[0]["items"]["data"][0]["price"];
        assert_eq!(price["lookup_key"], "valuecanvas_enterprise_monthly");
    }
    let audit = world.audit().await;
    assert_eq!(
        audit
            .iter()
            .filter(|e| *e == "subscription_changed user")
            .count(),
        1
    );
    world.cancel(true).await.ok();
}

#[tokio::test]
async fn a_doubt_is_settled_by_asking_stripe() {
    let world = World::start().await;
    world.customer(VISA).await;
    let created = world.create("standard").await.ok();
    world.settle().await;
    world.deliver_nothing().await;
    // In the dashboard, within the second of our own change.
    let path = format!(
        "/v1/subscriptions/{}",
        text(&created, "stripeSubscriptionId")
    );
    world.change("enterprise").await.ok();
    world
        .stripe
        .post(&path, &[("cancel_at_period_end", "true")])
        .await;
    world.deliver_again().await;
    let event = &world.stripe.list("/v1/events", &[]).await[0];
    let resend = format!("/_sandbox/events/{}/resend", text(event, "id"));
    world.stripe.post(&resend, &[]).await;
    world.settle().await;
    world.settled_in_the_background().await;
    assert_eq!(world.current().await["cancelAtPeriodEnd"], json!(true));
}
