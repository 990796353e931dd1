//! `enable_tenancy()`, the one form of row-level security: what it makes of a new table, and
//! that the tables of tenants' data are what it would make of them.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use valuecanvas_billing::migrations::verify::TENANT_TABLES;

use super::rules::violations;
use crate::support::TestDatabase;

/// What the service may do to a table, and by which policies, a line for each.
async fn protection(conn: &mut PgConnection, table: &str) -> BTreeSet<String> {
    let lines: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s for %s to %s using %s check %s', policyname, cmd, roles, qual, with_check)
           FROM pg_policies WHERE schemaname = 'public' AND tablename = $1
         UNION ALL
         SELECT format('%s may %s', grantee::regrole, privilege_type)
           FROM pg_class, aclexplode(relacl)
          WHERE oid = to_regclass('public.' || quote_ident($1)) AND grantee <> relowner
         UNION ALL
         SELECT format('row security %s, forced %s', relrowsecurity, relforcerowsecurity)
           FROM pg_class WHERE oid = to_regclass('public.' || quote_ident($1))",
    )
    .bind(table)
    .fetch_all(conn)
    .await
    .unwrap();
    lines.into_iter().collect()
}

/// The calls for tables as they are: what billing_worker may do, and whether billing_app reads;
/// and a statement that takes away all that protects a table.
const CALLS: &str = "
SELECT relname::text,
       format('SELECT enable_tenancy(%L, %L, %L)', oid::regclass,
              (SELECT string_agg(privilege_type, ', ' ORDER BY privilege_type) FROM aclexplode(relacl)
                WHERE grantee = 'billing_worker'::regrole),
              has_table_privilege('billing_app', oid, 'SELECT')),
       format('ALTER TABLE %1$s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY; '
              'REVOKE ALL ON %1$s FROM billing_worker, billing_app; %2$s', oid::regclass,
              (SELECT string_agg(format('DROP POLICY %I ON %s', polname, polrelid::regclass), '; ')
                 FROM pg_policy WHERE polrelid = c.oid))
  FROM pg_class c
 WHERE relnamespace = 'public'::regnamespace AND relname = ANY ($1)
 ORDER BY relname";

/// What these have beside it: requests append their audit entries. May only shrink.
const BEYOND: &[(&str, &[&str])] = &[
    (
        "billing_audit_chain_heads",
        &[
            "billing_app may INSERT",
            "billing_app may UPDATE",
            "billing_audit_chain_heads_app for ALL to {billing_app} \
             using (organization_id = auth.get_current_org_id()) \
             check (organization_id = auth.get_current_org_id())",
        ],
    ),
    (
        "billing_audit_log",
        &[
            "billing_app may INSERT",
            "billing_audit_log_append for INSERT to {billing_app} using  \
             check (organization_id = auth.get_current_org_id())",
        ],
    ),
    (
        "billing_audit_personal_data",
        &[
            "billing_app may INSERT",
            "billing_audit_personal_data_append for INSERT to {billing_app} using  \
             check (organization_id = auth.get_current_org_id())",
        ],
    ),
];

#[tokio::test]
async fn every_table_of_tenants_is_what_it_makes() {
    let db = TestDatabase::new().await;
    let mut tx = db.pool.begin().await.unwrap();
    // The one table whose rows are the organizations themselves has another column.
    let tables = TENANT_TABLES.iter().map(|(table, _)| *table);
    let tables: Vec<&str> = tables.filter(|table| *table != "organizations").collect();
    let calls: Vec<(String, String, String)> = sqlx::query_as(CALLS)
        .bind(&tables)
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    assert_eq!(calls.len(), tables.len());
    let mut beyond: Vec<(String, Vec<String>)> = Vec::new();
    for (table, call, unprotect) in calls {
        let found = protection(&mut tx, &table).await;
        tx.execute("SET LOCAL ROLE billing_owner").await.unwrap();
        tx.execute(sqlx::raw_sql(AssertSqlSafe(unprotect)))
            .await
            .unwrap();
        tx.execute(AssertSqlSafe(call.clone()))
            .await
            .unwrap_or_else(|error| panic!("{call}: {error}"));
        tx.execute("RESET ROLE").await.unwrap();
        let made = protection(&mut tx, &table).await;
        let mut lacking: Vec<&String> = made.difference(&found).collect();
        // One policy of its own is for reading as well as for appending.
        lacking.retain(|line| !line.starts_with("billing_audit_chain_heads_select "));
        assert!(lacking.is_empty(), "{table} lacks {lacking:#?}");
        let more: Vec<String> = found.difference(&made).cloned().collect();
        if !more.is_empty() {
            beyond.push((table, more));
        }
    }
    let known: Vec<(String, Vec<String>)> = BEYOND
        .iter()
        .map(|(table, more)| {
            let more = more.iter().map(|line| (*line).to_owned()).collect();
            ((*table).to_owned(), more)
        })
        .collect();
    assert_eq!(beyond, known, "call enable_tenancy() in the migration");
}

