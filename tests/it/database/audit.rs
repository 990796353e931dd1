//! The audit log: append-only for everyone, and one chain for each
//! organization, whoever writes at once.

use serde_json::json;
use sqlx::{ConnectOptions, Executor};
use uuid::Uuid;
use valuecanvas_billing::audit::{Report, verify};
use valuecanvas_billing::db::TenantTx;

use super::tenants::{Outcome, attempt};
use crate::support::TestDatabase;

const ORGANIZATION: Uuid = Uuid::from_u128(0xa);

/// A log with one entry in the chain, and one test entry outside of it.
async fn with_entries() -> TestDatabase {
    let db = TestDatabase::new().await;
    for action in ["plan_changed", "test_action"] {
        db.execute(&format!(
            "SELECT log_billing_action('{ORGANIZATION}', '{action}', 'user', p_resource_type => 'plan')"
        ))
        .await;
    }
    db
}

async fn report(db: &TestDatabase) -> Report {
    let mut tx = db.pool.begin().await.unwrap();
    verify(&mut tx, None).await.unwrap()
}

#[tokio::test]
async fn nobody_changes_or_removes_an_entry() {
    let db = with_entries().await;
    let mut conn = db.options("postgres").connect().await.unwrap();
    for role in ["postgres", "billing_owner", "billing_app", "billing_worker"] {
        for statement in [
            "UPDATE billing_audit_log SET action = 'other'",
            "UPDATE billing_audit_log SET action = action WHERE action = 'test_action'",
            "UPDATE billing_audit_log SET action = 'test_action', sequence = NULL, hash = NULL",
            "DELETE FROM billing_audit_log",
            "DELETE FROM billing_audit_log WHERE action = 'plan_changed'",
            "TRUNCATE billing_audit_log",
            "INSERT INTO billing_audit_log SELECT * FROM billing_audit_log
               ON CONFLICT (organization_id, id) DO UPDATE SET action = 'other'",
            "UPDATE billing_audit_chain_heads SET last_sequence = 0",
            "UPDATE billing_audit_chain_heads SET last_hash = sha256('')",
            "DELETE FROM billing_audit_chain_heads",
            "TRUNCATE billing_audit_chain_heads",
        ] {
            let outcome = attempt(&mut conn, role, Some(ORGANIZATION), statement).await;
            assert_eq!(outcome, Outcome::refused(), "{role}: {statement}");
        }
    }
    assert_eq!(db.count("billing_audit_log").await, 2);
}

#[tokio::test]
async fn only_the_owner_deletes_test_entries() {
    let db = with_entries().await;
    let mut conn = db.options("postgres").connect().await.unwrap();
    let delete = "DELETE FROM billing_audit_log WHERE action = 'test_action'";
    for (role, expected) in [
        ("postgres", Outcome::Rows(1)),
        ("billing_owner", Outcome::Rows(1)),
        ("billing_app", Outcome::refused()),
        ("billing_worker", Outcome::refused()),
    ] {
        let outcome = attempt(&mut conn, role, Some(ORGANIZATION), delete).await;
        assert_eq!(outcome, expected, "{role}");
    }
}

#[tokio::test]
async fn the_log_outlives_its_organization() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let entry = format!(
        "SELECT log_billing_action('{organization}', 'organization_closed', 'user', p_resource_type => 'organization')"
    );
    db.execute(&entry).await;
    let entries = db.count("billing_audit_log").await;
    db.execute("SET ROLE billing_owner; DELETE FROM organizations; RESET ROLE")
        .await;
    assert_eq!(db.count("organizations").await, 0);
    assert_eq!(db.count("billing_audit_log").await, entries);
    // Even then it can be continued.
    db.execute(&entry).await;
    let report = report(&db).await;
    assert_eq!(report.breaks, []);
    assert_eq!(report.entries, u64::try_from(entries).unwrap() + 1);
}

