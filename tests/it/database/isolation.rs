//! One organization's work reaches no other's rows, whatever is tried.

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use valuecanvas_billing::db::{TenantTx, WorkerTx};

use super::tenants::{Outcome, attempt, column, insert, tables, two};
use crate::support::TestDatabase;

const SERVING: [&str; 2] = ["billing_app", "billing_worker"];

#[tokio::test]
async fn work_for_one_organization_reaches_no_other() {
    let db = TestDatabase::new().await;
    let [a, b] = two(&db).await;
    let mut conn = db.service().connect().await.unwrap();
    for table in tables(&db).await {
        let column = column(&table);
        let of_b = format!("WHERE {column} = '{b}'");
        let nothing = [
            format!("SELECT FROM {table} {of_b}"),
            format!("UPDATE {table} SET {column} = {column} {of_b}"),
            format!("UPDATE {table} SET {column} = '{a}' {of_b}"),
            format!("DELETE FROM {table} {of_b}"),
        ];
        let refused = [
            insert(&table, b, "2"),
            format!("UPDATE {table} SET {column} = '{b}'"),
            format!("TRUNCATE {table}"),
        ];
        for role in SERVING {
            for statement in &nothing {
                let outcome = attempt(&mut conn, role, Some(a), statement).await;
                assert!(outcome.is_nothing(), "{role}: {statement}: {outcome:?}");
            }
            for statement in &refused {
                let outcome = attempt(&mut conn, role, Some(a), statement).await;
                assert_eq!(outcome, Outcome::refused(), "{role}: {statement}");
            }
        }
        // Their own row is there all the same.
        let own = format!("SELECT FROM {table}");
        let outcome = attempt(&mut conn, "billing_worker", Some(a), &own).await;
        assert_eq!(outcome, Outcome::Rows(1), "{own}");
    }
}

#[tokio::test]
async fn without_an_organization_a_request_has_nothing_and_the_worker_everything() {
    let db = TestDatabase::new().await;
    let [a, _] = two(&db).await;
    let mut conn = db.service().connect().await.unwrap();
    for table in tables(&db).await {
        let all = format!("SELECT FROM {table}");
        let outcome = attempt(&mut conn, "billing_app", None, &all).await;
        assert!(outcome.is_nothing(), "{all}: {outcome:?}");
        let outcome = attempt(&mut conn, "billing_worker", None, &all).await;
        assert_eq!(outcome, Outcome::Rows(2), "{all}");
        let row = insert(&table, a, "2");
        let outcome = attempt(&mut conn, "billing_app", None, &row).await;
        assert_eq!(outcome, Outcome::refused(), "{row}");
    }
    let entry = format!("SELECT log_billing_action('{a}', 'x', 'user', p_resource_type => 'y')");
    let outcome = attempt(&mut conn, "billing_app", None, &entry).await;
    assert_eq!(outcome, Outcome::refused());
}

#[tokio::test]
async fn a_request_writes_no_billing_state_of_its_own_organization_either() {
    let db = TestDatabase::new().await;
    let [a, _] = two(&db).await;
    let mut conn = db.service().connect().await.unwrap();
    for table in tables(&db).await {
        let column = column(&table);
        for statement in [
            insert(&table, a, "2"),
            format!("UPDATE {table} SET {column} = {column}"),
            format!("DELETE FROM {table}"),
        ] {
            let outcome = attempt(&mut conn, "billing_app", Some(a), &statement).await;
            let expected = match table.as_str() {
                // Its audit entries are what it may append.
                "billing_audit_log" | "billing_audit_personal_data"
                    if statement.starts_with("INSERT") =>
                {
                    Outcome::Rows(1)
                }
                "billing_audit_chain_heads" if statement.starts_with("INSERT") => {
                    Outcome::Refused("23505".to_owned())
                }
                _ => Outcome::refused(),
            };
            assert_eq!(outcome, expected, "{statement}");
        }
    }
}