const COUPONS: &str = "
SET LOCAL ROLE billing_owner;
CREATE TABLE coupons (organization_id uuid NOT NULL, code text, PRIMARY KEY (organization_id, code))";

#[tokio::test]
async fn one_call_closes_a_new_table() {
    let db = TestDatabase::new().await;
    let mut tx = db.pool.begin().await.unwrap();
    tx.execute(COUPONS).await.unwrap();
    assert_ne!(violations(&mut tx).await, [""; 0]);
    for more in ["true", "false", "true"] {
        let call = format!("SELECT enable_tenancy('coupons', 'SELECT, INSERT', {more})");
        tx.execute(AssertSqlSafe(call)).await.unwrap();
        assert_eq!(violations(&mut tx).await, [""; 0]);
        let reads = protection(&mut tx, "coupons").await;
        let reads = reads.contains("billing_app may SELECT");
        assert_eq!(reads.to_string(), more, "it leaves what it is told");
    }

    let seen_by = "SELECT string_agg(code, ' ' ORDER BY code) FROM coupons";
    let (us, them) = (
        "'00000000-0000-7000-8000-000000000001'",
        "'00000000-0000-7000-8000-000000000002'",
    );
    let fill = format!("INSERT INTO coupons VALUES ({us}, 'ours'), ({them}, 'theirs')");
    for (role, organization, seen) in [
        ("billing_worker", "''", Some("ours theirs")),
        ("billing_worker", us, Some("ours")),
        ("billing_app", us, Some("ours")),
        ("billing_app", "''", None),
    ] {
        if role == "billing_worker" && organization == "''" {
            tx.execute("SET LOCAL ROLE billing_worker").await.unwrap();
            tx.execute(AssertSqlSafe(fill.clone())).await.unwrap();
        }
        let opening =
            format!("SET LOCAL ROLE {role}; SET LOCAL app.current_org_id = {organization}");
        tx.execute(sqlx::raw_sql(AssertSqlSafe(opening)))
            .await
            .unwrap();
        let found: Option<String> = sqlx::query_scalar(seen_by)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(found.as_deref(), seen, "{role} {organization}");
    }
}

#[tokio::test]
async fn what_it_cannot_do_it_refuses_in_words() {
    let db = TestDatabase::new().await;
    for (call, said) in [
        (
            "enable_tenancy('coupons', 'SELECT; DROP TABLE users')",
            "expected rights of billing_worker such as 'SELECT, INSERT', got 'SELECT; DROP TABLE users'",
        ),
        (
            "enable_tenancy('coupons', 'TRUNCATE')",
            "expected rights of billing_worker such as 'SELECT, INSERT', got 'TRUNCATE'",
        ),
        (
            "enable_tenancy('coupons', NULL)",
            "expected rights of billing_worker such as 'SELECT, INSERT', got null",
        ),
        (
            "enable_tenancy('users', 'SELECT')",
            "users has no column \"organization_id uuid\"",
        ),
    ] {
        let mut tx = db.pool.begin().await.unwrap();
        tx.execute(COUPONS).await.unwrap();
        let refused = tx.execute(AssertSqlSafe(format!("SELECT {call}"))).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(said), "{call}: {refused}");
    }
    for role in ["billing_app", "billing_worker"] {
        let mut tx = db.pool.begin().await.unwrap();
        let opening = format!("SET LOCAL ROLE {role}");
        tx.execute(AssertSqlSafe(opening)).await.unwrap();
        let call = "SELECT enable_tenancy('usage_events', 'SELECT')";
        let refused = tx.execute(call).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{role}: {refused}");
    }
}
