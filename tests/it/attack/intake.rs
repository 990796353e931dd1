//! Deliveries: forged ones, and of Stripe's own more and larger ones than ever.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::hands::{Attack, crowd, requests};
use super::world::World;
use crate::support::events::{event, invoice, sign};

const INTAKE: &str = "Stripe's deliveries are acknowledged, whatever else is delivered";

pub const ATTACKS: &[Attack] = &[
    Attack::new(
        "forged deliveries",
        "a forged delivery costs less than a true one",
        |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections, |world, number| {
                    let id = format!("evt_forged_{number}");
                    let (body, _) = world.tenant.delivery(&id, "enterprise");
                    world.deliver(body, &sign(b"another body"))
                })
                .await;
            })
        },
    ),
    Attack::new("many signatures", INTAKE, |world| {
        Box::pin(async move {
            // Ten thousand, each of which would be compared.
            let wrong = format!("v1={}", "0".repeat(64));
            let many = format!("{},{}", sign(b"another body"), vec![wrong; 400].join(","));
            requests(&world, world.sizes.connections, move |world, _| {
                world.deliver("{}".to_owned(), &many)
            })
            .await;
        })
    }),
    Attack::new(
        "one organization's events by thousands",
        "a customer's events keep nobody else's waiting",
        |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections / 4, |world, number| {
                    let id = format!("evt_hostile_{}", Uuid::new_v4().simple());
                    let tier = ["standard", "enterprise"][number / 1_000_000 % 2];
                    let (body, signature) = world.tenant.delivery(&id, tier);
                    world.deliver(body, &signature)
                })
                .await;
            })
        },
    ),
    Attack::new("one event by hundreds", INTAKE, |world| {
        Box::pin(async move {
            let (body, signature) = world.tenant.delivery("evt_hostile_again", "standard");
            requests(&world, world.sizes.connections, move |world, _| {
                world.deliver(body.clone(), &signature)
            })
            .await;
        })
    }),
    Attack::new("large events", "a batch is bounded by bytes", |world| {
        Box::pin(large(world))
    }),
    Attack::new(
        "events of nobody's",
        "what cannot be applied waits by itself",
        |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections / 4, |world, number| {
                    let customer = format!("cus_unknown_{number}");
                    let object = invoice(&format!("in_{number}"), &customer, "sub_x", "paid");
                    signed(world, "invoice.paid", object)
                })
                .await;
            })
        },
    ),
    Attack::new(
        "poison",
        "what validation lets in the database takes",
        |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections / 4, |world, number| {
                    let (kind, object) = poison(world, number / 1_000_000 + number);
                    signed(world, kind, object)
                })
                .await;
            })
        },
    ),
];

fn signed(world: &World, kind: &str, object: Value) -> reqwest::RequestBuilder {
    let id = format!("evt_hostile_{}", Uuid::new_v4().simple());
    let body = event(&id, kind, 1_770_000_000, object).to_string();
    let signature = sign(body.as_bytes());
    world.deliver(body, &signature)
}

/// Eight connections: each event is nearly as large as it may be.
async fn large(world: Arc<World>) {
    crowd(&world, 8, |world, number| async move {
        let mut object = invoice(
            &format!("in_large_{number}"),
            &world.tenant.customer,
            "sub_large",
            "paid",
        );
        object["description"] = "x".repeat(900_000).into();
        if let Ok(answer) = signed(&world, "invoice.paid", object).send().await {
            let _ = answer.bytes().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;
}

/// Objects with something in them that a column might not take.
fn poison(world: &World, number: usize) -> (&'static str, Value) {
    let mut object = invoice(
        &format!("in_poison_{number}"),
        &world.tenant.customer,
        "sub_poison",
        "paid",
    );
    let members = [
        "amount_due",
        "created",
        "number",
        "currency",
        "status",
        "attempt_count",
        "total_taxes",
        "metadata",
        "lines",
        "id",
    ];
    let nested = (0..60).fold(json!(1), |inner, _| json!([inner]));
    let values = [
        json!(i64::MAX),
        json!(u64::MAX),
        json!(-1),
        json!("a\u{0}b"),
        json!("\u{feff}\u{202e}"),
        json!(1.5),
        json!("x".repeat(10_000)),
        json!({"a\u{0}": "\u{0}"}),
        json!(null),
        json!([]),
        nested,
    ];
    let member = members[number % members.len()];
    object[member] = values[number / members.len() % values.len()].clone();
    let kinds = [
        "invoice.paid",
        "invoice.finalized",
        "customer.subscription.updated",
    ];
    (kinds[number % kinds.len()], object)
}
