//! Answers of Stripe's beside the events of the same changes.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::audit::{self, Actor};
use valuecanvas_billing::db::TenantTx;
use valuecanvas_billing::projection::{self, MirrorOutcome, ResponseKind, StripeResponse};

use super::workbench::{CUSTOMER, Workbench};
use crate::support::events::{event, subscription};

const CREATED: &str = "customer.subscription.created";
const UPDATED: &str = "customer.subscription.updated";
const STATE: &str =
    "SELECT status, plan_tier, cancel_at_period_end, ask_again_since IS NOT NULL AS in_doubt
       FROM billing_subscriptions";
const PLAN: &str = "SELECT o.plan_tier, q.plan_tier AS quotas FROM organizations o
       JOIN usage_quotas q ON q.organization_id = o.id AND q.metric = 'api_calls'";

fn of(status: &str, tier: &str) -> Value {
    subscription("sub_1", CUSTOMER, status, tier)
}

/// An event that our own request caused.
fn caused_by(request: u128, mut event: Value) -> Value {
    let key = format!("vcb-{}", Uuid::from_u128(request));
    event["request"] = json!({"id": "req_1", "idempotency_key": key});
    event
}

async fn mirror(bench: &Workbench, request: u128, at: i64, object: &Value) -> MirrorOutcome {
    answer(bench, ResponseKind::Change, request, at, object).await
}

async fn answer(
    bench: &Workbench,
    kind: ResponseKind,
    request: u128,
    at: i64,
    object: &Value,
) -> MirrorOutcome {
    let mut tx = TenantTx::begin(&bench.processor.pool, bench.organization)
        .await
        .unwrap();
    let locked = audit::lock_chains(tx.conn(), &[bench.organization])
        .await
        .unwrap();
    let response = StripeResponse {
        organization_id: bench.organization,
        request: Uuid::from_u128(request),
        kind,
        object,
        at: Timestamp::from_second(at).unwrap(),
        actor: Actor::User(Uuid::nil()),
    };
    let shown = projection::mirror(tx.conn(), &locked, &bench.processor.catalogue, response)
        .await
        .unwrap();
    audit::record(&mut tx, &locked, &shown.entries)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    shown
}

fn state(status: &str, tier: &str, in_doubt: bool) -> Value {
    json!({"status": status, "plan_tier": tier, "cancel_at_period_end": false, "in_doubt": in_doubt})
}

#[tokio::test]
async fn an_answer_sets_plan_and_quotas_at_once() {
    let bench = Workbench::new().await;
    let shown = mirror(&bench, 1, 100, &of("active", "standard")).await;
    assert_eq!(shown.before, None);
    assert_eq!(shown.after["planTier"], "standard");
    bench
        .shows(PLAN, json!({"plan_tier": "standard", "quotas": "standard"}))
        .await;
    bench
        .shows(
            "SELECT action, actor_type, after_state ->> 'planTier' AS plan FROM billing_audit_log
              WHERE action <> 'organization_created'",
            json!({"action": "plan_changed", "actor_type": "user", "plan": "standard"}),
        )
        .await;
    bench.verify_audit().await;
}

#[tokio::test]
async fn the_events_of_its_own_request_change_nothing_more() {
    let bench = Workbench::new().await;
    mirror(&bench, 1, 100, &of("active", "standard")).await;
    let entries = bench.db.count("billing_audit_log").await;
    let created = event(
        "evt_1",
        "customer.subscription.created",
        100,
        of("incomplete", "standard"),
    );
    let updated = event("evt_2", UPDATED, 100, of("active", "standard"));
    for event in [updated, created] {
        bench.process(&[caused_by(1, event)]).await;
        bench.shows(STATE, state("active", "standard", false)).await;
    }
    assert_eq!(bench.db.count("billing_audit_log").await, entries);
    assert_eq!(bench.db.count("billing_applied_events").await, 2);
}

#[tokio::test]
async fn an_older_event_that_comes_late_does_not_undo_it() {
    let bench = Workbench::new().await;
    let created = event(
        "evt_1",
        "customer.subscription.created",
        10,
        of("active", "standard"),
    );
    mirror(&bench, 1, 1_000, &of("active", "enterprise")).await;
    bench.process(&[created]).await;
    bench
        .shows(STATE, state("active", "enterprise", false))
        .await;
    bench
        .shows(
            PLAN,
            json!({"plan_tier": "enterprise", "quotas": "enterprise"}),
        )
        .await;
}

#[tokio::test]
async fn a_later_event_replaces_it() {
    let bench = Workbench::new().await;
    mirror(&bench, 1, 100, &of("active", "standard")).await;
    bench
        .process(&[event("evt_1", UPDATED, 101, of("active", "enterprise"))])
        .await;
    bench
        .shows(STATE, state("active", "enterprise", false))
        .await;
}

#[tokio::test]
async fn a_later_answer_of_the_same_second_replaces_it() {
    let bench = Workbench::new().await;
    mirror(&bench, 9, 100, &of("active", "standard")).await;
    let shown = mirror(&bench, 10, 100, &of("active", "enterprise")).await;
    assert_eq!(shown.before.unwrap()["planTier"], "standard");
    bench
        .shows(STATE, state("active", "enterprise", false))
        .await;
}

