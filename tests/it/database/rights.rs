//! The rights that readiness looks for are those that the migrations grant.

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;
use valuecanvas_billing::db::rights::{FUNCTIONS, TABLES};

use crate::support::TestDatabase;

async fn granted(db: &TestDatabase, sql: &str) -> BTreeSet<String> {
    let rows = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
    let rows: Vec<String> = rows.fetch_all(&db.pool).await.unwrap();
    rows.into_iter().collect()
}

#[tokio::test]
async fn every_right_that_the_migrations_grant_is_looked_for() {
    let db = TestDatabase::new().await;
    let of_tables = granted(
        &db,
        "SELECT format('%s %s %s%s', grantee::regrole, privilege_type,
                       CASE relnamespace WHEN 'public'::regnamespace THEN ''
                                         ELSE relnamespace::regnamespace || '.' END, relname)
           FROM pg_class, aclexplode(relacl)
          WHERE relnamespace IN ('public'::regnamespace, 'reporting'::regnamespace) AND relkind IN ('r', 'p', 'v') AND NOT relispartition
            AND grantee::regrole::text IN ('billing_app', 'billing_worker')",
    )
    .await;
    let mut known = BTreeSet::new();
    for (table, worker, app) in TABLES {
        for (role, rights) in [("billing_worker", worker), ("billing_app", app)] {
            known.extend(rights.iter().map(|right| format!("{role} {right} {table}")));
        }
    }
    assert_eq!(of_tables, known);

    // What fires by itself needs no right.
    let of_functions = granted(
        &db,
        "SELECT format('%s %s.%s', grantee::regrole, pronamespace::regnamespace, proname)
           FROM pg_proc, aclexplode(proacl)
          WHERE pronamespace IN ('public'::regnamespace, 'auth'::regnamespace)
            AND prorettype <> 'trigger'::regtype
            AND grantee::regrole::text IN ('billing_app', 'billing_worker')",
    )
    .await;
    let known = FUNCTIONS.iter().flat_map(|function| {
        ["billing_app", "billing_worker"].map(|role| format!("{role} {function}"))
    });
    assert_eq!(of_functions, known.collect::<BTreeSet<String>>());
    let columns = granted(
        &db,
        "SELECT format('%s.%s', attrelid::regclass, attname)
           FROM pg_attribute JOIN pg_class c ON c.oid = attrelid, aclexplode(attacl)
          WHERE relnamespace = 'public'::regnamespace",
    )
    .await;
    assert_eq!(
        columns,
        BTreeSet::new(),
        "rights of columns are not looked for"
    );
}
