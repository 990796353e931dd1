//! One key that may tell of usage.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::hands::{Attack, requests};

const FAIR: &str = "organizations take turns, and each has its share of the queue";
const EVENTS: &str = "/api/billing/usage/events";
const CHECK: &str = "/api/billing/usage/check";

pub const ATTACKS: &[Attack] = &[
    Attack::new("batches", FAIR, |world| {
        Box::pin(async move {
            let count = world.sizes.connections;
            requests(&world, count, |world, _| {
                world.send(EVENTS, &batch(1_000, 0))
            })
            .await;
        })
    }),
    Attack::new("batches of large events", FAIR, |world| {
        Box::pin(async move {
            let count = world.sizes.connections;
            requests(&world, count, |world, _| {
                world.send(EVENTS, &batch(1_000, 600))
            })
            .await;
        })
    }),
    Attack::new("batches of known ids", FAIR, |world| {
        Box::pin(async move {
            let known = Arc::new(batch(1_000, 0));
            requests(&world, world.sizes.connections, move |world, _| {
                world.send(EVENTS, &known)
            })
            .await;
        })
    }),
    Attack::new("batches of one id", FAIR, |world| {
        Box::pin(async move {
            let event = json!({"id": Uuid::new_v4(), "metric": "llm_tokens", "quantity": 1});
            let one: Value = vec![event; 1_000].into();
            requests(&world, world.sizes.connections, move |world, _| {
                world.send(EVENTS, &one)
            })
            .await;
        })
    }),
    Attack::new("single events", FAIR, |world| {
        Box::pin(async move {
            let count = 2 * world.sizes.connections;
            requests(&world, count, |world, _| world.send(EVENTS, &batch(1, 0))).await;
        })
    }),
    Attack::new("checks", FAIR, |world| {
        Box::pin(async move {
            let count = 2 * world.sizes.connections;
            requests(&world, count, |world, _| world.consume(1)).await;
        })
    }),
    Attack::new("names that are none", FAIR, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let name = format!("metric_{number}");
                let body = json!({"metric": name, "quantity": 1, "consume": true});
                world.send(CHECK, &body)
            })
            .await;
        })
    }),
    Attack::new(
        "quantities and times",
        "what validation lets in the database takes, and no group is spoiled",
        |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections, |world, number| {
                    world.send(EVENTS, &odd(number / 1_000_000 + number))
                })
                .await;
            })
        },
    ),
    Attack::new("levels ahead of time", FAIR, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let ahead = jiff::SignedDuration::from_secs(i64::try_from(number % 299).unwrap());
                let body = json!({"metric": "storage_gb", "quantity": number % 90,
                                  "occurredAt": (jiff::Timestamp::now() + ahead).to_string(),
                                  "id": Uuid::new_v4()});
                world.send(EVENTS, &body)
            })
            .await;
        })
    }),
    Attack::new(
        "keys of idempotency",
        "idempotency takes of its organization's share",
        |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections, |world, _| {
                    let key = Uuid::new_v4().to_string();
                    world.consume(1).header("idempotency-key", key)
                })
                .await;
            })
        },
    ),
    Attack::new(
        "one key of idempotency",
        "idempotency takes of its organization's share",
        |world| {
            Box::pin(async move {
                let key = Uuid::new_v4().to_string();
                requests(&world, world.sizes.connections, move |world, _| {
                    let body = json!({"metric": "api_calls", "quantity": 1, "consume": true});
                    world.send(CHECK, &body).header("idempotency-key", &key)
                })
                .await;
            })
        },
    ),
    Attack::new("proxies that ask", FAIR, |world| {
        Box::pin(async move {
            requests(&world, 2 * world.sizes.connections, |world, number| {
                let path = format!("/api/enforce?metric=api_calls&id=e{number}&uri=/x?y");
                world.get(&path).bearer_auth(&world.tenant.key)
            })
            .await;
        })
    }),
];

/// Events that were never sent before, each with `bytes` of metadata.
fn batch(events: usize, bytes: usize) -> Value {
    let run = Uuid::new_v4().simple().to_string();
    let event = |number: usize| {
        let id = format!("{run}-{number}");
        let mut event = json!({"id": id, "metric": "llm_tokens", "quantity": 1});
        if bytes > 0 {
            event["metadata"] = json!({"note": "x".repeat(bytes)});
        }
        event
    };
    (0..events).map(event).collect()
}

/// Batches with one event that may or may not be taken, beside one that is.
fn odd(number: usize) -> Value {
    let quantities = [
        json!("12345678901234567890"),
        json!("9999999999999999.9999"),
        json!("-1"),
        json!("1e400"),
        json!("0.00001"),
        json!("00000000000000000000000000000000001"),
        json!(0),
        json!("NaN"),
    ];
    let times = [
        "0001-01-01T00:00:00Z",
        "-009999-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
        "1970-01-01T00:00:00Z",
        "2016-12-31T23:59:60Z",
    ];
    let id = Uuid::new_v4().simple().to_string();
    let mut event = json!({"id": format!("{id}-odd"), "metric": "agent_executions",
                           "quantity": quantities[number % quantities.len()]});
    if number.is_multiple_of(3) {
        event["occurredAt"] = times[number / 3 % times.len()].into();
    }
    if number.is_multiple_of(7) {
        event["metadata"] = json!({"a\u{0}": "\u{0}"});
    }
    json!([event, {"id": id, "metric": "llm_tokens", "quantity": 1}])
}
