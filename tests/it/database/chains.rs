//! Those who serve cannot stop an audit chain, and the owner mends one.

mod repairs;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use uuid::Uuid;
use valuecanvas_billing::audit::{self, Actor, NewEntry, verify};
use valuecanvas_billing::db::{TenantTx, WorkerTx, WriteTx};

use super::tenants::{Outcome, attempt};
use crate::support::TestDatabase;
use crate::support::program::{Ran, program_on, run};

const ORGANIZATION: Uuid = Uuid::from_u128(0xa);
const OTHER: Uuid = Uuid::from_u128(0xb);

/// Two chains of three entries.
async fn with_chains() -> TestDatabase {
    let db = TestDatabase::new().await;
    for organization in [ORGANIZATION, OTHER] {
        db.execute(&format!(
            "SELECT log_billing_action('{organization}', 'plan_changed', 'user', p_resource_type => 'plan')
               FROM generate_series(1, 3)"
        ))
        .await;
    }
    db
}

fn entry(organization_id: Uuid, n: usize) -> NewEntry {
    NewEntry {
        organization_id,
        action: "plan_changed",
        actor: Actor::System,
        resource_type: "plan",
        resource_id: n.to_string(),
        before: None,
        after: None,
        metadata: json!({}),
        client: None,
        reason: None,
    }
}

/// Appends as the service does: one entry for a tenant, and several of both
/// organizations at once, waiting for their chains or not.
async fn append(db: &TestDatabase) -> Result<(), sqlx::Error> {
    let pool = db.service_pool();
    let mut tx = TenantTx::begin(&pool, ORGANIZATION).await?;
    audit::record_one(&mut tx, entry(ORGANIZATION, 0)).await?;
    tx.commit().await?;
    let entries: Vec<NewEntry> = (0..8)
        .map(|n| entry([ORGANIZATION, OTHER][n % 2], n))
        .collect();
    let mut tx = WorkerTx::begin(&pool).await?;
    let (locked, free) = audit::lock_free_chains(tx.conn(), &[ORGANIZATION, OTHER]).await?;
    assert_eq!(free.len(), 2);
    audit::record(&mut tx, &locked, &entries).await?;
    tx.commit().await?;
    let function = "SELECT log_billing_action($1, 'x', 'system', p_resource_type => 'y')";
    let mut tx = TenantTx::begin(&pool, ORGANIZATION).await?;
    sqlx::query(function)
        .bind(ORGANIZATION)
        .execute(tx.conn())
        .await?;
    tx.commit().await
}

/// Metrics are counted this way: what is not committed must not be counted.
#[tokio::test]
async fn what_follows_a_commit_is_done_once_it_has_succeeded() {
    let db = with_chains().await;
    let pool = db.service_pool();
    let done = Arc::new(AtomicUsize::new(0));
    let count_in = |tx: &mut WorkerTx| {
        let done = done.clone();
        tx.after_commit(move || {
            done.fetch_add(1, Ordering::SeqCst);
        });
    };
    let mut rolled_back = WorkerTx::begin(&pool).await.unwrap();
    count_in(&mut rolled_back);
    rolled_back.rollback().await.unwrap();
    let mut dropped = WorkerTx::begin(&pool).await.unwrap();
    count_in(&mut dropped);
    drop(dropped);
    assert_eq!(done.load(Ordering::SeqCst), 0);
    let mut committed = WorkerTx::begin(&pool).await.unwrap();
    count_in(&mut committed);
    count_in(&mut committed);
    committed.commit().await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 2);
}

async fn breaks(db: &TestDatabase) -> Vec<(Uuid, String)> {
    let mut tx = db.pool.begin().await.unwrap();
    let report = verify(&mut tx, None).await.unwrap();
    let breaks = report.breaks.into_iter();
    breaks.map(|b| (b.organization_id, b.problem)).collect()
}

