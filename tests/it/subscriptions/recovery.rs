//! Recovery of what was left open: one that cannot be settled holds up no other.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::Executor as _;
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Role;

use super::reconcile::{kinds, reconcile};
use super::world::{SUBSCRIPTION, VISA, World, text};

/// A request that was left open ten minutes ago.
async fn left_open(
    world: &World,
    organization: Uuid,
    target: &str,
    params: &str,
    context: &str,
) -> Uuid {
    let id = Uuid::now_v7();
    world
        .service
        .db
        .execute(&format!(
            "INSERT INTO billing_stripe_requests
               (organization_id, id, subject, operation, target_id, params, context, created_at)
             VALUES ('{organization}', '{id}', 'subscription', 'update', '{target}', '{params}',
                     '{context}', now() - interval '10 minutes')"
        ))
        .await;
    id
}

fn context() -> String {
    json!({
        "id": Uuid::now_v7(),
        "kind": "switch",
        "wish": {"wish": "change", "planTier": "enterprise"},
        "requestKey": null,
        "actor": {"type": "system", "id": null, "ip": null, "userAgent": null},
        "before": {},
    })
    .to_string()
}

async fn state(world: &World, id: Uuid) -> String {
    let row = format!(
        "SELECT state || ' ' || recovery_attempts || ' ' || (abandoned_at IS NOT NULL)
           FROM billing_stripe_requests WHERE id = '{id}'"
    );
    world.service.db.value(&row).await
}

async fn becomes(world: &World, id: Uuid, wanted: &str) {
    for _ in 0..1_000 {
        if state(world, id).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} instead of {wanted}", state(world, id).await);
}

async fn due_now(world: &World) {
    world
        .service
        .db
        .execute("UPDATE billing_stripe_requests SET next_recovery_at = NULL")
        .await;
}

#[tokio::test]
async fn a_request_that_cannot_be_settled_holds_up_no_other_and_ends_before_an_operator() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let running = text(&world.current().await, "stripeSubscriptionId");
    let db = &world.service.db;
    // The oldest ones make no sense, whichever way.
    let poisoned = world.service.organization("Poisoned").await;
    let no_change = left_open(&world, poisoned, "sub_x", "{}", "{\"kind\": 7}").await;
    let other = world.service.organization("No parameters").await;
    let no_parameters = left_open(&world, other, "sub_x", "[1]", &context()).await;
    let gone = world.service.organization("Gone").await;
    let unknown = left_open(&world, gone, "sub_gone", "{}", &context()).await;
    let healthy = left_open(&world, world.organization, &running, "{}", &context()).await;

    // The first round settles what can be settled; nothing waits for the poison.
    becomes(&world, healthy, "failed 0 false").await;
    becomes(&world, unknown, "failed 0 false").await;
    becomes(&world, no_change, "open 1 false").await;
    becomes(&world, no_parameters, "open 1 false").await;
    // In the next round it is the same.
    let again = left_open(&world, world.organization, &running, "{}", &context()).await;
    due_now(&world).await;
    becomes(&world, no_change, "open 2 false").await;
    becomes(&world, again, "failed 0 false").await;

    // It ends, and an operator sees it.
    db.execute("UPDATE billing_stripe_requests SET recovery_attempts = 8, next_recovery_at = NULL WHERE state = 'open'")
        .await;
    becomes(&world, no_change, "failed 9 true").await;
    becomes(&world, no_parameters, "failed 9 true").await;
    let metrics = world.service.get("/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "billing_stripe_recovery_failures_total{result=\"abandoned\"}",
        "billing_stripe_requests_abandoned",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    let ran = reconcile(&world, &[]).await;
    assert_eq!(
        (ran.status, kinds(&ran)),
        (1, vec![("abandoned_request".into(), false); 2])
    );
    // Its organization is not locked out.
    let token = world.service.token(poisoned, Role::Owner).await;
    let answer = world
        .service
        .client
        .delete(format!("{}{SUBSCRIPTION}", world.service.base))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    assert_eq!(
        answer.status(),
        404,
        "no subscription, rather than a change in progress"
    );
}

#[tokio::test]
async fn a_subscription_in_doubt_that_cannot_be_read_holds_up_no_other() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let db = &world.service.db;
    let poisoned = world.service.organization("Poisoned").await;
    db.execute(&format!(
        "INSERT INTO billing_subscriptions (organization_id, stripe_subscription_id,
           stripe_customer_id, status, stripe_status, livemode, last_event_at, last_event_rank,
           last_event_id, tied_event_ids, ask_again_since)
         VALUES ('{poisoned}', 'sub_gone', 'cus_gone', 'active', 'active', false, now(), 0, 'evt',
                 ARRAY['evt'], now() - interval '1 hour')"
    ))
    .await;
    db.execute(&format!(
        "UPDATE billing_subscriptions SET ask_again_since = now() WHERE organization_id = '{}'",
        world.organization
    ))
    .await;
    for _ in 0..1_000 {
        let left = "SELECT string_agg(stripe_subscription_id || ' ' || recovery_attempts, ',')
                      FROM billing_subscriptions WHERE ask_again_since IS NOT NULL";
        if db.value(left).await == "sub_gone 1" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the healthy one was not asked about");
}

