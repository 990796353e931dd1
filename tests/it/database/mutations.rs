//! Nothing that guards tenants or the audit log can be removed unnoticed,
//! neither by the catalog's rules nor by `migrate verify`.

use sqlx::{AssertSqlSafe, Executor};
use valuecanvas_billing::migrations::verify::{Check, verify};

use super::rules::is_broken;
use crate::support::TestDatabase;

/// Each removal, as the statement that does it, from the catalog.
const REMOVALS: &str = "
SELECT statement FROM (
  SELECT format('DROP POLICY %I ON %s', polname, polrelid::regclass)
    FROM pg_policy
  UNION ALL
  SELECT format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', oid::regclass)
    FROM pg_class WHERE relforcerowsecurity
  UNION ALL
  SELECT format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', oid::regclass)
    FROM pg_class WHERE relrowsecurity
  UNION ALL
  SELECT format('ALTER FUNCTION %s RESET search_path', oid::regprocedure)
    FROM pg_proc WHERE pronamespace IN ('public'::regnamespace, 'auth'::regnamespace)
                   AND prokind = 'f'
                   -- The names of such a body were bound when it was made.
                   AND prosqlbody IS NULL
  UNION ALL
  SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass)
    FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL
  SELECT format('ALTER TABLE %s DISABLE TRIGGER %I', tgrelid::regclass, tgname)
    FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL
  SELECT format('ALTER VIEW %s RESET (security_invoker)', oid::regclass)
    FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace
) AS removals(statement)";

#[tokio::test]
async fn no_removal_goes_unnoticed() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let mut tx = db.pool.begin().await.unwrap();
    let removals: Vec<String> = sqlx::query_scalar(REMOVALS)
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    // 19 tables with row-level security, all forced; most with three policies.
    assert!(removals.len() > 19 * 4, "{removals:#?}");

    let mut unnoticed = Vec::new();
    for removal in &removals {
        tx.execute("SAVEPOINT whole").await.unwrap();
        tx.execute(AssertSqlSafe(removal.clone())).await.unwrap();
        if !is_broken(&mut tx).await {
            unnoticed.push(format!("by the rules: {removal}"));
        }
        if verify(&mut tx)
            .await
            .unwrap()
            .iter()
            .all(|check: &Check| check.ok)
        {
            unnoticed.push(format!("by `migrate verify`: {removal}"));
        }
        tx.execute("ROLLBACK TO whole").await.unwrap();
    }
    assert_eq!(unnoticed, [""; 0]);
}
