//! Bodies: large, slow, unfinished, in crumbs; with a credential and without.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::hands::{
    Attack, JSON, MIB, connect, crowd, drain, drips, head, sends_and_waits, unfinished,
};
use super::world::World;
use crate::support::events::sign;
use crate::support::service::WEBHOOKS;

const BOUNDED: &str = "bodies have a budget";
const UNREAD: &str = "the body of a delivery is not read before its signature's form and time";
const LOGIN: &str = "/api/auth/login";

/// The right form and a fresh time, of another body.
fn forged() -> String {
    format!("stripe-signature: {}\r\n", sign(b"another body"))
}

pub const ATTACKS: &[Attack] = &[
    Attack::new("unsigned megabytes", UNREAD, |world| {
        Box::pin(hanging(world, WEBHOOKS, String::new()))
    }),
    Attack::new("stale megabytes", UNREAD, |world| {
        let stale = "stripe-signature: t=1700000000,v1=00\r\n";
        Box::pin(hanging(world, WEBHOOKS, stale.to_owned()))
    }),
    Attack::new("forged megabytes, unfinished", BOUNDED, |world| {
        Box::pin(hanging(world, WEBHOOKS, forged()))
    }),
    Attack::new("forged megabytes, whole", BOUNDED, |world| {
        Box::pin(whole(world))
    }),
    Attack::new("forged and slow", BOUNDED, |world| {
        Box::pin(async move {
            let start = head("POST", WEBHOOKS, &forged(), MIB);
            drips(&world, world.sizes.connections, start, "a").await;
        })
    }),
    Attack::new("megabytes that log in", BOUNDED, |world| {
        Box::pin(hanging(world, LOGIN, JSON.to_owned()))
    }),
    Attack::new("slow logins", BOUNDED, |world| {
        Box::pin(async move {
            let start = head("POST", LOGIN, JSON, 9_000);
            drips(&world, 2 * world.sizes.connections, start, "{").await;
        })
    }),
    Attack::new("uploads that hang", BOUNDED, |world| {
        let headers = format!("{JSON}authorization: Bearer {}\r\n", world.tenant.key);
        Box::pin(hanging(world, "/api/billing/usage/events", headers))
    }),
    Attack::new("crumbs", BOUNDED, |world| Box::pin(crumbs(world))),
    Attack::new("large chunk extensions", BOUNDED, |world| {
        Box::pin(async move {
            let start = chunked(LOGIN, JSON) + "1;a=";
            let bytes = [start.into_bytes(), vec![b'b'; MIB]].concat();
            sends_and_waits(&world, world.sizes.connections, bytes).await;
        })
    }),
    Attack::new("trailers without an end", BOUNDED, |world| {
        Box::pin(async move {
            let start = chunked(LOGIN, JSON) + "2\r\n{}\r\n0\r\n";
            let bytes = start + &"x-a: b\r\n".repeat(MIB / 8);
            sends_and_waits(&world, world.sizes.connections, bytes.into_bytes()).await;
        })
    }),
    Attack::new("chunks of any size", BOUNDED, |world| {
        Box::pin(async move {
            let start = chunked(WEBHOOKS, &forged()) + "ffffffffffffffff\r\n";
            let bytes = [start.into_bytes(), vec![b'b'; MIB]].concat();
            sends_and_waits(&world, world.sizes.connections, bytes).await;
        })
    }),
    Attack::new("expects and is silent", BOUNDED, |world| {
        Box::pin(async move {
            let headers = format!("{JSON}expect: 100-continue\r\n");
            let bytes = head("POST", LOGIN, &headers, 500_000).into_bytes();
            sends_and_waits(&world, world.sizes.connections, bytes).await;
        })
    }),
];

fn chunked(path: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: billing\r\n{headers}transfer-encoding: chunked\r\n\r\n")
}

async fn hanging(world: Arc<World>, path: &'static str, headers: String) {
    let bytes = unfinished(path, &headers, MIB);
    sends_and_waits(&world, world.sizes.connections, bytes).await;
}

/// All of it, so that it is read and hashed.
async fn whole(world: Arc<World>) {
    let bytes = [
        head("POST", WEBHOOKS, &forged(), MIB - 1).into_bytes(),
        vec![b'x'; MIB - 1],
    ];
    let bytes: Arc<[u8]> = bytes.concat().into();
    crowd(&world, world.sizes.connections, move |world, _| {
        let bytes = bytes.clone();
        async move {
            if let Ok(mut stream) = connect(&world).await {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                drain(&mut stream).await;
            }
        }
    })
    .await;
}

/// A byte a chunk, and a chunk a write, as fast as they go.
async fn crumbs(world: Arc<World>) {
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let start = if number % 2 == 0 {
                chunked(LOGIN, JSON)
            } else {
                chunked(WEBHOOKS, &forged())
            };
            let Ok(mut stream) = connect(&world).await else {
                return;
            };
            let mut going = stream.write_all(start.as_bytes()).await;
            while going.is_ok() {
                going = stream.write_all(b"1\r\n[\r\n1\r\n[\r\n1\r\n[\r\n").await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        },
    )
    .await;
}