/// An entry made by hand, at `sequence`.
fn raw(sequence: &str, hash: &str) -> String {
    format!(
        "INSERT INTO billing_audit_log (organization_id, sequence, action, actor_type, resource_type, created_at, hash)
         VALUES ('{ORGANIZATION}', {sequence}, 'forged', 'system', 'plan', now(), {hash})"
    )
}

#[tokio::test]
async fn a_request_appends_by_the_function_only() {
    let db = with_chains().await;
    let mut conn = db.service().connect().await.unwrap();
    let heads = "billing_audit_chain_heads";
    for statement in [
        format!("UPDATE {heads} SET last_sequence = 9223372036854775807"),
        format!("UPDATE {heads} SET last_sequence = last_sequence + 1"),
        format!("UPDATE {heads} SET last_sequence = last_sequence + 1, last_hash = sha256('x')"),
        format!("UPDATE {heads} SET last_hash = sha256('x')"),
        format!("UPDATE {heads} SET last_sequence = 1"),
        format!("UPDATE {heads} SET organization_id = gen_random_uuid(), last_sequence = last_sequence + 1"),
        format!("INSERT INTO {heads} SELECT organization_id, 9, last_hash FROM {heads} ON CONFLICT DO NOTHING"),
        format!("DELETE FROM {heads}"),
        raw("4", "sha256('x')"),
        raw("5", "sha256('x')"),
        raw("9223372036854775807", "sha256('x')"),
        raw("3", "sha256('x')"),
        // As one that copies the last.
        "INSERT INTO billing_audit_log SELECT organization_id, gen_random_uuid(), 4, action, actor_type, actor_id,
           resource_type, resource_id, before_state, after_state, metadata, ip_address, user_agent, created_at, hash
           FROM billing_audit_log WHERE sequence = 3"
            .to_owned(),
        // Both at once, as the service writes them.
        format!(
            "WITH forged AS ({} RETURNING hash)
             UPDATE {heads} SET last_sequence = 4, last_hash = forged.hash FROM forged",
            raw("4", "sha256('x')")
        ),
        // Only the owner says that a chain was repaired.
        format!("SELECT log_billing_action('{ORGANIZATION}', 'audit_chain_repaired', 'system', p_resource_type => 'y')"),
    ] {
        let outcome = attempt(&mut conn, "billing_app", Some(ORGANIZATION), &statement).await;
        assert_eq!(outcome, Outcome::refused(), "{statement}");
    }
    let function =
        format!("SELECT log_billing_action('{ORGANIZATION}', 'x', 'user', p_resource_type => 'y')");
    for role in ["billing_app", "billing_worker", "billing_owner"] {
        let mut conn = db.options("postgres").connect().await.unwrap();
        let outcome = attempt(&mut conn, role, Some(ORGANIZATION), &function).await;
        assert_eq!(outcome, Outcome::Rows(1), "{role}");
    }
    append(&db).await.unwrap();
    assert_eq!(breaks(&db).await, []);
}

/// A login that has the privileges of the roles without becoming one.
#[tokio::test]
async fn a_login_that_inherits_is_bound_as_well() {
    let db = with_chains().await;
    let mut tx = db.pool.begin().await.unwrap();
    tx.execute(sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE ROLE inheriting_{0} LOGIN INHERIT; GRANT billing_app, billing_worker TO inheriting_{0};
         SET LOCAL ROLE inheriting_{0}; SET LOCAL app.current_org_id = '{ORGANIZATION}'",
        db.name
    ))))
    .await
    .unwrap();
    for statement in [
        "UPDATE billing_audit_chain_heads SET last_sequence = 9223372036854775807".to_owned(),
        raw("4", "sha256('x')"),
    ] {
        tx.execute("SAVEPOINT before").await.unwrap();
        let refused = tx.execute(AssertSqlSafe(statement.clone())).await;
        let error = refused.expect_err(&statement);
        let code = error.as_database_error().unwrap().code().unwrap();
        assert_eq!(code, "42501", "{statement}");
        tx.execute("ROLLBACK TO before").await.unwrap();
    }
    tx.rollback().await.unwrap();
}

