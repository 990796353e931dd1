//! Stripe acts without answering: the change that waits is found, and charged once.

use super::{ASKS, required};
use crate::subscriptions::world::{START, World};

#[tokio::test]
async fn a_change_whose_answers_are_lost_is_found_where_it_waits() {
    for (every, times) in [("1", "3"), ("2", "2"), ("3", "1")] {
        let (world, _, customer) = World::asking(START).await;
        let fault = [
            ("fault", "drop_after_acting"),
            ("method", "POST"),
            ("path", "/v1/subscriptions/*"),
            ("every", every),
            ("next", times),
        ];
        world.stripe.fault(&fault).await;
        let answer = world.change("enterprise").await;
        let asked = match answer.status {
            202 => required(answer),
            _ => {
                world.stripe.clear_faults().await;
                required(world.change("enterprise").await)
            }
        };
        world.stripe.clear_faults().await;
        world.settled_in_the_background().await;
        world.settle().await;
        let invoices = world.stripe.invoices(&customer).await;
        let open = invoices.iter().filter(|one| one["status"] == "open");
        assert_eq!(open.count(), 1, "{every}");
        world.authenticate(&asked, "succeed").await;
        world.mirrored().await;
        assert_eq!(world.plan().await.0, "enterprise");
        assert_eq!(world.charged(&customer).await.len(), 2, "{every}");
    }
}

#[tokio::test]
async fn a_beginning_whose_answers_are_lost_is_one_subscription() {
    for every in ["1", "2"] {
        let world = World::start().await;
        let customer = world.customer(ASKS).await;
        let fault = [
            ("fault", "drop_after_acting"),
            ("method", "POST"),
            ("path", "/v1/subscriptions"),
            ("every", every),
            ("next", "2"),
        ];
        world.stripe.fault(&fault).await;
        let answer = world.create("standard").await;
        world.stripe.clear_faults().await;
        let asked = match answer.status {
            202 => required(answer),
            _ => required(world.create("standard").await),
        };
        world.settled_in_the_background().await;
        world.authenticate(&asked, "succeed").await;
        world.mirrored().await;
        assert_eq!(world.plan().await.0, "standard");
        assert_eq!(world.stripe.subscriptions(&customer).await.len(), 1);
        assert_eq!(world.charged(&customer).await, [9_900]);
    }
}
