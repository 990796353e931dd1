//! Many at once, on several replicas.

use reqwest::Method;
use serde_json::json;

use super::world::{Answer, SUBSCRIPTION, VISA, World, text};
use crate::support::TestService;

async fn create_at(service: &TestService, token: &str) -> Answer {
    let url = format!("{}{SUBSCRIPTION}", service.base);
    let request = service
        .client
        .request(Method::POST, url)
        .bearer_auth(token)
        .timeout(std::time::Duration::from_secs(60))
        .json(&json!({"planTier": "standard"}));
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        body: response.json().await.unwrap(),
    }
}

#[tokio::test]
async fn twenty_creates_at_once_make_one_customer_and_one_subscription() {
    let world = World::start().await;
    let other = world.beside().await;
    // The customer must have a card before it exists: it gets one as soon as
    // it does, and the first round only makes it.
    for round in ["customer", "subscription"] {
        let creates = (0..20).map(|n| {
            let replica = if n % 2 == 0 { &world.service } else { &other };
            create_at(replica, &world.token)
        });
        let answers = futures_util::future::join_all(creates).await;
        let made = answers.iter().filter(|answer| answer.status == 201).count();
        for answer in &answers {
            let expected = match answer.problem() {
                (201, _) | (409, "change_in_progress" | "subscription_exists") => true,
                (402, "payment_method_required") => round == "customer",
                _ => false,
            };
            assert!(expected, "{answer:?}");
        }
        let customers = world.stripe.list("/v1/customers", &[]).await;
        assert_eq!(customers.len(), 1, "{round}");
        let customer = text(&customers[0], "id");
        let subscriptions = world.stripe.subscriptions(&customer).await;
        if round == "customer" {
            assert!(subscriptions.is_empty());
            world.stripe.use_card(&customer, VISA).await;
        } else {
            assert!(made >= 1);
            assert_eq!(subscriptions.len(), 1);
        }
    }
    world.settle().await;
    let db = &world.service.db;
    assert_eq!(db.count("billing_subscriptions").await, 1);
    // Stripe's event may overtake Stripe's answer, and then has an entry of its own.
    for entry in [
        "action = 'customer_created'",
        "action = 'subscription_created' AND actor_type = 'user'",
        "action = 'plan_changed'",
    ] {
        let entries = format!("billing_audit_log WHERE {entry}");
        assert_eq!(db.count(&entries).await, 1, "{entry}");
    }
}

#[tokio::test]
async fn of_different_changes_at_once_each_is_made_or_refused() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    let mut made = 0;
    for _ in 0..5 {
        let (change, cancel, keep) = tokio::join!(
            world.change("enterprise"),
            world.cancel(false),
            world.reactivate()
        );
        for answer in [&change, &cancel, &keep] {
            assert!([200, 409].contains(&answer.status), "{answer:?}");
        }
        let answers = [&change, &cancel, &keep];
        made += answers.iter().filter(|answer| answer.status == 200).count();
        let shown = &world.stripe.subscriptions(&customer).await[0];
        let current = world.current().await;
        assert_eq!(shown["cancel_at_period_end"], current["cancelAtPeriodEnd"]);
        let price = &shown["items"]["data"][0]["price"]["lookup_key"];
        let tier = text(&current, "planTier");
        assert_eq!(*price, format!("valuecanvas_{tier}_monthly"));
        let _ = world.change("standard").await;
    }
    // In a round of its own each may be refused, by what the last one left.
    assert!(made > 0);
}

/// Stripe is still making the subscription when the second click comes: its key is in
/// use, and nothing is closed as not made.
#[tokio::test]
async fn a_second_click_while_stripe_works_buys_nothing_twice() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    let other = world.beside().await;
    world
        .stripe
        .fault(&[
            ("fault", "slow"),
            ("method", "POST"),
            ("path", "/v1/subscriptions"),
        ])
        .await;
    let first = create_at(&world.service, &world.token);
    let second = async {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        create_at(&other, &world.token).await
    };
    let (first, second) = tokio::join!(first, second);
    let known = [
        (201, ""),
        (409, "change_in_progress"),
        (409, "subscription_exists"),
        (503, "stripe_unreachable"),
    ];
    for answer in [&first, &second] {
        assert!(known.contains(&answer.problem()), "{answer:?}");
    }
    assert_eq!(
        world.stripe.struck().await,
        1,
        "Stripe was slow: {first:?} {second:?}"
    );
    // Whoever comes next has what was made, once Stripe is done.
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    for _ in 0..2 {
        let again = create_at(&other, &world.token).await;
        assert!(known.contains(&again.problem()), "{again:?}");
    }
    world.settle().await;
    assert_eq!(world.stripe.subscriptions(&customer).await.len(), 1);
    assert_eq!(world.stripe.invoices(&customer).await.len(), 1);
    assert_eq!(world.current().await["planTier"], "standard");
    let made = "billing_audit_log WHERE action = 'subscription_created'";
    assert!(world.service.db.count(made).await >= 1);
}

/// A gateway before Stripe gives up while Stripe works on.
#[tokio::test]
async fn a_gateways_timeout_is_no_answer_of_stripes() {
    for path in ["/v1/subscriptions", "/v1/customers"] {
        let world = World::start().await;
        let customer = match path {
            "/v1/customers" => None,
            _ => Some(world.customer(VISA).await),
        };
        world
            .stripe
            .fault(&[
                ("fault", "gateway_timeout"),
                ("method", "POST"),
                ("path", path),
            ])
            .await;
        let known = [
            (201, ""),
            (402, "payment_method_required"),
            (409, "change_in_progress"),
            (409, "subscription_exists"),
            (503, "stripe_unreachable"),
        ];
        for _ in 0..3 {
            let answer = world.create("standard").await;
            assert!(known.contains(&answer.problem()), "{path}: {answer:?}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(800)).await;
        let answer = world.create("standard").await;
        assert!(known.contains(&answer.problem()), "{path}: {answer:?}");
        world.settle().await;
        let customers = world.stripe.list("/v1/customers", &[]).await;
        assert_eq!(customers.len(), 1, "{path}");
        if let Some(customer) = customer {
            assert_eq!(world.stripe.subscriptions(&customer).await.len(), 1);
        }
    }
}
