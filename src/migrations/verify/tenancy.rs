//! Isolation of organizations: row-level security, and the rights of the roles.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::{CLOSED_TABLES, Check, RERUN, TENANT_TABLES, check};

/// What a role may do to the table $1 without any policy for it.
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

/// The policies of the table $1 that let the service's roles see beyond the current
/// organization. Policies for everyone, such as the deployment guide's repair
/// creates, are held to what applies to requests.
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
    let of_tenants = TENANT_TABLES.iter().map(|(table, read)| (*table, *read));
    let closed = CLOSED_TABLES.iter().map(|table| (*table, false));
    for (table, app_reads) in of_tenants.chain(closed) {
        let roles = match app_reads {
            true => &["owner", "app", "worker"][..],
            false => &["owner", "worker"],
        };
        let problem = problem(conn, table, roles).await?;
        check(checks, format!("row-level security of {table}"), problem);
    }
    Ok(())
}

/// What is wrong with the row-level security of `table`, which needs a policy for
/// each of `roles`.
async fn problem(
    conn: &mut PgConnection,
    table: &str,
    roles: &[&str],
) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner)::text AS owner,
                ARRAY(SELECT role::text FROM pg_policies p, unnest(p.roles) role
                       WHERE p.schemaname = 'public' AND p.tablename = c.relname) AS roles
           FROM pg_class c WHERE c.oid = to_regclass('public.' || quote_ident($1))",
    )
    .bind(table)
    .fetch_one(&mut *conn)
    .await?;
    let owner: String = row.try_get("owner")?;
    if !row.try_get::<bool, _>("relrowsecurity")? {
        return Ok(Some(format!(
            "is off: ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
        )));
    }
    if !row.try_get::<bool, _>("relforcerowsecurity")? {
        return Ok(Some(format!(
            "does not bind the owner: ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
        )));
    }
    if owner != "billing_owner" {
        return Ok(Some(format!(
            "is on a table owned by {owner}: ALTER TABLE {table} OWNER TO billing_owner"
        )));
    }
    let policies: Vec<String> = row.try_get("roles")?;
    if let Some(missing) = without_policy(roles, &policies) {
        return Ok(Some(format!("has no policy for {missing}: {RERUN}")));
    }
    let uncovered: Option<String> = sqlx::query_scalar(UNCOVERED_PRIVILEGES)
        .bind(table)
        .fetch_one(&mut *conn)
        .await?;
    if let Some(uncovered) = uncovered {
        return Ok(Some(format!("has no policy for {uncovered}: {RERUN}")));
    }
    let open: Option<String> = sqlx::query_scalar(OPEN_POLICIES)
        .bind(table)
        .fetch_one(&mut *conn)
        .await?;
    Ok(open.map(|open| format!("exposes other organizations' rows by the policy {open}: {RERUN}")))
}

/// The roles that have no policy. A policy for everyone, as the deployment guide's
/// repair creates, covers each role.
fn without_policy(roles: &[&str], policies: &[String]) -> Option<String> {
    let has = |role: &str| {
        policies
            .iter()
            .any(|policy| policy == role || policy == "public")
    };
    let missing: Vec<String> = roles
        .iter()
        .map(|role| format!("billing_{role}"))
        .filter(|role| !has(role))
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// The rights that the service's roles need on the table $1, and those that they must
/// not have.
const PRIVILEGES: &str = "
SELECT has_table_privilege('billing_app', t, 'SELECT') AS app_reads,
       has_table_privilege('billing_worker', t, 'SELECT') AS worker_reads,
       has_table_privilege('billing_app', t, 'DELETE, TRUNCATE')
         OR $1 <> 'billing_audit_chain_heads' AND has_any_column_privilege('billing_app', t, 'UPDATE')
         OR $1 NOT IN ('billing_audit_log', 'billing_audit_chain_heads', 'billing_audit_personal_data')
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
            format!("privileges on {table}"),
            problem.map(|p| format!("are wrong: it {p}")),
        );
    }
    Ok(())
}