/// A question that was answered before a change of the same second is mirrored after it, or
/// the other way round.
#[tokio::test]
async fn answers_of_one_second_that_differ_make_us_ask_stripe_again() {
    let (change, question) = (ResponseKind::Change, ResponseKind::Question);
    for (asked, changed, expected) in [(9, 10, "enterprise"), (11, 10, "standard")] {
        for kind in [question, change] {
            let bench = Workbench::new().await;
            mirror(&bench, changed, 100, &of("active", "enterprise")).await;
            let shown = answer(&bench, kind, asked, 100, &of("active", "standard")).await;
            assert_eq!(shown.after["planTier"], expected);
            let in_doubt = asked < changed || kind == question;
            bench
                .shows(STATE, state("active", expected, in_doubt))
                .await;
        }
    }
    // The same state leaves no doubt.
    for asked in [9, 11] {
        let bench = Workbench::new().await;
        mirror(&bench, 10, 100, &of("active", "standard")).await;
        answer(&bench, question, asked, 100, &of("active", "standard")).await;
        bench.shows(STATE, state("active", "standard", false)).await;
    }
}

#[tokio::test]
async fn an_answer_older_than_what_is_known_changes_nothing() {
    let bench = Workbench::new().await;
    bench
        .process(&[event("evt_1", UPDATED, 101, of("active", "enterprise"))])
        .await;
    let shown = mirror(&bench, 1, 100, &of("active", "standard")).await;
    assert_eq!(shown.after["planTier"], "enterprise");
    bench
        .shows(STATE, state("active", "enterprise", false))
        .await;
}

#[tokio::test]
async fn somebody_elses_change_of_the_same_second_makes_us_ask_stripe_again() {
    let bench = Workbench::new().await;
    mirror(&bench, 1, 100, &of("active", "standard")).await;
    bench
        .process(&[event("evt_1", UPDATED, 100, of("active", "enterprise"))])
        .await;
    bench.shows(STATE, state("active", "standard", true)).await;
}

#[tokio::test]
async fn a_late_event_of_an_earlier_change_of_ours_leaves_no_doubt() {
    let bench = Workbench::new().await;
    mirror(&bench, 1, 100, &of("active", "standard")).await;
    mirror(&bench, 2, 100, &of("active", "enterprise")).await;
    let late = event("evt_1", UPDATED, 100, of("active", "standard"));
    bench.process(&[caused_by(1, late)]).await;
    bench
        .shows(STATE, state("active", "enterprise", false))
        .await;
}

#[tokio::test]
async fn the_end_of_a_subscription_is_final_whoever_tells_of_it() {
    let bench = Workbench::new().await;
    mirror(&bench, 1, 100, &of("canceled", "standard")).await;
    bench
        .process(&[event("evt_1", UPDATED, 200, of("active", "standard"))])
        .await;
    bench
        .shows(STATE, state("canceled", "standard", false))
        .await;
    bench
        .shows(PLAN, json!({"plan_tier": "free", "quotas": "free"}))
        .await;
    let shown = mirror(&bench, 2, 300, &of("active", "standard")).await;
    assert_eq!(shown.after["status"], "canceled");
}

#[tokio::test]
async fn an_answer_tells_of_discounts_taxes_and_test_clocks() {
    let bench = Workbench::new().await;
    let mut object = of("active", "standard");
    object["discounts"] = json!(["di_1"]);
    object["automatic_tax"] = json!({"enabled": true});
    object["test_clock"] = json!("clock_1");
    mirror(&bench, 1, 100, &object).await;
    bench
        .shows(
            "SELECT discounted, taxed, stripe_test_clock_id FROM billing_subscriptions",
            json!({"discounted": true, "taxed": true, "stripe_test_clock_id": "clock_1"}),
        )
        .await;
}

/// What changed there and back within one second ended in the one state or the
/// other: only Stripe knows.
#[tokio::test]
async fn events_of_one_second_that_tell_no_order_make_us_ask_stripe() {
    let changed = |id: &str, to: &str, from: &str| {
        let mut event = event(id, UPDATED, 200, of(to, "standard"));
        event["data"]["previous_attributes"] = json!({"status": from});
        event
    };
    let failed = changed("evt_2", "past_due", "active");
    let recovered = changed("evt_3", "active", "past_due");
    let in_doubt = "SELECT ask_again_since IS NOT NULL AS in_doubt FROM billing_subscriptions";
    for order in [[&failed, &recovered], [&recovered, &failed]] {
        for together in [true, false] {
            let bench = Workbench::new().await;
            let created = event("evt_1", CREATED, 100, of("active", "standard"));
            bench.process(&[created]).await;
            let batch: Vec<Value> = order.iter().map(|event| (*event).clone()).collect();
            for part in batch.chunks(if together { 2 } else { 1 }) {
                bench.shows(in_doubt, json!({"in_doubt": false})).await;
                bench.process(part).await;
            }
            bench.shows(in_doubt, json!({"in_doubt": true})).await;
        }
    }
    // A chain tells its end.
    let bench = Workbench::new().await;
    let started = changed("evt_1", "active", "incomplete");
    for event in [&failed, &started] {
        bench.process(std::slice::from_ref(event)).await;
    }
    bench
        .shows(STATE, state("past_due", "standard", false))
        .await;
}