#[tokio::test]
async fn concurrent_writers_make_one_chain_for_each_organization() {
    const WRITERS: u32 = 8;
    const ENTRIES: u32 = 12;
    let db = TestDatabase::new().await;
    let organizations = [Uuid::from_u128(0xa), Uuid::from_u128(0xb)];
    let pool = db.service_pool();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for entry in 0..ENTRIES {
                    let organization = organizations[((writer + entry) % 2) as usize];
                    let mut tx = TenantTx::begin(&pool, organization).await.unwrap();
                    sqlx::query("SELECT log_billing_action($1, 'x', 'system', p_resource_type => 'y', p_metadata => $2)")
                        .bind(organization)
                        .bind(json!({"writer": writer, "entry": entry}))
                        .execute(tx.conn())
                        .await
                        .unwrap();
                    // What is rolled back leaves no gap.
                    if entry % 4 != 3 {
                        tx.commit().await.unwrap();
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let written = i64::from(WRITERS * (ENTRIES - ENTRIES / 4));
    assert_eq!(db.count("billing_audit_log").await, written);
    let report = report(&db).await;
    assert_eq!((report.chains, report.breaks), (2, vec![]));
    let disorder = "(SELECT created_at < lag(created_at) OVER (PARTITION BY organization_id ORDER BY sequence) AS earlier
                       FROM billing_audit_log) t WHERE earlier";
    assert_eq!(db.count(disorder).await, 0);
}

/// Resource id, user agent, address, and states that are hard to print alike.
const ODD_VALUES: &[[Option<&str>; 4]] = &[
    [None, None, None, None],
    [Some(""), Some(""), None, Some("null")],
    [Some("-"), Some("1:a"), Some("10.0.0.1"), Some("{}")],
    [
        Some("'quoted' \"twice\" \\ % $1 {}"),
        Some("\t\r\n"),
        Some("10.0.0.0/8"),
        Some("[]"),
    ],
    [
        Some("日本語 🧾 e\u{301} é \u{202e}"),
        Some("\u{7f}\u{1}"),
        Some("::1"),
        Some(r#""\u00e9\ud83e\uddfe""#),
    ],
    [Some("7:1:2-3"), None, Some("::ffff:10.0.0.1"), Some("1.10")],
    [None, Some("x"), Some("2001:db8::/32"), Some("-0.0")],
    [
        None,
        None,
        None,
        Some("123456789012345678901234567890.000000000001"),
    ],
    [None, None, None, Some("1e300")],
    [
        None,
        None,
        None,
        Some(r#"{"b": 1, "a": [1.0, 1e2, true, null], "b": 2, "": {"é": "\"\\\u0001"}}"#),
    ],
];

#[tokio::test]
async fn the_database_and_the_program_hash_alike() {
    let db = TestDatabase::new().await;
    for settings in [
        "SET timezone = 'UTC'",
        "SET timezone = 'Asia/Kathmandu'; SET datestyle = 'SQL, DMY'; SET extra_float_digits = -3;
         SET bytea_output = 'escape'; SET intervalstyle = 'sql_standard'; SET quote_all_identifiers = on",
    ] {
        let mut conn = db.options("postgres").connect().await.unwrap();
        conn.execute(sqlx::raw_sql(settings)).await.unwrap();
        for [resource_id, user_agent, address, state] in ODD_VALUES {
            sqlx::query(
                "SELECT log_billing_action($1, 'x', 'api_key', $1, 'y', $2, $3::jsonb, $3::jsonb, $3::jsonb, $4::inet, $5)",
            )
            .bind(ORGANIZATION)
            .bind(resource_id)
            .bind(state)
            .bind(address)
            .bind(user_agent)
            .execute(&mut conn)
            .await
            .unwrap();
        }
        // Read with the same settings as written, and with the default ones.
        let walked = verify(&mut conn, None).await.unwrap();
        assert_eq!((walked.breaks, report(&db).await.breaks), (vec![], vec![]));
    }
    assert_eq!(
        db.count("billing_audit_log").await,
        2 * i64::try_from(ODD_VALUES.len()).unwrap()
    );
}

#[tokio::test]
async fn moments_hash_alike_to_the_microsecond() {
    let db = TestDatabase::new().await;
    // The function is the table's own, so it is given rows that it would make.
    for moment in [
        "1970-01-01 00:00:00Z",
        "1969-12-31 23:59:59.999999Z",
        "2026-02-28 23:59:60Z",
        "2026-10-25 02:30:00.000001+01",
        "9999-12-31 23:59:59.999999Z",
    ] {
        let mut tx = db.pool.begin().await.unwrap();
        sqlx::query(
            "WITH hashed AS (
               SELECT $2::timestamptz AS created_at,
                      billing_audit_entry_hash(sha256(''), $1, $1, 1, 'x', 'user', NULL, 'y', NULL, NULL,
                                               NULL, NULL, NULL, NULL, $2::timestamptz) AS hash),
             head AS (INSERT INTO billing_audit_chain_heads SELECT $1, 1, hash FROM hashed)
             INSERT INTO billing_audit_log (organization_id, id, sequence, action, actor_type, resource_type, created_at, hash)
               SELECT $1, $1, 1, 'x', 'user', 'y', created_at, hash FROM hashed",
        )
        .bind(ORGANIZATION)
        .bind(moment)
        .execute(&mut *tx)
        .await
        .unwrap_or_else(|e| panic!("{moment}: {e}"));
        let report = verify(&mut tx, None).await.unwrap();
        assert_eq!((report.entries, report.breaks), (1, vec![]), "{moment}");
    }
}
