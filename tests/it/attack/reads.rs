//! Who asks: probes, documents, credentials that are none, lists, exports.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::hands::{Attack, connect_narrow, crowd, requests};
use super::world::World;
use crate::support::dice::Dice;

const PROBES: &str = "probes and documents are cheap";
const SHARED: &str = "an organization has its share of the connections that all use";

pub const ATTACKS: &[Attack] = &[
    Attack::new("readiness", PROBES, |world| {
        Box::pin(asks(world, "/readyz"))
    }),
    Attack::new("metrics", PROBES, |world| Box::pin(asks(world, "/metrics"))),
    Attack::new("the description", PROBES, |world| {
        Box::pin(asks(world, "/openapi.json"))
    }),
    Attack::new("the documents", PROBES, |world| {
        Box::pin(asks(world, "/docs"))
    }),
    Attack::new(
        "routes that are none",
        "what is in no table is refused, and no label",
        |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections, |world, number| {
                    let path = format!("/api/{number}/%2e%2e/%00?a={number}");
                    world.get(&path).header("x-request-id", "x".repeat(200))
                })
                .await;
            })
        },
    ),
    Attack::new(
        "credentials that are none",
        "credentials are looked up together, on connections of their own",
        |world| {
            Box::pin(async move {
                requests(&world, world.sizes.connections, |world, number| {
                    let mut dice = Dice::new(number as u64);
                    let digits: String =
                        (0..4).map(|_| format!("{:016x}", dice.number())).collect();
                    let kind = ["vck_", "vcs_"][number % 2];
                    let request = world.get("/api/billing/invoices");
                    request.bearer_auth(format!("{kind}{digits}"))
                })
                .await;
            })
        },
    ),
    Attack::new("lists", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let paths = [
                    "/api/billing/usage",
                    "/api/billing/invoices?limit=100",
                    "/api/billing/audit-log?limit=100",
                    "/api/billing/payment-methods",
                    "/api/billing/usage-alerts",
                ];
                let request = world.get(paths[number % paths.len()]);
                request.bearer_auth(world.tenant.token(number))
            })
            .await;
        })
    }),
    Attack::new("cursors that are none", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let mut dice = Dice::new(number as u64);
                let cursors = [
                    format!("{:x}", dice.number()),
                    "A".repeat(1_000 + number % 2_000),
                    "%00%ff".repeat(100),
                    "eyJhIjoxfQ".to_owned(),
                ];
                let cursor = &cursors[number % cursors.len()];
                let path = format!("/api/billing/invoices?limit=100&cursor={cursor}");
                world.get(&path).bearer_auth(world.tenant.token(number))
            })
            .await;
        })
    }),
    Attack {
        before: Some(|world| Box::pin(long_log(world))),
        ..Attack::new("exports that are read slowly", SHARED, |world| {
            Box::pin(exports(world))
        })
    },
    Attack::new("previews", SHARED, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let request = world.post("/api/billing/subscription/preview");
                let request = request.bearer_auth(world.tenant.token(number));
                request.json(&json!({"planTier": "enterprise"}))
            })
            .await;
        })
    }),
];

async fn asks(world: Arc<World>, path: &'static str) {
    requests(&world, world.sizes.connections, move |world, _| {
        world.get(path)
    })
    .await;
}

/// A long audit log.
async fn long_log(world: Arc<World>) {
    let organization = world.tenant.organization;
    let entries = 10 * world.sizes.connections;
    world
        .db
        .execute(&format!(
            "SELECT log_billing_action('{organization}', 'hostile', 'system', NULL, 'none', n::text,
                                       NULL, jsonb_build_object('note', repeat('x', 500)))
               FROM generate_series(1, {entries}) n"
        ))
        .await;
}

/// Hundreds of exports, a byte each now and then.
async fn exports(world: Arc<World>) {
    crowd(
        &world,
        world.sizes.connections,
        |world, number| async move {
            let token = world.tenant.token(number);
            let request = format!(
                "GET /api/billing/audit-log HTTP/1.1\r\nhost: billing\r\naccept: text/csv\r\n\
             authorization: Bearer {token}\r\n\r\n"
            );
            let Ok(mut stream) = connect_narrow(&world).await else {
                return;
            };
            let _ = stream.write_all(request.as_bytes()).await;
            let mut byte = [0];
            while stream.read(&mut byte).await.is_ok_and(|n| n > 0) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        },
    )
    .await;
}
