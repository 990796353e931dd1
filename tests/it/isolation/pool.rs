//! What one organization's work leaves on a connection that another's gets
//! next: settings, statements that were prepared, and what was left open.

use sqlx::Executor as _;
use sqlx::postgres::{PgPool, PgPoolOptions};
use uuid::Uuid;
use valuecanvas_billing::db::{RequestTx, TenantTx, WorkerTx};

use super::probes;
use super::world::{THEM, US, World};
use crate::support::dice::Dice;

/// Leaves a transaction in some way. Errors are the point.
async fn leave(dice: &mut Dice, pool: &PgPool, organization: Uuid) {
    let ways = [
        "SELECT 1 / 0",
        "SAVEPOINT here",
        "SET LOCAL search_path = pg_temp",
        "SET LOCAL statement_timeout = '1h'",
        "SELECT set_config('app.current_org_id', '', true)",
        "DECLARE left_open CURSOR FOR SELECT * FROM organizations",
        "SELECT id FROM organizations FOR SHARE",
    ];
    let way = ways[dice.below(ways.len())];
    match dice.below(3) {
        0 => {
            let mut tx = RequestTx::begin(pool, organization).await.unwrap();
            let _ = tx.conn().execute(way).await;
        }
        1 => {
            let mut tx = TenantTx::begin(pool, organization).await.unwrap();
            let _ = tx.conn().execute(way).await;
            if dice.one_in(2) {
                let _ = tx.commit().await;
            }
        }
        _ => {
            // Cut off in the middle, as when a client goes away.
            let mut tx = TenantTx::begin(pool, organization).await.unwrap();
            let cut = tx.conn().execute("SELECT pg_sleep(0.001)");
            let _ = tokio::time::timeout(std::time::Duration::from_micros(100), cut).await;
        }
    }
}

const SEEN: &str = "SELECT id FROM organizations ORDER BY id";

#[tokio::test]
async fn a_connection_carries_nothing_from_one_organization_to_the_next() {
    let world = World::new().await;
    let options = world.db.service();
    // Plans that are made once for all, so that none may be of one
    // organization.
    let options = options.options([("plan_cache_mode", "force_generic_plan")]);
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect_with(options).await.unwrap();
    let mut dice = Dice::new(7);
    for n in 0..probes() / 10 {
        let [before, next] = [dice.pick(&[US, THEM]), dice.pick(&[US, THEM])];
        leave(&mut dice, &pool, before).await;
        let seen: Vec<Uuid> = match dice.below(4) {
            0 => {
                let mut tx = RequestTx::begin(&pool, next).await.unwrap();
                sqlx::query_scalar(SEEN).fetch_all(tx.conn()).await.unwrap()
            }
            1 => {
                let mut tx = TenantTx::begin(&pool, next).await.unwrap();
                sqlx::query_scalar(SEEN).fetch_all(tx.conn()).await.unwrap()
            }
            2 => {
                let mut tx = WorkerTx::begin(&pool).await.unwrap();
                let all: Vec<Uuid> = sqlx::query_scalar(SEEN).fetch_all(tx.conn()).await.unwrap();
                assert_eq!(all, [US, THEM], "{n}: work for all is not one's");
                continue;
            }
            _ => {
                // Outside of every transaction the login has nothing.
                sqlx::query(SEEN).fetch_all(&pool).await.unwrap_err();
                continue;
            }
        };
        assert_eq!(seen, [next], "{n}: after {before}");
    }
}