#[tokio::test]
async fn the_login_by_itself_may_do_nothing() {
    let db = TestDatabase::new().await;
    two(&db).await;
    let mut conn = db.service().connect().await.unwrap();
    for table in tables(&db).await {
        let all = format!("SELECT FROM {table}");
        let outcome = attempt(&mut conn, "billing_service", None, &all).await;
        assert_eq!(outcome, Outcome::refused(), "{all}");
    }
}

#[tokio::test]
async fn a_connection_keeps_nothing_of_the_transaction_before() {
    let db = TestDatabase::new().await;
    let [a, b] = two(&db).await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(db.service())
        .await
        .unwrap();
    let residue = "SELECT current_user || ' ' || coalesce(nullif(current_setting('app.current_org_id', true), ''), 'none')";

    TenantTx::begin(&pool, a)
        .await
        .unwrap()
        .commit()
        .await
        .unwrap();
    let after_commit: String = sqlx::query_scalar(residue).fetch_one(&pool).await.unwrap();
    assert_eq!(after_commit, "billing_service none");

    drop(TenantTx::begin(&pool, a).await.unwrap());
    let after_drop: String = sqlx::query_scalar(residue).fetch_one(&pool).await.unwrap();
    assert_eq!(after_drop, "billing_service none");

    let mut failing = TenantTx::begin(&pool, a).await.unwrap();
    failing.conn().execute("SELECT 1 / 0").await.unwrap_err();
    drop(failing);
    let mut next = TenantTx::begin(&pool, b).await.unwrap();
    let seen: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM organizations")
        .fetch_all(next.conn())
        .await
        .unwrap();
    assert_eq!(seen, [b]);
    next.commit().await.unwrap();

    let mut worker = WorkerTx::begin(&pool).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM organizations")
        .fetch_one(worker.conn())
        .await
        .unwrap();
    assert_eq!(seen, 2);
}

const A: &str = "00000000-0000-0000-0000-00000000000a";

