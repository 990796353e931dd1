//! `migrate verify` says what is wrong with a database, in words.

use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use valuecanvas_billing::migrations::columns::{Present, added, present};
use valuecanvas_billing::migrations::verify::verify;

use crate::support::TestDatabase;
use crate::support::database::migration_files;
use crate::support::program::{program_on, run};

/// What somebody did, and what is said of it.
const DAMAGES: &[(&str, &str)] = &[
    ("DROP TABLE grace_periods", "table grace_periods is missing"),
    ("DROP TABLE webhook_dead_letter_queue CASCADE", "table webhook_dead_letter_queue is missing"),
    ("ALTER TABLE webhook_events DROP COLUMN retry_count, DROP COLUMN next_retry_at",
     "table webhook_events lacks retry_count, next_retry_at"),
    ("ALTER TABLE webhook_events DROP COLUMN traceparent",
     "table webhook_events lacks traceparent: run supabase/migrations/20260102091200_trace_context.sql again"),
    ("ALTER TABLE webhook_events DROP COLUMN outcome, DROP COLUMN lease_id",
     "table webhook_events lacks outcome: ALTER TABLE webhook_events ADD COLUMN, as CREATE TABLE in \
      supabase/migrations/20260101090300_webhook_events.sql has it; it lacks lease_id: run \
      supabase/migrations/20260101093000_webhook_retry.sql again"),
    ("DROP TABLE webhook_events",
     "table webhook_events is missing: run supabase/migrations/20260101090300_webhook_events.sql, then \
      supabase/migrations/20260101093000_webhook_retry.sql, then \
      supabase/migrations/20260102091200_trace_context.sql, then \
      supabase/migrations/20260103020000_webhook_sources.sql, then supabase/migrations/20260113010000_retention.sql again"),
    ("ALTER TABLE billing_subscriptions DROP COLUMN ask_again_since",
     "table billing_subscriptions lacks ask_again_since: run \
      supabase/migrations/20260102091100_subscription_previews.sql again"),
    ("ALTER TABLE billing_schema_migrations DROP COLUMN checksum CASCADE",
     "table billing_schema_migrations lacks checksum"),
    ("DELETE FROM billing_schema_migrations WHERE version = '20260101092000'",
     "migration 20260101092000_grace_periods is not applied: run `migrate up`"),
    ("UPDATE billing_schema_migrations SET checksum = 'x' WHERE version = '20260101092000'",
     "migration 20260101092000_grace_periods was applied from another version"),
    ("DROP TABLE billing_schema_migrations CASCADE", "migration 20260101090000_billing_roles is not applied"),
    ("ALTER ROLE billing_app LOGIN", "role billing_app may log in: ALTER ROLE billing_app NOLOGIN"),
    ("ALTER ROLE billing_worker BYPASSRLS", "role billing_worker escapes row-level security"),
    ("ALTER TABLE grace_periods DISABLE ROW LEVEL SECURITY",
     "row-level security of grace_periods is off: ALTER TABLE grace_periods ENABLE ROW LEVEL SECURITY"),
    ("ALTER TABLE grace_periods NO FORCE ROW LEVEL SECURITY",
     "row-level security of grace_periods does not bind the owner"),
    ("ALTER TABLE grace_periods OWNER TO postgres", "row-level security of grace_periods is on a table owned by postgres"),
    ("DROP POLICY grace_periods_worker ON grace_periods",
     "row-level security of grace_periods has no policy for billing_worker"),
    ("DROP POLICY billing_audit_log_append ON billing_audit_log",
     "row-level security of billing_audit_log has no policy for insert by billing_app"),
    ("ALTER POLICY grace_periods_select ON grace_periods USING (true)",
     "exposes other organizations' rows by the policy grace_periods_select"),
    ("CREATE POLICY everyone ON grace_periods USING (true)",
     "exposes other organizations' rows by the policy everyone"),
    ("CREATE POLICY careless ON grace_periods FOR INSERT TO billing_worker",
     "exposes other organizations' rows by the policy careless"),
    ("REVOKE SELECT ON grace_periods FROM billing_app", "privileges on grace_periods are wrong: it may not be read by billing_app"),
    ("REVOKE ALL ON billing_invoices FROM billing_worker", "privileges on billing_invoices are wrong: it may not be read by billing_worker"),
    ("REVOKE INSERT, UPDATE ON usage_totals FROM billing_worker",
     "rights of billing_app and billing_worker are incomplete; as the owner, run: GRANT INSERT, UPDATE ON usage_totals TO billing_worker"),
    ("REVOKE USAGE ON SCHEMA auth FROM billing_app", "GRANT USAGE ON SCHEMA auth TO billing_app"),
    ("GRANT UPDATE ON billing_invoices TO billing_app", "privileges on billing_invoices are wrong: it may be changed by billing_app"),
    ("DROP FUNCTION log_billing_action", "function public.log_billing_action is missing"),
    ("CREATE FUNCTION log_billing_action(text) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
     "function public.log_billing_action is missing, or there are several"),
    ("ALTER FUNCTION log_billing_action SECURITY DEFINER", "function public.log_billing_action runs as its owner"),
    ("ALTER FUNCTION log_billing_action RESET search_path",
     "function public.log_billing_action takes its search_path from the caller"),
    ("CREATE OR REPLACE FUNCTION auth.get_current_org_id() RETURNS uuid LANGUAGE sql STABLE
        AS 'SELECT current_setting(''app.current_org_id'')::uuid'",
     "function auth.get_current_org_id takes its search_path from the caller"),
    ("GRANT EXECUTE ON FUNCTION log_billing_action TO PUBLIC",
     "function public.log_billing_action may be called by everyone"),
    ("REVOKE EXECUTE ON FUNCTION log_billing_action FROM billing_worker",
     "function public.log_billing_action may not be called by billing_worker"),
    ("DROP VIEW _prisma_migrations", "view _prisma_migrations is missing"),
    ("DROP VIEW effective_usage_quotas CASCADE", "view effective_usage_quotas is missing"),
    ("ALTER VIEW effective_usage_quotas RESET (security_invoker)", "view effective_usage_quotas reads as its owner"),
    ("DROP TRIGGER billing_audit_log_append_only ON billing_audit_log", "trigger billing_audit_log_append_only is missing"),
    ("ALTER TABLE billing_audit_log DISABLE TRIGGER ALL", "trigger billing_audit_log_append_only is disabled"),
    ("CREATE OR REPLACE FUNCTION billing_audit_log_refuse_change() RETURNS trigger LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN coalesce(NEW, OLD); END'",
     "log_billing_action round trip entries can be changed"),
    ("CREATE OR REPLACE FUNCTION billing_audit_log_refuse_change() RETURNS trigger LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $$BEGIN RAISE EXCEPTION 'no'; END$$",
     "log_billing_action round trip fails"),
    ("ALTER TABLE billing_audit_log DROP COLUMN user_agent", "log_billing_action round trip fails"),
];

