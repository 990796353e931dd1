//! Connections: what they set for themselves, and that none comes back to the
//! pool with a transaction that is open or failed.

use std::task::Poll;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Executor as _, Row as _};
use uuid::Uuid;
use valuecanvas_billing::db::{self, RequestTx, TenantTx, WorkerTx};

use crate::support::TestDatabase;
use crate::support::dice::Dice;

/// A login of this test's own, which may not become anything yet.
async fn login(db: &TestDatabase) -> String {
    let name = format!("login_{}", db.name);
    db.execute(&format!("CREATE ROLE {name} LOGIN NOINHERIT"))
        .await;
    name
}

async fn shown(conn: &mut PgConnection, setting: &'static str) -> String {
    let row = conn
        .fetch_one(sqlx::query("SELECT current_setting($1)").bind(setting))
        .await
        .unwrap();
    row.get(0)
}

/// The pool's one connection serves whoever comes next.
async fn serves(pool: &PgPool) {
    let mut tx = WorkerTx::begin(pool).await.unwrap();
    assert_eq!(shown(tx.conn(), "transaction_read_only").await, "off");
    assert_eq!(shown(tx.conn(), "role").await, "billing_worker");
    assert_eq!(shown(tx.conn(), "app.current_org_id").await, "");
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_could_not_be_opened_is_in_nobodys_way() {
    let db = TestDatabase::new().await;
    let name = login(&db).await;
    let pool = db::pool(db.options(&name), 1);
    let organization = Uuid::now_v7();
    for _ in 0..3 {
        assert!(WorkerTx::begin(&pool).await.is_err());
        assert!(WorkerTx::begin_claim(&pool).await.is_err());
        assert!(TenantTx::begin(&pool, organization).await.is_err());
        let refused = RequestTx::begin(&pool, organization).await.err().unwrap();
        // It may heal, and is nothing that the caller did.
        assert!(db::is_outage(&refused), "{refused}");
    }
    db.execute(&format!("GRANT billing_app, billing_worker TO {name}"))
        .await;
    serves(&pool).await;
    db.execute(&format!("REVOKE billing_app, billing_worker FROM {name}"))
        .await;
    assert!(WorkerTx::begin(&pool).await.is_err());
    db.execute(&format!("GRANT billing_app, billing_worker TO {name}"))
        .await;
    serves(&pool).await;
    pool.close().await;
    db.execute(&format!("DROP ROLE {name}")).await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_while_it_opens_is_in_nobodys_way() {
    let db = TestDatabase::new().await;
    let pool = db::pool(db.service(), 1);
    serves(&pool).await;
    let organization = Uuid::now_v7();
    let mut dice = Dice::new(11);
    let mut dropped = 0;
    for _ in 0..400 {
        let (times, kind) = (dice.below(4), dice.below(3));
        // The server's answer may be on its way when nobody waits for it any
        // longer, or there and unread.
        let pause = Duration::from_micros(u64::try_from(dice.below(400)).unwrap());
        let opening = async {
            match kind {
                0 => RequestTx::begin(&pool, organization).await.map(drop),
                1 => TenantTx::begin(&pool, organization).await.map(drop),
                _ => WorkerTx::begin(&pool).await.map(drop),
            }
        };
        if !polled(opening, times, pause).await {
            dropped += 1;
        }
        if dice.one_in(4) {
            serves(&pool).await;
        }
    }
    serves(&pool).await;
    assert!(dropped > 0);
}

/// Polls a future so many times, once for each point at which it waits, and
/// drops it after a pause.
async fn polled(
    future: impl Future<Output = Result<(), sqlx::Error>>,
    times: usize,
    pause: Duration,
) -> bool {
    let mut future = Box::pin(future);
    let mut left = times;
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(worked) => {
            worked.expect("nothing stands in its way");
            Poll::Ready(true)
        }
        Poll::Pending if left == 0 => {
            std::thread::sleep(pause);
            Poll::Ready(false)
        }
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// One transaction of each kind, from its beginning to its end.
async fn work(pool: &PgPool, kind: usize, organization: Uuid) -> Result<(), sqlx::Error> {
    const LOOK: &str = "SELECT count(*) FROM organizations";
    match kind {
        0 => {
            let mut tx = RequestTx::begin(pool, organization).await?;
            tx.conn().execute(LOOK).await?;
        }
        1 => {
            let mut tx = TenantTx::begin(pool, organization).await?;
            tx.conn().execute(LOOK).await?;
            tx.commit().await?;
        }
        2 => {
            let mut tx = WorkerTx::begin(pool).await?;
            tx.conn().execute(LOOK).await?;
            tx.commit().await?;
        }
        3 => {
            let mut tx = WorkerTx::begin_impatient(pool, "50ms").await?;
            tx.conn().execute(LOOK).await?;
            tx.rollback().await?;
        }
        _ => {
            let mut tx = WorkerTx::begin_claim(pool).await?;
            tx.conn().execute(LOOK).await?;
            tx.conn().execute("SELECT 1 / 0").await.unwrap_err();
        }
    }
    Ok(())
}

/// What a connection is between two users.
async fn is_nobodys(pool: &PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    // Not prepared: the statement's transaction begins with it.
    let row = conn
        .fetch_one(
            "SELECT now() = statement_timestamp(), current_setting('role'),
                    coalesce(current_setting('app.current_org_id', true), ''),
                    current_setting('transaction_read_only'), current_setting('lock_timeout'),
                    current_setting('enable_seqscan')",
        )
        .await
        .unwrap();
    assert!(row.get::<bool, _>(0), "a transaction is open");
    let settings: Vec<String> = (1..6).map(|n| row.get(n)).collect();
    assert_eq!(settings, ["none", "", "off", "10s", "on"]);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_wherever_it_waits_is_in_nobodys_way() {
    let rounds = std::env::var("VCB_DROPS").map_or(3, |rounds| rounds.parse().unwrap());
    let db = TestDatabase::new().await;
    let pool = db::pool(db.service(), 2);
    let organization = Uuid::now_v7();
    let mut dropped = 0;
    for _ in 0..rounds {
        for kind in 0..5 {
            for times in 0..12 {
                if !polled(work(&pool, kind, organization), times, Duration::ZERO).await {
                    dropped += 1;
                }
                is_nobodys(&pool).await;
            }
        }
        // Two at once, so that both connections are looked at.
        let (one, other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        drop((one, other));
        tokio::join!(is_nobodys(&pool), is_nobodys(&pool));
    }
    assert!(dropped > 0);
}

#[tokio::test]
async fn every_connection_says_its_own_isolation_and_limits() {
    let db = TestDatabase::new().await;
    for default in [
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = '1s'",
        "lock_timeout = '1s'",
        "idle_session_timeout = '10min'",
        "idle_in_transaction_session_timeout = '1s'",
    ] {
        db.execute(&format!("ALTER DATABASE {} SET {default}", db.name))
            .await;
    }
    let pools = [
        db::pool(db.service(), 1),
        db::worker_pool(db.service(), 1),
        db::lookup_pool(db.service(), 1),
    ];
    for pool in pools {
        let mut conn = pool.acquire().await.unwrap();
        for (setting, value) in [
            ("transaction_isolation", "read committed"),
            ("statement_timeout", "30s"),
            ("lock_timeout", "10s"),
            ("idle_session_timeout", "0"),
            ("idle_in_transaction_session_timeout", "1min"),
        ] {
            assert_eq!(shown(&mut conn, setting).await, value, "{setting}");
        }
    }
    let mut alone = db::connect(&db.service()).await.unwrap();
    let isolation = shown(&mut alone, "transaction_isolation").await;
    assert_eq!(isolation, "read committed");
}

#[tokio::test]
async fn a_session_that_stayed_read_only_is_left_for_one_that_writes() {
    let db = TestDatabase::new().await;
    let read_only = |on: &str| {
        format!(
            "ALTER DATABASE {} SET default_transaction_read_only = {on}",
            db.name
        )
    };
    db.execute(&read_only("on")).await;
    let pool = db::pool(db.service(), 1);
    let mut tx = WorkerTx::begin(&pool).await.unwrap();
    assert_eq!(shown(tx.conn(), "transaction_read_only").await, "on");
    tx.rollback().await.unwrap();
    // Reading goes on where writing cannot.
    RequestTx::begin(&pool, Uuid::now_v7()).await.unwrap();

    let mut admin = db.pool.acquire().await.unwrap();
    admin
        .execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    let writable = read_only("off");
    admin.execute(sqlx::AssertSqlSafe(writable)).await.unwrap();
    for _ in 0..100 {
        let mut tx = WorkerTx::begin(&pool).await.unwrap();
        if shown(tx.conn(), "transaction_read_only").await == "off" {
            return;
        }
        drop(tx);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the session stays read-only");
}
