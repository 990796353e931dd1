//! Customers and organizations that name each other, and others.

use serde_json::json;
use valuecanvas_billing::webhooks::worker::Tally;

use super::workbench::Workbench;
use crate::support::events::{event, subscription};
use crate::support::service::{organization, processor};

/// Two subscriptions of one customer name two organizations.
#[tokio::test]
async fn a_customer_is_of_one_organization_whatever_its_subscriptions_name() {
    for at_once in [true, false] {
        let bench = Workbench::unlinked().await;
        let other = organization(&bench.db, "Other").await;
        let events = [("sub_1", bench.organization), ("sub_2", other)].map(|(id, named)| {
            let mut object = subscription(id, "cus_new", "active", "enterprise");
            object["metadata"] = json!({"organization_id": named});
            event(
                &format!("evt_{id}"),
                "customer.subscription.created",
                100,
                object,
            )
        });
        if at_once {
            bench.process(&events).await;
        } else {
            for event in events {
                bench.process(&[event]).await;
            }
        }
        bench
            .shows(
                "SELECT count(*) AS all, count(DISTINCT s.organization_id) AS owners,
                        count(*) FILTER (WHERE c.organization_id = s.organization_id) AS of_customer
                   FROM billing_subscriptions s JOIN billing_customers c USING (stripe_customer_id)",
                json!({"all": 2, "owners": 1, "of_customer": 2}),
            )
            .await;
    }
}

/// Several workers, each with one of the events that disagree.
#[tokio::test]
async fn whoever_says_it_first_is_right_though_all_say_it_at_once() {
    const ROUNDS: usize = 8;
    let bench = Workbench::unlinked().await;
    for round in 0..ROUNDS {
        let organizations = [
            organization(&bench.db, "One").await,
            organization(&bench.db, "Two").await,
        ];
        // Each customer names both, and each is named by both.
        let mut events = Vec::new();
        for (n, customer) in ["a", "b", "a", "b"].into_iter().enumerate() {
            let id = format!("sub_{round}_{n}");
            let customer = format!("cus_{round}_{customer}");
            let mut object = subscription(&id, &customer, "active", "standard");
            object["metadata"] = json!({"organization_id": organizations[(n / 2 + n) % 2]});
            let id = format!("evt_{round}_{n}");
            events.push(event(&id, "customer.subscription.created", 100, object));
        }
        let workers = events.iter().map(|event| {
            let processor = processor(&bench.db);
            let bench = &bench;
            async move {
                bench.store(std::slice::from_ref(event)).await;
                let mut tally = Tally::default();
                for _ in 0..4 {
                    tally += processor.process_due(None).await.unwrap();
                }
                tally
            }
        });
        futures_util::future::join_all(workers).await;
        for _ in 0..3 {
            bench.let_retries_be_due().await;
            bench.work().await;
        }
    }
    // No row is of another than its customer's.
    let strays = "billing_subscriptions s JOIN billing_customers c USING (stripe_customer_id)
                   WHERE c.organization_id <> s.organization_id";
    assert_eq!(bench.db.count(strays).await, 0);
    assert!(bench.db.count("billing_customers").await >= ROUNDS as i64);
}
