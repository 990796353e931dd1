//! Heads: slow, long, many, and such that two readers would read differently.

use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;

use super::hands::{Attack, MIB, connect, crowd, drain, drips, sends_and_waits};
use super::world::World;
use crate::support::events::sign;
use crate::support::service::WEBHOOKS;

const BOUNDED: &str = "heads have a budget";

pub const ATTACKS: &[Attack] = &[
    Attack::new("slow heads", BOUNDED, |world| {
        Box::pin(async move {
            let start = "GET /healthz HTTP/1.1\r\nhost: billing\r\nx-a: ";
            drips(&world, 2 * world.sizes.connections, start.to_owned(), "a").await;
        })
    }),
    Attack::new("slow lines", BOUNDED, |world| {
        Box::pin(async move {
            let start = "GET /healthz HTTP/1.1\r\n";
            drips(
                &world,
                world.sizes.connections,
                start.to_owned(),
                "a: b\r\n",
            )
            .await;
        })
    }),
    Attack::new("one long header", BOUNDED, |world| {
        Box::pin(endless(world, "GET /healthz HTTP/1.1\r\nX-A: ".to_owned()))
    }),
    Attack::new("one long address", BOUNDED, |world| {
        Box::pin(endless(world, "GET /".to_owned()))
    }),
    Attack::new("one long signature", BOUNDED, |world| {
        let signature = sign(b"another body");
        let start = format!("POST {WEBHOOKS} HTTP/1.1\r\nStripe-Signature: {signature},v1=");
        Box::pin(endless(world, start))
    }),
    Attack::new("many headers without an end", BOUNDED, |world| {
        Box::pin(async move {
            let head = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(MIB / 6));
            sends_and_waits(&world, world.sizes.connections, head.into_bytes()).await;
        })
    }),
    Attack::new("large heads that end", BOUNDED, |world| {
        Box::pin(async move {
            // Many that are within the limits, and some that are just beyond.
            let line = format!("x-b: {}\r\n", "b".repeat(1_000));
            let head = |lines: usize| {
                format!(
                    "GET /healthz HTTP/1.1\r\nhost: b\r\n{}\r\n",
                    line.repeat(lines)
                )
            };
            let requests = [head(30), head(60), head(900)].concat();
            sends_and_waits(&world, world.sizes.connections, requests.into_bytes()).await;
        })
    }),
    Attack::new(
        "heads with two meanings",
        "what could be read in two ways is refused",
        |world| Box::pin(two_meanings(world)),
    ),
];

async fn endless(world: Arc<World>, start: String) {
    let mut bytes = start.into_bytes();
    bytes.resize(MIB - 1_000, b'a');
    sends_and_waits(&world, world.sizes.connections, bytes).await;
}

async fn two_meanings(world: Arc<World>) {
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let heads = [
                "content-length: 5\r\ntransfer-encoding: chunked\r\n",
                "content-length: 5\r\ncontent-length: 6\r\n",
                "transfer-encoding: chunked, identity\r\n",
                "transfer-encoding:\tchunked\r\ntransfer-encoding: x\r\n",
                "content-length: +5\r\n",
                "content-length: 99999999999999999999\r\n",
                "content-length: -1\r\n",
                "host: other\r\ncontent-length: 0\r\n",
                "x-a: 1\r\n folded: 2\r\ncontent-length: 0\r\n",
                "x\0a: 1\r\n",
                "connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 0\r\n",
            ];
            let lines = heads[number % heads.len()];
            let smuggled =
                "0\r\n\r\nGET /api/operator/organizations HTTP/1.1\r\nhost: billing\r\n\r\n";
            let request =
                format!("POST /api/auth/login HTTP/1.1\r\nhost: billing\r\n{lines}\r\n{smuggled}");
            if let Ok(mut stream) = connect(&world).await {
                let _ = stream.write_all(request.as_bytes()).await;
                let _ = stream.shutdown().await;
                drain(&mut stream).await;
            }
        },
    )
    .await;
}
