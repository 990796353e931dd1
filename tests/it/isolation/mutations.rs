//! The probes notice when what they stand on is taken away: each policy, row
//! security itself, FORCE, and each function's search path.

use sqlx::{AssertSqlSafe, Executor as _};

use super::attempts::{PROBERS, Probe, Rig};
use super::functions::{make_shadows, shadowed};
use super::statements::all_plain;
use super::world::{Table, US, World};
use crate::database::tenants::insert;

/// Each policy: gone, or open to all.
const POLICIES: &str = "
SELECT relname::text, statement FROM (
  SELECT polrelid, format('DROP POLICY %I ON %s', polname, polrelid::regclass) FROM pg_policy
  UNION ALL
  SELECT polrelid, format('ALTER POLICY %I ON %s %s %s', polname, polrelid::regclass,
           CASE WHEN polqual IS NOT NULL THEN 'USING (true)' END,
           CASE WHEN polwithcheck IS NOT NULL THEN 'WITH CHECK (true)' END)
    FROM pg_policy WHERE NOT polroles && ARRAY['billing_owner'::regrole::oid]
  UNION ALL
  SELECT oid, format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', oid::regclass)
    FROM pg_class WHERE relrowsecurity) AS changes(relation, statement)
  JOIN pg_class c ON c.oid = relation ORDER BY 1, 2";

/// What each role may do with its own row, as far as it comes.
async fn standing(rig: &mut Rig, table: &Table) -> Vec<String> {
    let Table { name, .. } = table;
    let owner = table.owner();
    let mut found = Vec::new();
    for prober in PROBERS {
        for sql in [
            format!("SELECT FROM {name} WHERE {owner} = '{US}'"),
            insert(name, US, "more"),
            format!("UPDATE {name} SET {owner} = {owner} WHERE {owner} = '{US}'"),
            format!("DELETE FROM {name} WHERE {owner} = '{US}'"),
        ] {
            found.push(format!(
                "{prober:?} {sql}: {}",
                rig.outcome(prober, &sql).await
            ));
        }
    }
    found
}

/// What the probes of one table find.
async fn findings(world: &World, table: &Table) -> Vec<String> {
    let mut rig = Rig::new(world).await;
    let mut found = standing(&mut rig, table).await;
    for probe in all_plain(table) {
        for prober in PROBERS {
            found.extend(rig.attempt(prober, &probe).await.err());
        }
    }
    found
}

#[tokio::test]
async fn no_policy_goes_or_opens_unnoticed() {
    let world = World::new().await;
    let changes: Vec<(String, String)> = sqlx::query_as(POLICIES)
        .fetch_all(&world.db.pool)
        .await
        .unwrap();
    let mut unnoticed = Vec::new();
    let mut tried = 0;
    for table in &world.tables {
        let whole = findings(&world, table).await;
        for (_, change) in changes.iter().filter(|(name, _)| *name == table.name) {
            // The owner's are looked at by themselves.
            if change.starts_with("DROP") && change.contains("_owner ON") {
                continue;
            }
            // Undone by what made it: the probes have connections of their own.
            let undo = undo(&world, &table.name).await;
            world.db.execute(change).await;
            if findings(&world, table).await == whole {
                unnoticed.push(change.clone());
            }
            world
                .db
                .pool
                .execute(sqlx::raw_sql(AssertSqlSafe(undo)))
                .await
                .unwrap();
            tried += 1;
        }
        assert_eq!(
            findings(&world, table).await,
            whole,
            "{} is whole again",
            table.name
        );
    }
    assert!(tried >= world.tables.len() * 4, "{tried}");
    assert_eq!(unnoticed, [""; 0]);
}

/// The statements that make a table's policies what they are.
async fn undo(world: &World, table: &str) -> String {
    let policies = format!(
        "SELECT string_agg(format('DROP POLICY IF EXISTS %I ON {table}; CREATE POLICY %I ON {table} FOR %s TO %s %s %s',
                  polname, polname,
                  CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                              WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                  (SELECT string_agg(r::regrole::text, ', ') FROM unnest(polroles) r),
                  'USING (' || pg_get_expr(polqual, polrelid) || ')',
                  'WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')'), '; ')
           FROM pg_policy WHERE polrelid = '{table}'::regclass"
    );
    let policies = world.db.value(&policies).await;
    format!("{policies}; ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
}

/// Without its policy, the owner is bound like everyone, as long as row
/// security is forced.
#[tokio::test]
async fn force_binds_the_owner_and_is_missed_when_it_goes() {
    let world = World::new().await;
    for table in &world.tables {
        let name = &table.name;
        let mut seen = Vec::new();
        for change in ["", "NO FORCE"] {
            let mut tx = world.db.pool.begin().await.unwrap();
            let owners = format!(
                "DROP POLICY {name}_owner ON {name}; SET LOCAL app.current_org_id = '{US}'"
            );
            tx.execute(sqlx::raw_sql(AssertSqlSafe(owners)))
                .await
                .unwrap();
            if !change.is_empty() {
                let change = format!("ALTER TABLE {name} {change} ROW LEVEL SECURITY");
                tx.execute(AssertSqlSafe(change)).await.unwrap();
            }
            tx.execute("SET LOCAL ROLE billing_owner").await.unwrap();
            let rows = tx
                .fetch_all(AssertSqlSafe(format!("SELECT FROM {name}")))
                .await;
            seen.push(rows.unwrap().len());
        }
        assert_eq!(seen[0], 0, "{name}: forced");
        assert!(seen[1] > 0, "{name}: the probe notices that it is not");
    }
}

#[tokio::test]
async fn no_search_path_goes_unnoticed() {
    let world = World::new().await;
    make_shadows(&world).await;
    assert_eq!(shadowed(&world).await, [""; 0]);
    let functions: Vec<String> = sqlx::query_scalar(
        "SELECT p.oid::regprocedure::text FROM pg_proc p
          WHERE pronamespace IN ('public'::regnamespace, 'auth'::regnamespace)
            AND prokind = 'f' AND prorettype <> 'trigger'::regtype
            AND has_function_privilege('billing_worker', p.oid, 'EXECUTE')
            -- The names of such a body were bound when it was made.
            AND prosqlbody IS NULL
            -- It calls what it calls by its schema.
            AND proname <> 'billing_audit_next_entry_hash'",
    )
    .fetch_all(&world.db.pool)
    .await
    .unwrap();
    for function in functions {
        let reset = format!("ALTER FUNCTION {function} RESET search_path");
        world.db.execute(&reset).await;
        assert!(!shadowed(&world).await.is_empty(), "{reset}");
        world
            .db
            .execute(&format!(
                "ALTER FUNCTION {function} SET search_path = pg_catalog, pg_temp"
            ))
            .await;
    }
}

/// A probe that is none would find nothing, whatever is open.
#[tokio::test]
async fn a_probe_that_is_none_is_an_error() {
    let world = World::new().await;
    let mut rig = Rig::new(&world).await;
    for nonsense in [
        "SELEC",
        "SELECT nothing FROM organizations",
        "SELECT none()",
        "TABLE nowhere",
    ] {
        let probe = Probe::of(nonsense);
        rig.attempt(PROBERS[0], &probe).await.unwrap_err();
    }
}
