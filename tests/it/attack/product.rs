//! What the product calls, and what it has called: holds, long polls, events in binary mode,
//! checkouts, sessions for customers, organizations, and endpoints that do not answer.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::hands::{Attack, crowd, requests};
use super::world::World;

const FAIR: &str = "organizations take turns, and each has its share of the queue";
const BOUNDED: &str = "an organization holds 10,000 reservations of a metric at most";
const POLLS: &str =
    "who waits for a change holds neither a database connection nor another's place";
const SHARED: &str = "an organization, a service key and an operator have each their share";
const OUT: &str = "endpoints that do not answer keep nobody waiting";
const RESERVATIONS: &str = "/api/billing/usage/reservations";
const EVENTS: &str = "/api/billing/usage/events";

pub const ATTACKS: &[Attack] = &[
    Attack::new("holds that nobody settles", BOUNDED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, _| {
                hold(world, &Uuid::new_v4().to_string())
            })
            .await;
        })
    }),
    Attack {
        before: Some(|world| Box::pin(full_of_holds(world))),
        ..Attack::new("holds beyond the limit", BOUNDED, |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections, |world, _| {
                    hold(world, &Uuid::new_v4().to_string())
                })
                .await;
            })
        })
    },
    Attack::new("holds that are let go and confirmed", FAIR, |world| {
        Box::pin(held_and_settled(world))
    }),
    Attack::new("holds that are none", FAIR, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let path = format!("{RESERVATIONS}/none-{number}/confirm");
                world.send(&path, &json!({"quantity": 1}))
            })
            .await;
        })
    }),
    Attack::new("uses that are taken back", FAIR, |world| {
        Box::pin(taken_back(world))
    }),
    Attack::new("events in binary mode", FAIR, |world| {
        Box::pin(async move {
            requests(&world, 2 * world.sizes.connections, binary).await;
        })
    }),
    Attack::new("events of organizations that are none", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections / 2, |world, number| {
                let event = |n: usize| {
                    json!({"id": format!("{number}-{n}"), "metric": "llm_tokens", "quantity": 1,
                           "organization": format!("nobody-{number}-{n}")})
                };
                let events: Value = (0..200).map(event).collect();
                by_product(world, Method::POST, EVENTS).json(&events)
            })
            .await;
        })
    }),
    Attack::new("long polls", POLLS, |world| Box::pin(long_polls(world))),
    Attack::new("sessions for customers", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, _| {
                let body = json!({"organization": world.tenant.organization, "role": "owner"});
                by_product(world, Method::POST, "/api/portal-sessions").json(&body)
            })
            .await;
        })
    }),
    Attack::new("organizations that sign up", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections / 2, |world, number| {
                let path = format!("/api/organizations/hostile-{}", number % 5_000);
                let body = json!({"name": format!("Hostile {number}"),
                                  "metadata": {"note": "x".repeat(400)}});
                by_product(world, Method::PUT, &path).json(&body)
            })
            .await;
        })
    }),
    Attack::new("checkouts", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections / 2, |world, number| {
                let tier = ["standard", "enterprise"][number / 1_000_000 % 2];
                let body = json!({"planTier": tier,
                                  "successUrl": "https://app.example.com/welcome",
                                  "cancelUrl": "https://app.example.com/pricing"});
                let request = by_product(world, Method::POST, "/api/billing/checkout");
                let buyer = world.others.buyer.to_string();
                request.header("x-organization", buyer).json(&body)
            })
            .await;
        })
    }),
    Attack {
        before: Some(|world| Box::pin(silent_endpoint(world))),
        ..Attack::new("tests of an endpoint that hangs", OUT, |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections / 2, |world, _| {
                    let endpoint = world.others.endpoint.get().expect("it is made before");
                    let path = format!("/api/operator/event-endpoints/{endpoint}/test");
                    by_operator(world, Method::POST, &path)
                })
                .await;
            })
        })
    },
    Attack {
        before: Some(|world| Box::pin(silent_endpoint(world))),
        ..Attack::new("events sent again and recovered", OUT, |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections / 2, |world, number| {
                    let endpoint = world.others.endpoint.get().expect("it is made before");
                    let path = format!("/api/operator/event-endpoints/{endpoint}/recover");
                    let body = json!({"since": "2026-01-01T00:00:00Z"});
                    match number % 2 {
                        0 => by_operator(world, Method::POST, &path).json(&body),
                        _ => by_operator(world, Method::GET, "/api/operator/event-deliveries"),
                    }
                })
                .await;
            })
        })
    },
];

