//! Calls that are forwarded.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::hands::{Attack, connect, connect_narrow, crowd, head, requests, reset};
use super::world::World;

const ROOM: &str = "an organization has its share of the calls that are under way";

pub const ATTACKS: &[Attack] = &[
    Attack::new("calls that are hung up", ROOM, |world| {
        Box::pin(hung_up(world))
    }),
    Attack::new("calls that last", ROOM, |world| Box::pin(lasting(world))),
    Attack::new("answers that are read slowly", ROOM, |world| {
        Box::pin(read_slowly(world, false))
    }),
    Attack::new(
        "keyed answers that are read slowly",
        "copies of answers have their share of the memory",
        |world| Box::pin(read_slowly(world, true)),
    ),
    Attack::new(
        "large keyed calls",
        "idempotency takes of its organization's share",
        |world| {
            Box::pin(async move {
                let input: Arc<str> = "x".repeat(900_000).into();
                requests(&world, world.sizes.connections / 4, move |world, _| {
                    let body = json!({"agentId": "large", "input": &*input});
                    let request = world.send("/api/agents/execute", &body);
                    request.header("idempotency-key", Uuid::new_v4().to_string())
                })
                .await;
            })
        },
    ),
    Attack::new("small calls", ROOM, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, _| {
                world.send("/tools/run", &json!({}))
            })
            .await;
        })
    }),
];

fn call(world: &World, path: &str) -> String {
    head("POST", path, &bearer(world), 2) + "{}"
}

fn keyed_call(world: &World, path: &str) -> String {
    let key = format!("{}idempotency-key: {}\r\n", bearer(world), Uuid::new_v4());
    head("POST", path, &key, 2) + "{}"
}

fn bearer(world: &World) -> String {
    format!("authorization: Bearer {}\r\n", world.tenant.key)
}

async fn hung_up(world: Arc<World>) {
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let paths = [
                "/tools/slow?1",
                "/tools/late-failure",
                "/tools/hang",
                "/tools/much",
            ];
            let request = call(&world, paths[number % paths.len()]);
            if let Ok(mut stream) = connect(&world).await {
                let _ = stream.write_all(request.as_bytes()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                reset(stream);
            }
        },
    )
    .await;
}

async fn lasting(world: Arc<World>) {
    crowd(&world, world.sizes.connections, |world, _| async move {
        let request = call(&world, "/tools/slow?2");
        if let Ok(mut stream) = connect(&world).await {
            let _ = stream.write_all(request.as_bytes()).await;
            let mut byte = [0];
            let _ = stream.read(&mut byte).await;
        }
    })
    .await;
}

async fn read_slowly(world: Arc<World>, keyed: bool) {
    crowd(
        &world,
        world.sizes.connections,
        move |world, _| async move {
            let call = if keyed { keyed_call } else { call };
            let request = call(&world, "/tools/much");
            let Ok(mut stream) = connect_narrow(&world).await else {
                return;
            };
            let _ = stream.write_all(request.as_bytes()).await;
            let mut some = [0; 1_024];
            while stream.read(&mut some).await.is_ok_and(|n| n > 0) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        },
    )
    .await;
}
