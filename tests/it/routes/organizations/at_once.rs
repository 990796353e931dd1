//! Many callers, and those who meet a change, at the same moment.

use futures_util::future::join_all;
use serde_json::json;

use super::entered;
use crate::subscriptions::world::{SUBSCRIPTION, World};
use crate::support::TestService;
use crate::support::product::Product;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_make_one() {
    let service = TestService::intake_only().await;
    let other = TestService::beside(&service).await;
    let product = Product::of(&service).await;
    let body = json!({"name": "Acme", "email": "ada@acme.example"});
    let puts = (0..1_000).map(|n| {
        let (product, body) = (&product, &body);
        let replica = if n % 2 == 0 { &service } else { &other };
        async move {
            loop {
                let answer = product.put(replica, "acme", body).await;
                if answer.status != 429 {
                    return (answer.status, answer.body["id"].clone());
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    });
    let answers = join_all(puts).await;
    let made = answers.iter().filter(|(status, _)| *status == 201).count();
    let found = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!((made, found), (1, 999));
    let id = &answers[0].1;
    assert!(answers.iter().all(|(_, other)| other == id));
    assert_eq!(service.db.count("organizations").await, 1);
    assert_eq!(
        entered(&service.db, id.as_str().unwrap()).await,
        "organization_created"
    );
    let heads = "billing_audit_chain_heads WHERE last_sequence > 0";
    assert_eq!(service.db.count(heads).await, 1, "losers leave nothing");
}

/// Customers that sign up in the same moment wait for one another a little, and none is
/// turned away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sign_up_at_once() {
    let service = TestService::intake_only().await;
    let product = Product::of(&service).await;
    let puts = (0..100).map(|n| {
        let (product, service) = (&product, &service);
        async move {
            let body = json!({"name": format!("Customer {n}")});
            product
                .put(service, &format!("customer-{n}"), &body)
                .await
                .status
        }
    });
    let answers = join_all(puts).await;
    assert!(answers.iter().all(|status| *status == 201), "{answers:?}");
    assert_eq!(service.db.count("organizations").await, 100);
    let quotas = "(SELECT DISTINCT organization_id FROM usage_quotas) q";
    assert_eq!(service.db.count(quotas).await, 100);
}

/// A subscription that begins in the moment of an archiving: one of them waits for the
/// other, and whichever is second is refused.
#[tokio::test]
async fn what_is_archived_meanwhile_asks_stripe_for_nothing() {
    let world = World::start().await;
    let service = &world.service;
    let product = Product::of(service).await;
    let body = json!({"name": "Acme", "stripeCustomerId": "cus_other"});
    let made = product.put(service, "acme", &body).await;
    let id = made.body["id"].as_str().unwrap().to_owned();
    let mut archiving = service.db.pool.begin().await.unwrap();
    sqlx::query("UPDATE organizations SET archived_at = now() WHERE external_id = 'acme'")
        .execute(&mut *archiving)
        .await
        .unwrap();
    let subscribe = json!({"planTier": "standard"});
    let subscribing = product.post_for(service, "acme", SUBSCRIPTION, &subscribe);
    let committing = async {
        let waits =
            "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while service.db.count(waits).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        archiving.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(subscribing, committing);
    assert_eq!(answer.status, 503, "{answer:?}");
    let requests = format!("billing_stripe_requests WHERE organization_id = '{id}'");
    assert_eq!(service.db.count(&requests).await, 0);
    let again = product
        .post_for(service, "acme", SUBSCRIPTION, &subscribe)
        .await;
    assert_eq!(again.problem(), (409, "organization_archived"));

    // The other way round: what is under way is not archived.
    product.put(service, "acme", &body).await.ok();
    let open = format!(
        "INSERT INTO billing_stripe_requests (organization_id, id, subject, operation, params)
         VALUES ('{id}', gen_random_uuid(), 'subscription', 'create', '{{}}')"
    );
    service.db.execute(&open).await;
    let refused = product.archive(service, "acme").await;
    assert_eq!(refused.problem(), (409, "subscription_running"));
    let archived = "organizations WHERE archived_at IS NOT NULL";
    assert_eq!(service.db.count(archived).await, 0, "nothing half done");
}