fn hold(world: &World, id: &str) -> RequestBuilder {
    let body = json!({"metric": "llm_tokens", "quantity": "0.0001", "id": id, "ttlSeconds": 3_600});
    world.send(RESERVATIONS, &body)
}

fn by_product(world: &World, method: Method, path: &str) -> RequestBuilder {
    let request = world.request(method, path);
    request.bearer_auth(&world.others.service_key)
}

fn by_operator(world: &World, method: Method, path: &str) -> RequestBuilder {
    let request = world.request(method, path);
    request.bearer_auth(&world.others.operator)
}

/// One less than it may have.
async fn full_of_holds(world: Arc<World>) {
    let first = hold(&world, "the first of many").send().await;
    assert!(first.is_ok(), "{first:?}");
    world
        .db
        .execute(
            "INSERT INTO usage_reservations (organization_id, id, name, metric, period_start,
                                             quantity, held, reserved_at, expires_at)
             SELECT r.organization_id, gen_random_uuid(), 'full ' || n, r.metric, r.period_start,
                    0.0001, 0.0001, now(), now() + interval '1 hour'
               FROM (SELECT * FROM usage_reservations WHERE name IS NOT NULL
                      ORDER BY reserved_at DESC LIMIT 1) r, generate_series(1, 9999) n",
        )
        .await;
}

async fn held_and_settled(world: Arc<World>) {
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let id = Uuid::new_v4().to_string();
            let Ok(answer) = hold(&world, &id).send().await else {
                return;
            };
            let _ = answer.bytes().await;
            let path = format!("{RESERVATIONS}/{id}");
            let settled = match number % 2 {
                0 => world
                    .request(Method::DELETE, &path)
                    .bearer_auth(&world.tenant.key),
                _ => world.send(&format!("{path}/confirm"), &json!({"quantity": "0.0001"})),
            };
            if let Ok(answer) = settled.send().await {
                let _ = answer.bytes().await;
            }
        },
    )
    .await;
}

async fn taken_back(world: Arc<World>) {
    crowd(&world, world.sizes.connections, |world, _| async move {
        let id = Uuid::new_v4().to_string();
        let event = json!({"id": id, "metric": "llm_tokens", "quantity": 1});
        let back = world
            .request(Method::DELETE, &format!("{EVENTS}/{id}"))
            .bearer_auth(&world.tenant.key);
        for request in [world.send(EVENTS, &event), back] {
            if let Ok(answer) = request.send().await {
                let _ = answer.bytes().await;
            }
        }
    })
    .await;
}

/// A CloudEvent in headers, some of which are odd.
fn binary(world: &World, number: usize) -> RequestBuilder {
    let odd = ["%00", "%ff%fe", "a%20b", "%F0%9F%98%80", "plain"];
    let request = world.post(EVENTS).bearer_auth(&world.tenant.key);
    let request = request
        .header("ce-specversion", "1.0")
        .header(
            "ce-id",
            format!("{}{}", Uuid::new_v4(), odd[number % odd.len()]),
        )
        .header("ce-source", "/hostile")
        .header("ce-type", "llm_tokens")
        .header("content-type", "application/json");
    request.body(json!({"quantity": number % 3}).to_string())
}

/// As many as there are, each of whom waits for a change that does not come.
async fn long_polls(world: Arc<World>) {
    const STATE: &str = "/api/billing/state";
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let token = world.tenant.token(number).to_owned();
            let Ok(answer) = world.get(STATE).bearer_auth(&token).send().await else {
                return;
            };
            let Ok(state) = answer.json::<Value>().await else {
                return;
            };
            let after = &state["stateVersion"];
            let path = format!("{STATE}?after={after}&wait=30");
            if let Ok(answer) = world.get(&path).bearer_auth(&token).send().await {
                let _ = answer.bytes().await;
            }
        },
    )
    .await;
}

/// An endpoint that takes connections, and answers none.
async fn silent_endpoint(world: Arc<World>) {
    if world.others.endpoint.get().is_some() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
            if kept.len() > 4_096 {
                kept.clear();
            }
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    });
    let path = "/api/operator/event-endpoints";
    let made = by_operator(&world, Method::POST, path).json(&json!({"url": url}));
    let made = made.send().await.unwrap();
    let status = made.status();
    let made: Value = made.json().await.unwrap();
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().expect("it has an id").to_owned();
    let _ = world.others.endpoint.set(id);
}
