//! What Stripe does not have any more: deleted customers, lost subscriptions.

use reqwest::Method;
use serde_json::json;

use super::reconcile::{kinds, reconcile};
use super::world::{VISA, World, text};

/// Deletes the organization's customer in Stripe, which ends its subscription.
async fn delete(world: &World, customer: &str) {
    let path = format!("/v1/customers/{customer}");
    world.stripe.send(Method::DELETE, &path, &[]).await;
}

/// The customers that Stripe has of the organization, deleted ones left out.
async fn customers(world: &World) -> Vec<String> {
    let all = world.stripe.list("/v1/customers", &[]).await;
    let organization = world.organization.to_string();
    let ours = all
        .iter()
        .filter(|one| one["metadata"]["organization_id"] == json!(organization));
    ours.map(|one| text(one, "id")).collect()
}

/// The only customer that the organization has left gets a card.
async fn give_card(world: &World) {
    let ours = customers(world).await;
    assert_eq!(ours.len(), 1, "made once");
    world.stripe.use_card(&ours[0], VISA).await;
}

#[tokio::test]
async fn a_customer_that_was_deleted_is_made_anew_once() {
    for delivered in [true, false] {
        let world = World::start().await;
        let customer = world.customer(VISA).await;
        world.create("standard").await.ok();
        world.settle().await;
        if !delivered {
            world.deliver_nothing().await;
        }
        delete(&world, &customer).await;
        world.settle().await;
        // Without a card the new customer cannot be charged; it is made all the same.
        let preview = world.preview("enterprise").await.ok();
        assert_eq!(preview["currentPlan"], "free");
        for _ in 0..3 {
            let answer = if delivered {
                world.create("standard").await
            } else {
                world.change("standard").await
            };
            assert_eq!(answer.problem(), (402, "payment_method_required"));
        }
        give_card(&world).await;
        assert_eq!(world.create("standard").await.ok()["status"], "active");
        assert_eq!(world.plan().await.0, "standard");
        world.preview("enterprise").await.ok();
        world.change("enterprise").await.ok();
        let gone = format!(
            "billing_customers WHERE stripe_customer_id = '{customer}' AND deleted_at IS NOT NULL"
        );
        assert_eq!(world.service.db.count(&gone).await, 1);
    }
}

#[tokio::test]
async fn a_deleted_customer_is_named_and_forgotten_by_reconcile() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.deliver_nothing().await;
    delete(&world, &customer).await;
    let ran = reconcile(&world, &[]).await;
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    assert!(
        kinds(&ran).contains(&("customer_deleted".into(), false)),
        "{}",
        ran.stdout
    );
    let ran = reconcile(&world, &["--apply"]).await;
    assert!(
        kinds(&ran).contains(&("customer_deleted".into(), true)),
        "{}",
        ran.stdout
    );
    let ran = reconcile(&world, &[]).await;
    assert_eq!((ran.status, kinds(&ran)), (0, vec![]), "{}", ran.stdout);
    assert!(
        world
            .audit()
            .await
            .contains(&"customer_deleted system".to_owned())
    );
}

#[tokio::test]
async fn a_customer_that_stripe_never_had_is_for_an_operator() {
    let world = World::start().await;
    world.adopt("cus_sample0001").await;
    for answer in [
        world.create("standard").await,
        world.change("standard").await,
        world.preview("standard").await,
    ] {
        assert_eq!(answer.problem(), (409, "customer_missing"));
        let detail = text(&answer.body, "detail");
        assert!(detail.contains("organizations link-customer"), "{detail}");
    }
    assert_eq!(customers(&world).await, Vec::<String>::new());
    let ran = reconcile(&world, &[]).await;
    assert_eq!(
        (ran.status, kinds(&ran)),
        (1, vec![("customer_missing".into(), false)])
    );
}

#[tokio::test]
async fn an_account_that_is_a_customer_gets_no_new_subscription() {
    let world = World::start().await;
    world.adopt("acct_1connected").await;
    assert_eq!(
        world.create("standard").await.problem(),
        (402, "payment_method_required"),
        "of a customer of its own"
    );
    assert_eq!(customers(&world).await.len(), 1);
}

/// A subscription that runs here, and that Stripe does not have.
async fn lost(world: &World) {
    for table in ["billing_subscriptions", "billing_subscription_items"] {
        let lost = format!("UPDATE {table} SET stripe_subscription_id = 'sub_gone'");
        world.service.db.execute(&lost).await;
    }
}

#[tokio::test]
async fn a_subscription_that_stripe_does_not_have_can_be_ended_and_nothing_else() {
    for immediately in [true, false] {
        let world = World::start().await;
        let customer = world.customer(VISA).await;
        world.create("standard").await.ok();
        world.settle().await;
        world.deliver_nothing().await;
        let id = text(&world.current().await, "stripeSubscriptionId");
        let path = format!("/v1/subscriptions/{id}");
        world.stripe.send(Method::DELETE, &path, &[]).await;
        lost(&world).await;
        for answer in [
            world.change("enterprise").await,
            world.preview("enterprise").await,
        ] {
            assert_eq!(answer.problem(), (409, "subscription_missing"));
        }
        let ended = world.cancel(immediately).await.ok();
        assert_eq!(
            (&ended["planTier"], &ended["status"]),
            (&json!("free"), &json!(null))
        );
        assert_eq!(world.plan().await, ("free".into(), "free".into()));
        let open = "billing_stripe_requests WHERE state = 'open'";
        assert_eq!(world.service.db.count(open).await, 0);
        let audit = world.audit().await;
        assert!(
            audit.contains(&"subscription_missing_in_stripe user".to_owned()),
            "{audit:?}"
        );
        assert_eq!(world.stripe.subscriptions(&customer).await.len(), 1);
        world.create("enterprise").await.ok();
        assert_eq!(world.plan().await.0, "enterprise");
    }
}

#[tokio::test]
async fn reconcile_ends_what_stripe_does_not_have_when_it_is_told_to() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    lost(&world).await;
    let ran = reconcile(&world, &["--apply"]).await;
    let missing = |healed| ("missing_in_stripe".to_owned(), healed);
    assert!(kinds(&ran).contains(&missing(false)));
    let ran = reconcile(&world, &["--apply", "--end-missing"]).await;
    assert!(kinds(&ran).contains(&missing(true)));
    let ran = reconcile(&world, &[]).await;
    assert_eq!((ran.status, kinds(&ran)), (0, vec![]), "{}", ran.stdout);
    // The other one runs.
    assert_eq!(world.plan().await.0, "standard");
}