/// The setting, the claims, and what the current organization is then: an
/// organization, none, or an error's SQLSTATE.
const CONTEXTS: &[(&str, &str, &str)] = &[
    ("", "", "none"),
    (A, "", A),
    (
        A,
        r#"{"org_id": "00000000-0000-0000-0000-00000000000b"}"#,
        A,
    ),
    (
        "",
        r#"{"org_id": "00000000-0000-0000-0000-00000000000a"}"#,
        A,
    ),
    (
        "",
        r#"{"organization_id": "00000000-0000-0000-0000-00000000000a"}"#,
        A,
    ),
    (
        "",
        r#"{"org_id": null, "organization_id": "00000000-0000-0000-0000-00000000000a"}"#,
        A,
    ),
    ("", r#"{"sub": "someone"}"#, "none"),
    (
        "",
        r#"{"user_metadata": {"org_id": "00000000-0000-0000-0000-00000000000a"}}"#,
        "none",
    ),
    ("", r#"["org_id"]"#, "none"),
    ("acme", "", "22P02"),
    (" ", "", "22P02"),
    ("00000000-0000-0000-0000-00000000000", "", "22P02"),
    ("' OR true --", "", "22P02"),
    ("", r#"{"org_id": "acme"}"#, "22P02"),
    ("", r#"{"org_id": 1}"#, "22P02"),
    ("", r#"{"org_id": ""}"#, "22P02"),
    ("", "not json", "22P02"),
];

#[tokio::test]
async fn the_organization_comes_from_the_setting_else_the_claims_and_must_be_readable() {
    let db = TestDatabase::new().await;
    two(&db).await;
    for (setting, claims, expected) in CONTEXTS {
        let mut tx = db.pool.begin().await.unwrap();
        sqlx::query(
            "SELECT set_config('app.current_org_id', $1, true), set_config('request.jwt.claims', $2, true)",
        )
        .bind(*setting)
        .bind(*claims)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.execute("SET LOCAL ROLE billing_app").await.unwrap();
        let seen: Result<Option<String>, _> =
            sqlx::query_scalar("SELECT string_agg(id::text, ' ') FROM organizations")
                .fetch_one(&mut *tx)
                .await;
        let seen = match seen {
            Ok(seen) => seen.unwrap_or_else(|| "none".to_owned()),
            Err(error) => error
                .as_database_error()
                .unwrap()
                .code()
                .unwrap()
                .into_owned(),
        };
        assert_eq!(seen, *expected, "{setting:?} {claims:?}");
    }
}

#[tokio::test]
async fn nobody_forges_another_organizations_audit_entry() {
    let db = TestDatabase::new().await;
    let [a, b] = two(&db).await;
    let mut conn = db.service().connect().await.unwrap();
    for role in SERVING {
        for (organization, expected) in [(a, Outcome::Rows(1)), (b, Outcome::refused())] {
            for action in ["plan_changed", "test_action"] {
                let entry = format!(
                    "SELECT log_billing_action('{organization}', '{action}', 'user', p_resource_type => 'plan')"
                );
                assert_eq!(
                    attempt(&mut conn, role, Some(a), &entry).await,
                    expected,
                    "{role}: {entry}"
                );
            }
        }
    }
}

#[tokio::test]
async fn temporary_objects_stand_in_for_nothing() {
    let db = TestDatabase::new().await;
    let [a, _] = two(&db).await;
    let mut conn = db.service().connect().await.unwrap();
    conn.execute(sqlx::raw_sql(
        "SET ROLE billing_app; SET app.current_org_id = '00000000-0000-0000-0000-00000000000a';
         CREATE TEMP TABLE billing_audit_log (LIKE public.billing_audit_log);
         CREATE TEMP TABLE billing_audit_chain_heads (LIKE public.billing_audit_chain_heads);
         CREATE TEMP TABLE billing_audit_personal_data (LIKE public.billing_audit_personal_data);
         CREATE FUNCTION pg_temp.gen_random_uuid() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid';
         CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT '2000-01-01'::timestamptz$$;
         CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT ''''::bytea';
         CREATE FUNCTION pg_temp.get_current_org_id() RETURNS uuid LANGUAGE sql AS $$SELECT '00000000-0000-0000-0000-00000000000b'::uuid$$;
         SET search_path = pg_temp, auth, public;
         SELECT public.log_billing_action('00000000-0000-0000-0000-00000000000a', 'plan_changed', 'user', p_resource_type => 'plan', p_user_agent => 'curl')",
    ))
    .await
    .unwrap();
    for shadow in ["billing_audit_log", "billing_audit_personal_data"] {
        let rows = format!("SELECT count(*) FROM pg_temp.{shadow}");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(rows))
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!(rows, 0, "{shadow}");
    }
    let logged = format!(
        "billing_audit_log WHERE organization_id = '{a}' AND action = 'plan_changed' AND created_at > '2001-01-01'"
    );
    assert_eq!(db.count(&logged).await, 1);
}

/// A function that is evaluated before the policies would see every row.
#[tokio::test]
async fn a_leaky_function_sees_no_other_organizations_rows() {
    let db = TestDatabase::new().await;
    two(&db).await;
    let mut conn = db.service().connect().await.unwrap();
    conn.execute(sqlx::raw_sql(
        "SET ROLE billing_app; SET app.current_org_id = '00000000-0000-0000-0000-00000000000a';
         CREATE FUNCTION pg_temp.leak(id uuid) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$
           BEGIN
             IF id <> '00000000-0000-0000-0000-00000000000a' THEN RAISE EXCEPTION 'leaked %', id; END IF;
             RETURN true;
           END $$",
    ))
    .await
    .unwrap();
    let seen = conn
        .fetch_all("SELECT FROM organizations WHERE pg_temp.leak(id)")
        .await
        .unwrap();
    assert_eq!(seen.len(), 1);
}