#[tokio::test]
async fn each_damage_is_named() {
    let db = TestDatabase::new().await;
    let mut tx = db.pool.begin().await.unwrap();
    for (damage, said) in DAMAGES {
        tx.execute("SAVEPOINT whole").await.unwrap();
        tx.execute(sqlx::raw_sql(AssertSqlSafe(*damage)))
            .await
            .unwrap_or_else(|e| panic!("{damage}: {e}"));
        let problems = problems(&mut tx).await;
        assert!(
            problems.iter().any(|problem| problem.contains(said)),
            "{damage}\nshould be: {said}\nis: {problems:#?}"
        );
        tx.execute("ROLLBACK TO whole").await.unwrap();
    }
}

async fn run_file(conn: &mut PgConnection, path: &Path) {
    let sql = std::fs::read_to_string(path).unwrap();
    conn.execute(sqlx::raw_sql(AssertSqlSafe(sql)))
        .await
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn sorted<'a>(columns: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> Vec<String> {
    let mut lines: Vec<String> = columns
        .into_iter()
        .map(|(migration, table, column)| format!("{migration}: {table}.{column}"))
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn every_column_is_recorded_with_the_migration_that_makes_it() {
    let db = TestDatabase::empty().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let mut before = Present::new();
    let mut made = Vec::new();
    for path in migration_files() {
        run_file(&mut conn, &path).await;
        let migration = path.file_stem().unwrap().to_str().unwrap();
        let after = present(&mut conn).await.unwrap();
        for (table, columns) in &after {
            let old = before.get(table).map_or(&[][..], Vec::as_slice);
            let new = columns.iter().filter(|column| !old.contains(column));
            made.extend(new.map(|column| (migration.to_owned(), table.clone(), column.clone())));
        }
        before = after;
    }
    let recorded = added().flat_map(|(migration, tables)| {
        tables.iter().flat_map(|(table, columns)| {
            columns
                .split(' ')
                .map(|column| (*migration, *table, column))
        })
    });
    let made = made
        .iter()
        .map(|(m, t, c)| (m.as_str(), t.as_str(), c.as_str()));
    assert_eq!(
        sorted(recorded),
        sorted(made),
        "left is src/migrations/columns/added.rs"
    );
}

/// The problems that there are.
async fn problems(conn: &mut PgConnection) -> Vec<String> {
    let checks = verify(conn).await.unwrap().into_iter();
    checks
        .filter_map(|check| Some(format!("{} {}", check.name, check.problem?)))
        .collect()
}

/// The files that a message says to run again, in its order.
fn files_named(problem: &str) -> Vec<&Path> {
    let words = problem.split([' ', ',']);
    words
        .filter(|word| word.starts_with("supabase/"))
        .map(Path::new)
        .collect()
}

/// As one who follows the guide's rollback too far, and forgets a file.
#[tokio::test]
async fn the_files_it_names_mend_a_table_that_was_dropped() {
    let db = TestDatabase::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    conn.execute("DROP TABLE webhook_events").await.unwrap();
    let missing = problems(&mut conn).await;
    let files = files_named(&missing[0]);
    assert_eq!((missing.len(), files.len()), (1, 5), "{missing:#?}");
    for path in &files[..4] {
        run_file(&mut conn, path).await;
    }
    let forgotten = problems(&mut conn).await;
    assert_eq!(forgotten.len(), 1, "{forgotten:#?}");
    assert_eq!(files_named(&forgotten[0]), files[4..]);
    run_file(&mut conn, files[4]).await;
    assert_eq!(problems(&mut conn).await, [""; 0]);
}

#[tokio::test]
async fn the_exit_status_says_whether_all_is_well() {
    let db = TestDatabase::new().await;
    let sound = run(&mut program_on(&db, &["migrate", "verify"]));
    assert_eq!(sound.status, 0, "{}", sound.stdout);
    assert!(sound.stdout.contains("checks hold"), "{}", sound.stdout);
    assert_eq!(db.count("billing_audit_log").await, 0);
    assert_eq!(db.count("billing_audit_chain_heads").await, 0);

    db.execute("ALTER TABLE grace_periods NO FORCE ROW LEVEL SECURITY")
        .await;
    let damaged = run(&mut program_on(&db, &["migrate", "verify"]));
    assert_eq!(damaged.status, 1);
    assert!(
        damaged
            .stdout
            .contains("WRONG row-level security of grace_periods does not bind the owner"),
        "{}",
        damaged.stdout
    );
    let damaged = run(&mut program_on(&db, &["migrate", "verify", "--json"]));
    assert_eq!(damaged.status, 1);
    let wrong = damaged
        .json()
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .count();
    assert_eq!(wrong, 1);
}

#[tokio::test]
async fn an_empty_database_is_not_well() {
    let db = TestDatabase::empty().await;
    let empty = run(&mut program_on(&db, &["migrate", "verify"]));
    assert_eq!(empty.status, 1, "{}", empty.stderr);
    assert!(
        empty
            .stdout
            .contains("20260101090000_billing_roles is not applied: run `migrate up`")
    );
}
