//! Stripe that fails at any call of a change by schedule, and a service that dies.

use serde_json::Value;

use super::super::world::{DAY, START, VISA, World};
use super::RENEWAL;

const FAULTS: [&str; 6] = [
    "lock_timeout",
    "server_error",
    "server_error_after_acting",
    "drop",
    "drop_after_acting",
    "timeout",
];
/// The calls of a change at the period's end that change something.
const CALLS: [&str; 2] = ["/v1/subscription_schedules", "/v1/subscription_schedules/*"];

async fn age_open_requests(world: &World) {
    let older = "UPDATE billing_stripe_requests SET created_at = created_at - interval '1 hour',
                        called_at = called_at - interval '1 hour',
                        next_recovery_at = NULL WHERE state = 'open'";
    world.service.db.execute(older).await;
    world.settled_in_the_background().await;
}

#[tokio::test]
async fn one_failure_at_any_call_is_not_seen() {
    for fault in FAULTS {
        for path in CALLS {
            let world = World::start().await;
            let customer = world.customer(VISA).await;
            world.create("enterprise").await.ok();
            let fields = [("fault", fault), ("method", "POST"), ("path", path)];
            world.stripe.fault(&fields).await;
            let changed = world.change_when("standard", "period_end").await.ok();
            assert_eq!(
                changed["pendingChange"]["planTier"], "standard",
                "{fault} {path}"
            );
            world
                .stripe
                .fault(&[("fault", fault), ("method", "POST")])
                .await;
            let kept = world.call_off().await.ok();
            assert_eq!(kept["pendingChange"], Value::Null, "{fault} {path}");
            world.stripe.clear_faults().await;
            world.settle().await;
            world.settled_in_the_background().await;
            assert_eq!(world.running(&customer).await["schedule"], Value::Null);
            let audit = world.audit().await;
            for action in ["change_scheduled", "change_called_off"] {
                let entry = format!("subscription_{action} user");
                let entries = audit.iter().filter(|one| **one == entry).count();
                assert_eq!(entries, 1, "{fault} {path}: {audit:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_left_open_at_any_call_is_finished_or_undone() {
    // At which call the answers stop, and whether Stripe acts on it.
    for (path, fault, made) in [
        (CALLS[0], "drop", false),
        (CALLS[0], "drop_after_acting", false),
        (CALLS[1], "drop", false),
        (CALLS[1], "drop_after_acting", true),
    ] {
        for resent in [true, false] {
            let world = World::start().await;
            let customer = world.customer(VISA).await;
            world.create("enterprise").await.ok();
            world.settle().await;
            let fields = [("fault", fault), ("every", "1"), ("path", path)];
            world.stripe.fault(&fields).await;
            let answer = world.change_when("standard", "period_end").await;
            assert_eq!(
                answer.problem(),
                (503, "stripe_unreachable"),
                "{path} {fault}"
            );
            world.stripe.clear_faults().await;
            let pending = if resent {
                let changed = world.change_when("standard", "period_end").await.ok();
                changed["pendingChange"].clone()
            } else {
                age_open_requests(&world).await;
                world.current().await["pendingChange"].clone()
            };
            let expected = made || resent;
            assert_eq!(pending.is_object(), expected, "{path} {fault} {resent}");
            let schedule = world.running(&customer).await["schedule"].clone();
            assert_eq!(schedule.is_string(), expected, "{path} {fault} {resent}");
            world.settle().await;
            assert_eq!(world.current().await["pendingChange"], pending);
            let audit = world.audit().await;
            let scheduled = |entry: &&String| *entry == "subscription_change_scheduled user";
            let entries = audit.iter().filter(scheduled).count();
            assert_eq!(entries, usize::from(expected), "{path} {fault} {resent}");
            // Nothing is in the way of what comes next.
            world.cancel(false).await.ok();
        }
    }
}

#[tokio::test]
async fn an_immediate_change_whose_schedule_could_not_be_released_is_finished() {
    for (fault, resent) in [
        ("drop", true),
        ("drop", false),
        ("drop_after_acting", true),
        ("drop_after_acting", false),
    ] {
        let world = World::start().await;
        let customer = world.customer(VISA).await;
        world.create("standard").await.ok();
        world.change_when("enterprise", "period_end").await.ok();
        world.settle().await;
        let path = ("path", "/v1/subscription_schedules/*/release");
        world
            .stripe
            .fault(&[("fault", fault), ("every", "1"), path])
            .await;
        let answer = world.change_when("enterprise", "now").await;
        assert_eq!(answer.problem(), (503, "stripe_unreachable"), "{fault}");
        world.stripe.clear_faults().await;
        if resent {
            world.change_when("enterprise", "now").await.ok();
        } else {
            age_open_requests(&world).await;
        }
        let current = world.current().await;
        assert_eq!(current["planTier"], "enterprise", "{fault} {resent}");
        assert_eq!(current["pendingChange"], Value::Null, "{fault} {resent}");
        assert_eq!(world.running(&customer).await["schedule"], Value::Null);
        assert_eq!(world.stripe.invoices(&customer).await.len(), 2);
        let audit = world.audit().await;
        let changed = audit
            .iter()
            .filter(|one| *one == "subscription_changed user");
        assert_eq!(changed.count(), 1, "{fault} {resent}: {audit:?}");
    }
}

#[tokio::test]
async fn a_phase_that_stripe_refuses_leaves_no_schedule_behind() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("enterprise").await.ok();
    world.settle().await;
    for price in world.stripe.list("/v1/prices", &[]).await {
        if price["lookup_key"] == "valuecanvas_standard_monthly" {
            let path = format!("/v1/prices/{}", price["id"].as_str().unwrap());
            // The service goes on knowing it, for a minute.
            world.preview_when("standard", "period_end").await.ok();
            world.stripe.post(&path, &[("active", "false")]).await;
        }
    }
    let answer = world.change_when("standard", "period_end").await;
    assert_eq!(answer.problem(), (502, "stripe_refused"), "{answer:?}");
    assert_eq!(world.running(&customer).await["schedule"], Value::Null);
    assert_eq!(world.current().await["pendingChange"], Value::Null);
    world.cancel(false).await.ok();
}

#[tokio::test]
async fn what_stripe_has_done_is_told_though_it_does_not_show_it_at_once() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("enterprise").await.ok();
    world.settle().await;
    let fault = async |every: &str, next: &str| {
        let fields = [
            ("fault", "rate_limit"),
            ("method", "GET"),
            ("path", "/v1/subscriptions/*"),
            ("every", every),
            ("next", next),
            ("retry_after", "0"),
        ];
        world.stripe.fault(&fields).await;
    };
    // The first call reads what there is; the three after the schedule is told fail.
    fault("2", "2").await;
    fault("2", "1").await;
    let changed = world.change_when("standard", "period_end").await.ok();
    assert_eq!(changed["pendingChange"]["planTier"], "standard");
    fault("1", "3").await;
    let kept = world.call_off().await.ok();
    assert_eq!(kept["pendingChange"], Value::Null);
    let faults = world.stripe.get("/_sandbox/faults", &[]).await;
    let faults = faults["data"].as_array().unwrap();
    assert!(faults.iter().all(|fault| fault["left"] == 0), "{faults:#?}");
    let audit = world.audit().await;
    for action in ["change_scheduled", "change_called_off"] {
        let entry = format!("subscription_{action} user");
        assert!(audit.contains(&entry), "{audit:?}");
    }
}

#[tokio::test]
async fn what_has_been_made_is_not_called_off() {
    // The phase has begun, or has ended and left the subscription to itself.
    for days in [0, 3] {
        let (world, clock, _) = World::on_clock(START).await;
        world.create("enterprise").await.ok();
        world.change_when("standard", "period_end").await.ok();
        world.settle().await;
        world.deliver_nothing().await;
        let later = RENEWAL + 7_200 + days * DAY;
        world.stripe.advance(&clock, later).await;
        assert_eq!(world.current().await["planTier"], "enterprise");
        let answer = world.call_off().await;
        assert_eq!(answer.problem(), (404, "no_pending_change"), "{answer:?}");
        let current = world.current().await;
        assert_eq!(current["planTier"], "standard", "{days}");
        assert_eq!(current["pendingChange"], Value::Null, "{days}");
        let audit = world.audit().await;
        let called_off = audit.iter().any(|one| one.contains("called_off"));
        assert!(!called_off, "{audit:?}");
    }
}
