//! What another session holds of an organization while that one sends much, and
//! connections that the server ends.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use super::hands::{Attack, requests};
use super::world::World;

const HELD: &str = "what is held of one organization delays no other's";

pub const ATTACKS: &[Attack] = &[
    Attack::new("a held quota", HELD, |world| {
        Box::pin(held(
            world,
            "usage_quotas WHERE organization_id = $org FOR UPDATE",
        ))
    }),
    Attack::new("held totals", HELD, |world| {
        Box::pin(held(
            world,
            "usage_totals WHERE organization_id = $org FOR UPDATE",
        ))
    }),
    Attack::new("held grace periods", HELD, |world| {
        Box::pin(held(
            world,
            "grace_periods WHERE organization_id = $org FOR UPDATE",
        ))
    }),
    Attack::new("a held organization", HELD, |world| {
        Box::pin(held(world, "organizations WHERE id = $org FOR UPDATE"))
    }),
    Attack::new("a held audit chain", HELD, |world| {
        let rows = "billing_audit_chain_heads WHERE organization_id = $org FOR UPDATE";
        Box::pin(held(world, rows))
    }),
    Attack::new("a held subscription", HELD, |world| {
        let rows = "billing_subscriptions WHERE organization_id = $org FOR UPDATE";
        Box::pin(held(world, rows))
    }),
    Attack::new("a held customer", HELD, |world| {
        let rows = "billing_customers WHERE organization_id = $org FOR UPDATE";
        Box::pin(held(world, rows))
    }),
    Attack::new("a held key", HELD, |world| {
        Box::pin(held(
            world,
            "api_keys WHERE organization_id = $org FOR UPDATE",
        ))
    }),
    Attack::new("held sessions", HELD, |world| {
        let rows = "user_sessions WHERE for_organization_id = $org FOR UPDATE";
        Box::pin(held(world, rows))
    }),
    Attack::new("held events", "a worker takes what nobody holds", |world| {
        Box::pin(held_events(world))
    }),
    Attack::new(
        "held logins",
        "logins have connections of their own",
        |world| Box::pin(held_logins(world)),
    ),
    Attack::new(
        "held keys of idempotency",
        "idempotency takes of its organization's share",
        |world| Box::pin(held_keys(world)),
    ),
    Attack {
        sent_again: true,
        ..Attack::new(
            "terminated connections",
            "each part opens its connections again",
            |world| Box::pin(terminated(world)),
        )
    },
];

async fn connection(world: &World) -> PgConnection {
    let options = world.db.options("postgres");
    PgConnection::connect_with(&options)
        .await
        .expect("it answers")
}

/// Everything that the organization can send: usage, reads, and changes of
/// Stripe's.
pub async fn everything(world: &Arc<World>, count: usize) {
    requests(world, count, |world, number| {
        let round = number / 1_000_000;
        match number % 4 {
            0 => world.consume(1),
            1 => {
                let event = |n| {
                    json!({"id": format!("{}-{n}", Uuid::new_v4()),
                                       "metric": "llm_tokens", "quantity": 1})
                };
                let events: serde_json::Value = (0..20).map(event).collect();
                world.send("/api/billing/usage/events", &events)
            }
            2 => {
                let request = world.get("/api/billing/usage");
                request.bearer_auth(world.tenant.token(number))
            }
            _ => {
                let id = format!("evt_hostile_{}", Uuid::new_v4().simple());
                let tier = ["standard", "enterprise"][round % 2];
                let (body, signature) = world.tenant.delivery(&id, tier);
                world.deliver(body, &signature)
            }
        }
    })
    .await;
}

async fn held(world: Arc<World>, rows: &'static str) {
    let organization = format!("'{}'", world.tenant.organization);
    let sql = format!("SELECT 1 FROM {}", rows.replace("$org", &organization));
    let mut holder = connection(&world).await;
    holder.execute("BEGIN").await.unwrap();
    holder.execute(AssertSqlSafe(sql)).await.unwrap();
    world.hit();
    everything(&world, world.sizes.connections).await;
}

/// Whatever of the organization's waits is held as soon as it is there.
async fn held_events(world: Arc<World>) {
    let mut holder = connection(&world).await;
    holder.execute("BEGIN").await.unwrap();
    let holding = async {
        loop {
            holder
                .execute(
                    "SELECT 1 FROM webhook_events
                      WHERE NOT processed AND stripe_event_id LIKE 'evt_hostile_%'
                        FOR UPDATE SKIP LOCKED",
                )
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::join!(holding, everything(&world, world.sizes.connections));
}

async fn held_logins(world: Arc<World>) {
    let mut holder = connection(&world).await;
    holder
        .execute("BEGIN; LOCK TABLE login_throttles IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let logins = requests(&world, world.sizes.connections, |world, number| {
        let email = format!("somebody{}@example.com", number % 7);
        let body = json!({"email": email, "password": "wrong one"});
        world.post("/api/auth/login").json(&body)
    });
    tokio::join!(logins, everything(&world, world.sizes.connections));
}

async fn held_keys(world: Arc<World>) {
    let mut holder = connection(&world).await;
    holder
        .execute("BEGIN; LOCK TABLE request_idempotency IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let keyed = requests(&world, world.sizes.connections, |world, number| {
        let key = Uuid::new_v4().to_string();
        let request = match number % 2 {
            0 => world.consume(1),
            _ => world.send(
                "/api/agents/execute",
                &json!({"agentId": "a", "input": "b"}),
            ),
        };
        request.header("idempotency-key", key)
    });
    tokio::join!(keyed, everything(&world, world.sizes.connections));
}

/// One of the service's connections after the other, whichever it is.
async fn terminated(world: Arc<World>) {
    let mut terminating = connection(&world).await;
    let ending = async {
        loop {
            terminating
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database()
                        AND application_name = 'valuecanvas-billing'
                      ORDER BY random() LIMIT 1",
                )
                .await
                .unwrap();
            world.hit();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(ending, everything(&world, world.sizes.connections));
}
