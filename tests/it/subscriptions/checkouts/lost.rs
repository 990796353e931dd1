//! Pages whose answers are lost, which expire, or which Stripe does not know.

use serde_json::json;
use valuecanvas_billing::tenancy::organizations::{self, EraseError};

use super::super::world::{VISA, text};
use super::{GOOD, PAGE, world};
use crate::support::product::Product;

#[tokio::test]
async fn an_answer_that_was_lost_is_found_and_nothing_is_made_twice() {
    let world = world().await;
    let fault = [
        ("fault", "drop_after_acting"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "3"),
    ];
    world.stripe.fault(&fault).await;
    let lost = world.check_out(json!({})).await;
    assert_eq!(lost.problem(), (503, "stripe_unreachable"), "{lost:?}");
    assert_eq!(
        world
            .service
            .db
            .count("checkout_sessions WHERE state = 'creating'")
            .await,
        1
    );
    world.stripe.clear_faults().await;
    // Sent again, it is the same page.
    let again = world.check_out(json!({})).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(world.stripe.list(PAGE, &[]).await.len(), 1);
}

#[tokio::test]
async fn the_sweeper_finds_a_page_that_nobody_asked_for_again() {
    let world = world().await;
    let fault = [
        ("fault", "drop_after_acting"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "3"),
    ];
    world.stripe.fault(&fault).await;
    world.check_out(json!({})).await;
    world.stripe.clear_faults().await;
    let aged = "UPDATE checkout_sessions
                   SET created_at = created_at - interval '5 minutes',
                       called_at = called_at - interval '5 minutes'";
    world.service.db.execute(aged).await;
    world.settled_in_the_background().await;
    let page = world.stripe.list(PAGE, &[]).await;
    let id = text(&page[0], "id");
    assert_eq!(world.checkout_status(&id).await, "open");
    world.submit(&text(&page[0], "url"), &GOOD).await;
    assert_eq!(world.complete(&id).await.status, 200);
}

#[tokio::test]
async fn a_page_that_stripe_never_made_is_given_up() {
    let world = world().await;
    let fault = [
        ("fault", "drop"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "3"),
    ];
    world.stripe.fault(&fault).await;
    assert_eq!(
        world.check_out(json!({})).await.problem(),
        (503, "stripe_unreachable")
    );
    world.stripe.clear_faults().await;
    let aged = "UPDATE checkout_sessions
                   SET created_at = created_at - interval '5 minutes',
                       called_at = called_at - interval '5 minutes'";
    world.service.db.execute(aged).await;
    world.settled_in_the_background().await;
    assert_eq!(
        world
            .service
            .db
            .count("checkout_sessions WHERE state = 'failed'")
            .await,
        1
    );
    assert_eq!(
        world
            .check_out(json!({"planTier": "enterprise"}))
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn a_page_that_expired_is_closed_without_its_webhook() {
    let world = world().await;
    let begun = world.check_out(json!({})).await.ok();
    let id = text(&begun, "id");
    world.deliver_nothing().await;
    world.stripe.post(&format!("{PAGE}/{id}/expire"), &[]).await;
    assert_eq!(world.checkout_status(&id).await, "open");
    let past = "UPDATE checkout_sessions SET expires_at = now() - interval '5 minutes'";
    world.service.db.execute(past).await;
    world.checkout_becomes(&id, "expired").await;
    assert_eq!(
        world.complete(&id).await.problem(),
        (410, "checkout_expired")
    );
    assert_eq!(world.check_out(json!({})).await.status, 201);
}

#[tokio::test]
async fn a_page_that_may_be_in_use_is_not_given_up() {
    let world = world().await;
    world.customer(VISA).await;
    let fault = [
        ("fault", "rate_limit"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "1000"),
    ];
    world.stripe.fault(&fault).await;
    let refused = world.check_out(json!({})).await;
    assert!(refused.status >= 429, "{refused:?}");
    // Another request with its key may have been answered: nothing is made beside it.
    let beside = world.create("standard").await;
    assert!(beside.status >= 429, "{beside:?}");
    assert_eq!(world.all_subscriptions().await.len(), 0);
    let db = &world.service.db;
    for (state, count) in [("creating", 1), ("failed", 0)] {
        let rows = format!("checkout_sessions WHERE state = '{state}'");
        assert_eq!(db.count(&rows).await, count, "{state}");
    }
    world.stripe.clear_faults().await;
    let page = world.check_out(json!({})).await;
    assert_eq!(page.status, 200, "{page:?}");
    // Nor is one that has been noted.
    let other = world.check_out(json!({"planTier": "enterprise"})).await;
    assert_eq!(other.status, 201, "{other:?}");
    assert_eq!(
        world.stripe.list(PAGE, &[("status", "open")]).await.len(),
        1
    );
}

#[tokio::test]
async fn a_page_of_a_checkout_that_was_closed_meanwhile_is_expired() {
    let world = world().await;
    let slow = [
        ("fault", "drop_after_acting"),
        ("method", "POST"),
        ("path", PAGE),
        ("next", "3"),
    ];
    world.stripe.fault(&slow).await;
    world.check_out(json!({})).await;
    world.stripe.clear_faults().await;
    // Closed between the call and its answer, as far as the database can tell.
    let closing = "CREATE FUNCTION close_it() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN NEW.state := 'failed'; RETURN NEW; END $$;
                   CREATE TRIGGER close_it BEFORE UPDATE ON checkout_sessions FOR EACH ROW
                     WHEN (NEW.called_at IS DISTINCT FROM OLD.called_at)
                     EXECUTE FUNCTION close_it()";
    world.service.db.execute(closing).await;
    let late = world.check_out(json!({})).await;
    assert_eq!(late.problem(), (409, "change_in_progress"), "{late:?}");
    assert_eq!(world.stripe.list(PAGE, &[]).await.len(), 1);
    let open = world.stripe.list(PAGE, &[("status", "open")]).await;
    assert_eq!(open.len(), 0);
}

#[tokio::test]
async fn a_session_that_stripe_does_not_know_blocks_nobody() {
    let world = world().await;
    for (gone, further) in [("cs_gone_1", "standard"), ("cs_gone_2", "enterprise")] {
        world.check_out(json!({})).await.ok();
        let lost = format!(
            "UPDATE checkout_sessions SET stripe_checkout_session_id = '{gone}'
              WHERE state = 'open'"
        );
        world.service.db.execute(&lost).await;
        let next = world.check_out(json!({"planTier": further})).await;
        assert_eq!(next.status, 201, "{next:?}");
        assert_eq!(
            world.complete(gone).await.problem(),
            (410, "checkout_expired")
        );
    }
}

#[tokio::test]
async fn an_open_page_keeps_its_organization() {
    let world = world().await;
    let begun = world.check_out(json!({})).await.ok();
    let product = Product::of(&world.service).await;
    let named = world.organization.to_string();
    let refused = product.archive(&world.service, &named).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(refused.body["code"], "subscription_running");
    let erased = organizations::erase(&world.service.db.service_pool(), world.organization).await;
    assert!(
        matches!(erased, Err(EraseError::CheckoutOpen)),
        "{erased:?}"
    );
    let id = text(&begun, "id");
    world.stripe.post(&format!("{PAGE}/{id}/expire"), &[]).await;
    assert_eq!(world.complete(&id).await.problem().0, 410);
    let archived = product.archive(&world.service, &named).await;
    assert_eq!(archived.status, 204, "{archived:?}");
}