#[tokio::test]
async fn an_organization_that_is_held_delays_nobody() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let running = text(&world.current().await, "stripeSubscriptionId");
    let db = &world.service.db;
    // They are due as soon as they are held.
    let mut held = Vec::new();
    for n in 0..5 {
        let organization = world.service.organization(&format!("Held {n}")).await;
        let id = Uuid::now_v7();
        let context = context();
        db.execute(&format!(
            "INSERT INTO billing_stripe_requests
               (organization_id, id, subject, operation, target_id, params, context, created_at,
                next_recovery_at)
             VALUES ('{organization}', '{id}', 'subscription', 'update', 'sub_gone', '{{}}',
                     '{context}', now() - interval '10 minutes', now() + interval '2 seconds')"
        ))
        .await;
        held.push(id);
    }
    let mut holding = db.pool.begin().await.unwrap();
    holding
        .execute("SELECT FROM billing_stripe_requests WHERE target_id = 'sub_gone' FOR UPDATE")
        .await
        .unwrap();
    let due = "billing_stripe_requests WHERE target_id = 'sub_gone' AND next_recovery_at < now()";
    while db.count(due).await < 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let healthy = left_open(&world, world.organization, &running, "{}", &context()).await;
    becomes(&world, healthy, "failed 0 false").await;
    for id in &held {
        assert!(state(&world, *id).await.starts_with("open "));
    }
    holding.rollback().await.unwrap();
    due_now(&world).await;
    for id in held {
        ends(&world, id).await;
    }
}

/// Waits until the request is not open any more.
async fn ends(world: &World, id: Uuid) {
    for _ in 0..1_000 {
        if !state(world, id).await.starts_with("open ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} is still open", state(world, id).await);
}

#[tokio::test]
async fn an_idempotency_key_names_its_change_for_a_day_and_no_other() {
    let world = World::start().await;
    world.customer(VISA).await;
    let db = &world.service.db;
    let key = Some("org-1-upgrade");
    let wish = |tier: &str| Some(json!({"planTier": tier}));
    world.create("standard").await.ok();
    let up = world.call_with(Method::PUT, SUBSCRIPTION, wish("enterprise"), key);
    assert_eq!(up.await.ok()["planTier"], "enterprise");
    // What the layer in front remembered is forgotten; the ledger remembers.
    db.execute("DELETE FROM request_idempotency").await;
    let other = world.call_with(Method::PUT, SUBSCRIPTION, wish("standard"), key);
    assert_eq!(other.await.problem(), (422, "idempotency_key_reused"));
    db.execute("DELETE FROM request_idempotency").await;
    let same = world.call_with(Method::PUT, SUBSCRIPTION, wish("enterprise"), key);
    assert_eq!(same.await.ok()["planTier"], "enterprise");

    // A month later it is a new change.
    world.change("standard").await.ok();
    db.execute("DELETE FROM request_idempotency").await;
    db.execute("UPDATE billing_stripe_requests SET created_at = now() - interval '25 hours', called_at = now() - interval '25 hours'")
        .await;
    let again = world.call_with(Method::PUT, SUBSCRIPTION, wish("enterprise"), key);
    assert_eq!(again.await.ok()["planTier"], "enterprise");
    assert_eq!(world.plan().await.0, "enterprise");
}
