//! Functions, called with a search path and with objects of the caller's own
//! in the place of those they use.

use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::attempts::{PROBERS, Probe, Rig};
use super::world::{THEM, US, World};

/// A schema of the attacker's, should there ever be one: what our functions
/// call is there under the same names, and complains when it is called.
const EVIL: &str = r#"
CREATE SCHEMA evil;
CREATE FUNCTION evil.caught() RETURNS void LANGUAGE plpgsql AS
  $$BEGIN RAISE EXCEPTION 'a function of the caller was called' USING ERRCODE = 'SHADO'; END$$;
DO $$
DECLARE called record;
BEGIN
  FOR called IN
    SELECT DISTINCT p.proname, pg_get_function_identity_arguments(p.oid) AS arguments,
           format_type(p.prorettype, NULL) AS result
      FROM pg_proc p
      JOIN pg_proc ours ON ours.pronamespace IN ('public'::regnamespace, 'auth'::regnamespace)
     WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0
       AND ours.prosrc ~ ('\m' || p.proname || '\(')
       AND format_type(p.prorettype, NULL) NOT LIKE 'any%'
       AND pg_get_function_identity_arguments(p.oid) !~ 'any|internal|OUT|cstring'
  LOOP
    EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS
                    $f$BEGIN PERFORM evil.caught(); END$f$', called.proname, called.arguments, called.result);
  END LOOP;
END $$;
CREATE TABLE evil.billing_audit_log (LIKE public.billing_audit_log);
CREATE TABLE evil.billing_audit_chain_heads (LIKE public.billing_audit_chain_heads);
GRANT USAGE ON SCHEMA evil TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evil TO PUBLIC"#;

/// Our functions that may be called, with arguments for them.
const CALLS: &str = "
SELECT p.oid::regprocedure::text,
       format('%s(%s)', p.oid::regproc,
              coalesce(string_agg(CASE format_type(a.type, NULL)
                WHEN 'uuid' THEN '''{org}''::uuid'
                WHEN 'bigint' THEN '1::bigint'
                WHEN 'bytea' THEN '''x''::bytea'
                WHEN 'timestamp with time zone' THEN 'now()'
                WHEN 'text' THEN CASE names.name WHEN 'p_actor_type' THEN '''user''' ELSE '''x''' END
                ELSE 'NULL' END, ', ' ORDER BY a.place)
                FILTER (WHERE a.type IS NOT NULL), ''))
  FROM pg_proc p
  LEFT JOIN LATERAL unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(type, place) ON true
  LEFT JOIN LATERAL (SELECT p.proargnames[a.place] AS name) names ON true
 WHERE p.pronamespace IN ('public'::regnamespace, 'auth'::regnamespace)
   AND p.prorettype <> 'trigger'::regtype
   AND has_function_privilege('billing_worker', p.oid, 'EXECUTE')
 GROUP BY p.oid ORDER BY 1";

/// Calls of our functions for `organization`; what they answer is text.
async fn calls(world: &World, organization: uuid::Uuid) -> Vec<String> {
    let rows = sqlx::query(CALLS).fetch_all(&world.db.pool).await.unwrap();
    assert!(rows.len() >= 3, "the functions are found");
    rows.iter()
        .map(|row| {
            row.get::<String, _>(1)
                .replace("{org}", &organization.to_string())
        })
        .map(|call| format!("SELECT ({call})::text"))
        .collect()
}

#[tokio::test]
async fn nobody_puts_functions_or_tables_of_his_own_in_their_place() {
    let world = World::new().await;
    make_shadows(&world).await;
    assert_eq!(shadowed(&world).await, [""; 0]);
}

pub async fn make_shadows(world: &World) {
    world.db.pool.execute(sqlx::raw_sql(EVIL)).await.unwrap();
}

/// What a caller's search path changes, where the attacker has a schema.
pub async fn shadowed(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for call in calls(world, US).await {
        let mut tx = world.db.pool.begin().await.unwrap();
        let opening = format!(
            "SET LOCAL ROLE billing_worker; SET LOCAL app.current_org_id = '{US}';
             SET LOCAL search_path = evil, pg_catalog, public"
        );
        tx.execute(sqlx::raw_sql(AssertSqlSafe(opening)))
            .await
            .unwrap();
        let called = tx.execute(AssertSqlSafe(call.clone())).await;
        if let Err(error) = called {
            found.push(format!("{call}: {error}"));
        }
    }
    found
}

/// Temporary objects come before all others, for tables.
#[tokio::test]
async fn functions_neither_tell_nor_change_anything_of_theirs() {
    let world = World::new().await;
    let mut rig = Rig::new(&world).await;
    let names: Vec<&str> = world.tables.iter().map(|table| &*table.name).collect();
    let shadows: String = names
        .iter()
        .map(|name| format!("CREATE TEMP TABLE {name} AS SELECT * FROM public.{name}"))
        .map(|statement| format!("EXECUTE $s${statement}$s$; "))
        .collect();
    let wholly = format!(
        "DO $do$ BEGIN {shadows} EXECUTE 'SET LOCAL search_path = pg_temp, public, auth'; END $do$"
    );
    for organization in [THEM, US] {
        for call in calls(&world, organization).await {
            for prober in PROBERS {
                let probe = Probe::of(call.clone());
                // The hash of what one says oneself is no secret.
                if call.contains("entry_hash") || call.contains("get_current_org_id") {
                    continue;
                }
                rig.attempt(prober, &probe).await.unwrap();
            }
        }
    }
    // To copy a table to shadow it, one must read it.
    for prober in PROBERS {
        rig.attempt(prober, &Probe::of(wholly.clone()))
            .await
            .unwrap();
    }
}

/// Those that run as their owner would be a way around the policies.
#[tokio::test]
async fn no_function_runs_as_somebody_else() {
    let world = World::new().await;
    let definers = "pg_proc WHERE prosecdef AND pronamespace IN ('public'::regnamespace, 'auth'::regnamespace)";
    assert_eq!(world.db.count(definers).await, 0);
}
