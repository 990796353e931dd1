//! Queries of backup and restore.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

/// Begins a transaction with a snapshot, and returns the snapshot's name for
/// pg_dump.
pub async fn freeze(conn: &mut PgConnection) -> Result<String, sqlx::Error> {
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .await?;
    sqlx::query_scalar("SELECT pg_export_snapshot()")
        .fetch_one(conn)
        .await
}

/// The number of rows of every table.
pub async fn counts(conn: &mut PgConnection) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT quote_ident(relname) FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname",
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut counts = BTreeMap::new();
    for table in tables {
        // The name comes from the catalog, quoted.
        let sql = format!("SELECT count(*) FROM public.{table}");
        let count = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut *conn)
            .await?;
        counts.insert(table, count);
    }
    Ok(counts)
}

/// The number of tables in the database.
pub async fn tables(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%'
            AND n.nspname <> 'information_schema'",
    )
    .fetch_one(conn)
    .await
}

/// The names of the database's schemas.
pub async fn schemas(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT nspname::text FROM pg_namespace")
        .fetch_all(conn)
        .await
}

/// Creates the roles that a backup's grants name: roles belong to the cluster and are
/// in no backup.
pub async fn make_roles(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    conn.execute(
        "DO $$
         DECLARE
           role_name text;
         BEGIN
           FOREACH role_name IN ARRAY ARRAY['billing_owner', 'billing_app', 'billing_worker'] LOOP
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
               EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
             END IF;
           END LOOP;
           IF NOT pg_has_role(current_user, 'billing_owner', 'MEMBER') THEN
             EXECUTE format('GRANT billing_owner TO %I', current_user);
           END IF;
           EXECUTE format('GRANT CREATE ON DATABASE %I TO billing_owner', current_database());
           GRANT CREATE, USAGE ON SCHEMA public TO billing_owner;
           GRANT USAGE ON SCHEMA public TO billing_app, billing_worker;
         END
         $$",
    )
    .await?;
    Ok(())
}

/// How many numbers of events an organization's stream skips after a restore.
const SKIPPED: i64 = 1_000_000;

/// Continues the numbering of events above the numbers given out since the backup: a
/// consumer that saw those ignores any state with a lower number.
pub async fn skip_sequences(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = format!(
        "DO $$
         BEGIN
           IF to_regclass('public.outbound_streams') IS NOT NULL THEN
             PERFORM set_config('role', 'billing_owner', true);
             INSERT INTO public.outbound_streams AS stream (organization_id, last_sequence)
             SELECT id, {SKIPPED} FROM public.organizations
             ON CONFLICT (organization_id)
               DO UPDATE SET last_sequence = stream.last_sequence + {SKIPPED};
           END IF;
         END
         $$"
    );
    conn.execute(AssertSqlSafe(sql)).await?;
    Ok(())
}
