//! Connections: many, idle, half closed, reset, and what is no HTTP.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::hands::{Attack, connect, connect_narrow, crowd, drain, drips, reset, sends_and_waits};
use super::world::World;
use crate::support::dice::Dice;
use crate::support::service::WEBHOOKS;

const GETS_IN: &str = "idle and slow connections give way to deliveries";

pub const ATTACKS: &[Attack] = &[
    Attack::new("idle connections", GETS_IN, |world| {
        let count = 2 * world.sizes.connections;
        Box::pin(async move { sends_and_waits(&world, count, Vec::new()).await })
    }),
    Attack::new("kept alive", GETS_IN, |world| {
        Box::pin(async move {
            let start = "GET /healthz HTTP/1.1\r\nhost: billing\r\n\r\n";
            drips(&world, world.sizes.connections, start.to_owned(), start).await;
        })
    }),
    Attack::new("half closed", GETS_IN, |world| Box::pin(half_closed(world))),
    Attack::new(
        "resets",
        "what is dropped in the middle leaves nothing behind",
        |world| Box::pin(resets(world)),
    ),
    Attack::new(
        "opened and closed",
        "a connection costs nothing once it is gone",
        |world| {
            Box::pin(async move {
                crowd(&world, world.sizes.connections, |world, _| async move {
                    drop(connect(&world).await);
                })
                .await;
            })
        },
    ),
    Attack::new("TLS", "what is no HTTP is closed", |world| {
        Box::pin(async move {
            // A ClientHello's record, of which the rest does not come.
            let hello = [
                &[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3][..],
                &[7; 900],
            ]
            .concat();
            sends_and_waits(&world, world.sizes.connections, hello).await;
        })
    }),
    Attack::new("HTTP/2", "what is no HTTP/1 is closed", |world| {
        Box::pin(async move {
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
            sends_and_waits(&world, world.sizes.connections, preface).await;
        })
    }),
    Attack::new("noise", "what is no HTTP is closed", |world| {
        Box::pin(noise(world))
    }),
    Attack::new(
        "pipelined and read",
        "one connection has no more than its turn",
        |world| Box::pin(pipelined(world, true)),
    ),
    Attack::new(
        "pipelined and not read",
        "answers that nobody reads are not piled up",
        |world| Box::pin(pipelined(world, false)),
    ),
    Attack::new(
        "large answers not read",
        "answers that nobody reads are not piled up",
        |world| Box::pin(large_answers(world)),
    ),
];

async fn half_closed(world: Arc<World>) {
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let starts = [
                "GET /healthz HTTP/1.1\r\nhos".to_owned(),
                "GET /openapi.json HTTP/1.1\r\nhost: billing\r\n\r\n".to_owned(),
                format!(
                    "POST {WEBHOOKS} HTTP/1.1\r\nhost: billing\r\ncontent-length: 90\r\n\r\n{{"
                ),
                String::new(),
            ];
            let Ok(mut stream) = connect(&world).await else {
                return;
            };
            let _ = stream
                .write_all(starts[number % starts.len()].as_bytes())
                .await;
            let _ = stream.shutdown().await;
            drain(&mut stream).await;
        },
    )
    .await;
}

/// Requests of every kind, whose connection is reset within two milliseconds.
async fn resets(world: Arc<World>) {
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let (token, key) = (world.tenant.token(number), &world.tenant.key);
            let check = r#"{"metric":"api_calls","quantity":1,"consume":true}"#;
            let login = r#"{"email":"nobody@example.com","password":"wrong one"}"#;
            let post = |path: &str, headers: &str, body: &str| {
                let json = format!("content-type: application/json\r\n{headers}");
                super::hands::head("POST", path, &json, body.len()) + body
            };
            let get = |path: &str| {
                format!(
                    "GET {path} HTTP/1.1\r\nhost: billing\r\nauthorization: Bearer {token}\r\n\r\n"
                )
            };
            let bearer = format!("authorization: Bearer {key}\r\n");
            let request = match number % 6 {
                0 => get("/api/billing/usage"),
                1 => get("/api/billing/invoices"),
                2 => post("/api/billing/usage/check", &bearer, check),
                3 => post("/api/auth/login", "", login),
                4 => {
                    let id = format!("evt_hostile_reset_{number}");
                    let (body, signature) = world.tenant.delivery(&id, "standard");
                    post(
                        WEBHOOKS,
                        &format!("stripe-signature: {signature}\r\n"),
                        &body,
                    )
                }
                _ => post(
                    "/api/agents/execute",
                    &bearer,
                    r#"{"agentId":"a","input":"b"}"#,
                ),
            };
            let Ok(mut stream) = connect(&world).await else {
                return;
            };
            let _ = stream.write_all(request.as_bytes()).await;
            let wait = Dice::new(number as u64).number() % 2_000;
            tokio::time::sleep(Duration::from_micros(wait)).await;
            reset(stream);
        },
    )
    .await;
}

async fn noise(world: Arc<World>) {
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let mut dice = Dice::new(number as u64);
            let bytes: Vec<u8> = (0..512).flat_map(|_| dice.number().to_ne_bytes()).collect();
            if let Ok(mut stream) = connect(&world).await {
                let _ = stream.write_all(&bytes).await;
                drain(&mut stream).await;
            }
        },
    )
    .await;
}

/// Thousands of requests in one go.
async fn pipelined(world: Arc<World>, reads: bool) {
    let requests = "GET /healthz HTTP/1.1\r\nhost: billing\r\n\r\n".repeat(5_000);
    let requests: Arc<str> = requests.into();
    crowd(&world, world.sizes.connections / 4, move |world, _| {
        let requests = requests.clone();
        async move {
            let connected = if reads {
                connect(&world).await
            } else {
                connect_narrow(&world).await
            };
            let Ok(stream) = connected else {
                return;
            };
            let (mut reading, mut writing) = stream.into_split();
            let wrote = writing.write_all(requests.as_bytes());
            if reads {
                let mut nowhere = tokio::io::sink();
                let read = tokio::io::copy(&mut reading, &mut nowhere);
                let _ = tokio::time::timeout(Duration::from_secs(2), async {
                    tokio::join!(wrote, read)
                })
                .await;
            } else {
                let _ = tokio::time::timeout(Duration::from_secs(5), wrote).await;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    })
    .await;
}

async fn large_answers(world: Arc<World>) {
    crowd(&world, world.sizes.connections, |world, _| async move {
        let asks = "GET /openapi.json HTTP/1.1\r\nhost: billing\r\n\r\n".repeat(50);
        if let Ok(mut stream) = connect_narrow(&world).await {
            let _ = stream.write_all(asks.as_bytes()).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    })
    .await;
}
