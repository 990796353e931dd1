//! Whether each organization's rows are its own: row-level security, and what
//! the roles may do.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::{CLOSED_TABLES, Check, RERUN, TENANT_TABLES, check};

/// What a role may do to the table $1, but no policy lets it do to any row.
const UNCOVERED_PRIVILEGES: &str = "
SELECT string_agg(lower(privilege_type) || ' by ' || grantee::regrole, ', ' ORDER BY grantee, privilege_type)
  FROM pg_class c, aclexplode(coalesce(relacl, acldefault('r', relowner)))
 WHERE c.oid = to_regclass('public.' || quote_ident($1))
   AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
   AND grantee::regrole::text IN ('billing_owner', 'billing_app', 'billing_worker')
   AND NOT EXISTS (
     SELECT FROM pg_policy p
      WHERE polrelid = c.oid AND polpermissive AND polroles && ARRAY[grantee, 0::oid]
        AND polcmd IN ('*', CASE privilege_type WHEN 'SELECT' THEN 'r' WHEN 'INSERT' THEN 'a'
                                                WHEN 'UPDATE' THEN 'w' ELSE 'd' END))";

/// The policies of the table $1 that let those who serve past the current
/// organization. Everyone's policies, as the guide's repair makes one, are held
/// to what binds a request.
const OPEN_POLICIES: &str = "
WITH here(is_org, is_unset) AS (
  SELECT format('(%s = auth.get_current_org_id())',
                CASE $1 WHEN 'organizations' THEN 'id' ELSE 'organization_id' END),
         '(auth.get_current_org_id() IS NULL)')
SELECT string_agg(DISTINCT polname, ', ')
  FROM here, pg_policy, unnest(polroles) AS role,
       unnest(ARRAY[pg_get_expr(polqual, polrelid),
                    coalesce(pg_get_expr(polwithcheck, polrelid),
                             CASE WHEN polqual IS NULL THEN 'true' END)]) AS expression
 WHERE polrelid = to_regclass('public.' || quote_ident($1)) AND polpermissive
   AND (role = 0 OR role::regrole::text IN ('billing_app', 'billing_worker'))
   AND expression <> is_org
   AND NOT (role::regrole::text = 'billing_worker'
            AND expression IN (is_unset, format('(%s OR %s)', is_unset, is_org)))";

pub(super) async fn row_level_security(
    conn: &mut PgConnection,
    checks: &mut Vec<Check>,
) -> Result<(), sqlx::Error> {
    let tables = TENANT_TABLES
        .iter()
        .map(|(table, read)| {
            (
                *table,
                if *read {
                    &["owner", "app", "worker"][..]
                } else {
                    &["owner", "worker"]
                },
            )
        })
        .chain(
            CLOSED_TABLES
                .iter()
                .map(|table| (*table, &["owner", "worker"][..])),
        );
    for (table, roles) in tables {
        let row = sqlx::query(
            "SELECT c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner)::text AS owner,
                    ARRAY(SELECT role::text FROM pg_policies p, unnest(p.roles) role
                           WHERE p.schemaname = 'public' AND p.tablename = c.relname) AS roles
               FROM pg_class c WHERE c.oid = to_regclass('public.' || quote_ident($1))",
        )
        .bind(table)
        .fetch_one(&mut *conn)
        .await?;
        let uncovered: Option<String> = sqlx::query_scalar(UNCOVERED_PRIVILEGES)
            .bind(table)
            .fetch_one(&mut *conn)
            .await?;
        let open: Option<String> = sqlx::query_scalar(OPEN_POLICIES)
            .bind(table)
            .fetch_one(&mut *conn)
            .await?;
        let enabled: bool = row.try_get("relrowsecurity")?;
        let forced: bool = row.try_get("relforcerowsecurity")?;
        let owner: String = row.try_get("owner")?;
        let policies: Vec<String> = row.try_get("roles")?;
        let problem = if !enabled {
            Some(format!(
                "is off: ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
            ))
        } else if !forced {
            Some(format!(
                "does not bind the owner: ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
            ))
        } else if owner != "billing_owner" {
            Some(format!(
                "is the table's of {owner}: ALTER TABLE {table} OWNER TO billing_owner"
            ))
        } else {
            // A policy for everyone counts for each role, as the guide's repair makes it.
            let has = |role: &&&str| {
                policies
                    .iter()
                    .any(|p| *p == format!("billing_{role}") || p == "public")
            };
            let missing: Vec<&&str> = roles.iter().filter(|role| !has(role)).collect();
            if !missing.is_empty() {
                let names: Vec<String> = missing
                    .iter()
                    .map(|role| format!("billing_{role}"))
                    .collect();
                Some(format!("has no policy for {}: {RERUN}", names.join(", ")))
            } else if let Some(uncovered) = uncovered {
                Some(format!("has no policy for {uncovered}: {RERUN}"))
            } else {
                open.map(|open| {
                    format!("lets through other organizations' rows, by the policy {open}: {RERUN}")
                })
            }
        };
        check(checks, format!("row-level security of {table}"), problem);
    }
    Ok(())
}

/// What those who serve need of the table $1, and what they may not have.
const PRIVILEGES: &str = "
SELECT has_table_privilege('billing_app', t, 'SELECT') AS app_reads,
       has_table_privilege('billing_worker', t, 'SELECT') AS worker_reads,
       has_table_privilege('billing_app', t, 'DELETE, TRUNCATE')
         OR $1 <> 'billing_audit_chain_heads' AND has_any_column_privilege('billing_app', t, 'UPDATE')
         OR $1 NOT IN ('billing_audit_log', 'billing_audit_chain_heads')
            AND has_any_column_privilege('billing_app', t, 'INSERT') AS app_changes
  FROM to_regclass('public.' || quote_ident($1)) AS t";

pub(super) async fn privileges(
    conn: &mut PgConnection,
    checks: &mut Vec<Check>,
) -> Result<(), sqlx::Error> {
    for (table, app_reads) in TENANT_TABLES {
        let row = sqlx::query(PRIVILEGES)
            .bind(*table)
            .fetch_one(&mut *conn)
            .await?;
        let problem = if *app_reads && !row.try_get("app_reads")? {
            Some(format!("may not be read by billing_app: {RERUN}"))
        } else if !row.try_get::<bool, _>("worker_reads")? {
            Some(format!("may not be read by billing_worker: {RERUN}"))
        } else if row.try_get("app_changes")? {
            Some(format!(
                "may be changed by billing_app: REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON {table} FROM billing_app"
            ))
        } else {
            None
        };
        check(
            checks,
            format!("privileges on {table}:"),
            problem.map(|p| format!("it {p}")),
        );
    }
    Ok(())
}