fn repair(db: &TestDatabase, more: &[&str]) -> Ran {
    let organization = ORGANIZATION.to_string();
    let arguments = ["audit", "repair", "--organization", &organization];
    let reason: &[&str] = match more.contains(&"--reason") {
        true => &[],
        false => &["--reason", "a test"],
    };
    run(&mut program_on(
        db,
        &[&arguments[..], more, reason].concat(),
    ))
}

/// What the service's own role may write beside a chain is found, and does not
/// stop it.
#[tokio::test]
async fn nothing_that_the_worker_writes_stops_a_chain() {
    let head = |more: &str| {
        format!(
            "UPDATE billing_audit_chain_heads SET {more} WHERE organization_id = '{ORGANIZATION}'"
        )
    };
    for role_statement in [
        raw("4", "sha256('x')"),
        raw("4", "''"),
        raw("6", "sha256('x')"),
        raw("100003", "sha256('x')"),
        raw("100004", "sha256('x')"),
        raw("9223372036854775807", "sha256('x')"),
        format!(
            "{}; {}",
            raw("4", "sha256('x')"),
            raw("9223372036854775807", "sha256('y')")
        ),
        head("last_sequence = last_sequence + 1"),
        head("last_sequence = last_sequence + 100000, last_hash = ''"),
    ] {
        let db = with_chains().await;
        let mut tx = WorkerTx::begin(&db.service_pool()).await.unwrap();
        tx.conn()
            .execute(sqlx::raw_sql(AssertSqlSafe(role_statement.clone())))
            .await
            .unwrap_or_else(|e| panic!("{role_statement}: {e}"));
        tx.commit().await.unwrap();
        for _ in 0..2 {
            append(&db)
                .await
                .unwrap_or_else(|e| panic!("{role_statement}: {e}"));
        }
        let found = breaks(&db).await;
        assert_eq!(found.len(), 1, "{role_statement}: {found:?}");
        assert_eq!(found[0].0, ORGANIZATION, "{role_statement}");
        assert_eq!(repair(&db, &[]).status, 0, "{role_statement}");
        append(&db).await.unwrap();
        assert_eq!(breaks(&db).await, [], "{role_statement}");
    }
    let db = with_chains().await;
    let mut conn = db.service().connect().await.unwrap();
    for statement in [
        head("last_sequence = 9223372036854775807"),
        head("last_sequence = last_sequence + 100001"),
        head("last_sequence = 2"),
        format!(
            "INSERT INTO billing_audit_chain_heads VALUES ('{}', 9223372036854775807, '')",
            Uuid::from_u128(0xc)
        ),
        raw("4", "sha256('x')").replace("'forged'", "'audit_chain_repaired'"),
    ] {
        let outcome = attempt(&mut conn, "billing_worker", None, &statement).await;
        assert_eq!(outcome, Outcome::refused(), "{statement}");
    }
}

#[tokio::test]
async fn those_who_serve_make_no_large_objects() {
    let db = TestDatabase::new().await;
    let mut conn = db.service().connect().await.unwrap();
    for role in ["billing_app", "billing_worker", "billing_service"] {
        for make in [
            "SELECT lo_create(0)",
            "SELECT lo_creat(-1)",
            "SELECT lo_from_bytea(0, 'x')",
        ] {
            let outcome = attempt(&mut conn, role, None, make).await;
            assert_eq!(outcome, Outcome::refused(), "{role}: {make}");
        }
    }
    // As on a server whose host lets nobody take that away.
    db.execute("GRANT EXECUTE ON FUNCTION lo_create(oid) TO PUBLIC")
        .await;
    let doctor = run(&mut program_on(&db, &["doctor"]));
    assert!(
        doctor.stdout.contains("WARNING large objects"),
        "{}",
        doctor.stdout
    );
    let verified = run(&mut program_on(&db, &["migrate", "verify"]));
    assert!(
        verified
            .stdout
            .contains("WRONG large objects may be created"),
        "{}",
        verified.stdout
    );
}
