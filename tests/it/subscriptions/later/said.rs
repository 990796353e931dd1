//! Canceling: with a reason, and beside a pending change.

use reqwest::Method;
use serde_json::{Value, json};

use super::super::world::{SUBSCRIPTION, VISA, World, text};

async fn cancel(world: &World, query: &str, said: Value) -> super::Answer {
    let path = format!("{SUBSCRIPTION}{query}");
    world.call(Method::DELETE, &path, Some(said)).await
}

#[tokio::test]
async fn why_a_customer_cancels_reaches_stripe_and_the_view_and_the_words_no_audit_entry() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let said = json!({"reason": " We close our project. ", "feedback": "too_expensive"});
    let canceled = cancel(&world, "", said).await.ok();
    assert_eq!(canceled["cancellationReason"], "We close our project.");
    assert_eq!(canceled["cancellationFeedback"], "too_expensive");
    let details = &world.running(&customer).await["cancellation_details"];
    assert_eq!(details["comment"], "We close our project.");
    assert_eq!(details["feedback"], "too_expensive");
    world.settle().await;
    assert_eq!(world.current().await, canceled);
    let entry = "SELECT p.reason || ', ' || (after_state ->> 'cancellationFeedback')
                   FROM billing_audit_log l JOIN billing_audit_personal_data p ON p.entry_id = l.id
                  WHERE action = 'subscription_cancel_scheduled'";
    assert_eq!(
        world.service.db.value(entry).await,
        "We close our project., too_expensive"
    );
    // Nothing can be removed from the chain, so it has none of their own words.
    let words = "billing_audit_log l WHERE l::text LIKE '%our project%'";
    assert_eq!(world.service.db.count(words).await, 0);
    // Said later, and nothing else.
    let later = cancel(&world, "", json!({"feedback": "unused"})).await.ok();
    assert_eq!(later["cancellationFeedback"], "unused");
    assert_eq!(later["cancelAt"], canceled["cancelAt"]);
    // Nothing more is said.
    let again = cancel(&world, "", Value::Null).await.ok();
    assert_eq!(again, later);
    // Who stays has said nothing.
    let kept = world.reactivate().await.ok();
    assert_eq!(kept["cancellationReason"], Value::Null);
    assert_eq!(kept["cancellationFeedback"], Value::Null);
    assert_eq!(kept["cancelAtPeriodEnd"], false);

    let said = json!({"reason": "Now.", "feedback": "other"});
    let ended = cancel(&world, "?immediately=true", said).await.ok();
    assert_eq!(ended["planTier"], "free");
    let held = world.stripe.subscriptions(&customer).await;
    let comment = text(&held[0]["cancellation_details"], "comment");
    assert!(comment.starts_with("Now. (billing_change_id "), "{comment}");
    assert_eq!(held[0]["cancellation_details"]["feedback"], "other");
    let mirrored =
        "SELECT cancellation_feedback || ', ' || cancellation_reason FROM billing_subscriptions";
    assert_eq!(
        world.service.db.value(mirrored).await,
        "other, cancellation_requested"
    );
}

#[tokio::test]
async fn a_reason_that_stripe_does_not_have_is_refused_with_those_that_it_has() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    let answer = cancel(&world, "", json!({"feedback": "boring"})).await;
    assert_eq!(answer.problem(), (400, "invalid_request"));
    let detail = text(&answer.body, "detail");
    assert!(
        detail.starts_with("feedback: ") && detail.contains("`too_expensive`"),
        "{detail}"
    );
    let answer = cancel(&world, "", json!({"why": "boring"})).await;
    assert_eq!(answer.problem(), (400, "unknown_field"));
    for reason in ["x".repeat(1_001), "a\0b".to_owned()] {
        let answer = cancel(&world, "", json!({"reason": reason})).await;
        assert_eq!(answer.problem(), (422, "reason_invalid"));
    }
    let untold = cancel(&world, "", json!({"reason": " "})).await.ok();
    assert_eq!(untold["cancellationReason"], Value::Null);
}

#[tokio::test]
async fn who_cancels_has_no_change_pending_and_may_come_back() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("enterprise").await.ok();
    world.change_when("standard", "period_end").await.ok();
    let canceled = world.cancel(false).await.ok();
    assert_eq!(canceled["cancelAtPeriodEnd"], true);
    assert_eq!(canceled["pendingChange"], Value::Null);
    let held = world.running(&customer).await;
    assert_eq!(
        (&held["schedule"], &held["cancel_at_period_end"]),
        (&Value::Null, &json!(true))
    );
    let entry = "SELECT metadata ->> 'released_schedule' IS NOT NULL
                   FROM billing_audit_log WHERE action = 'subscription_cancel_scheduled'";
    assert_eq!(world.service.db.value(entry).await, "true");
    world.settle().await;
    assert_eq!(world.current().await, canceled);
    let kept = world.reactivate().await.ok();
    assert_eq!(kept["planTier"], "enterprise");

    // At once, the schedule ends with the subscription.
    world.change_when("standard", "period_end").await.ok();
    let ended = world.cancel(true).await.ok();
    assert_eq!(
        (&ended["planTier"], &ended["pendingChange"]),
        (&json!("free"), &Value::Null)
    );
    world.settle().await;
    let open = "billing_subscription_schedules WHERE status NOT IN ('released', 'canceled')";
    assert_eq!(world.service.db.count(open).await, 0);
}

#[tokio::test]
async fn an_end_that_a_schedule_has_set_is_taken_back_with_it() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    let created = world.create("standard").await.ok();
    let subscription = text(&created, "stripeSubscriptionId");
    let from = [("from_subscription", subscription.as_str())];
    let schedule = world.stripe.post("/v1/subscription_schedules", &from).await;
    let path = format!("/v1/subscription_schedules/{}", text(&schedule, "id"));
    world
        .stripe
        .post(&path, &[("end_behavior", "cancel")])
        .await;
    world.settle().await;
    // The schedule came within the second of the subscription.
    world.settled_in_the_background().await;
    let current = world.current().await;
    assert_eq!(current["cancelAt"], current["currentPeriodEnd"]);
    assert_eq!(
        world.change("enterprise").await.problem(),
        (409, "already_canceling")
    );
    let kept = world.reactivate().await.ok();
    assert_eq!(kept["cancelAt"], Value::Null);
    assert_eq!(world.running(&customer).await["schedule"], Value::Null);
    world.change("enterprise").await.ok();
}

#[tokio::test]
async fn what_was_said_stays_when_the_subscription_is_then_ended_at_once() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let said = json!({"reason": "We close.", "feedback": "unused"});
    cancel(&world, "", said).await.ok();
    world.settle().await;
    world.settled_in_the_background().await;
    cancel(&world, "?immediately=true", Value::Null).await.ok();
    let held = world.stripe.subscriptions(&customer).await;
    let details = &held[0]["cancellation_details"];
    let comment = text(details, "comment");
    assert!(
        comment.starts_with("We close. (billing_change_id "),
        "{comment}"
    );
    assert_eq!(details["feedback"], "unused");
}
