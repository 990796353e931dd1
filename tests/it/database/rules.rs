//! The rules of the schema that a catalog can show, as queries: each answers
//! with its violations, in words.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

/// Everything in our schemas that breaks a rule; nothing, where all is well.
pub async fn violations(conn: &mut PgConnection) -> Vec<String> {
    let mut found = Vec::new();
    for (rule, query) in RULES {
        found.extend(violations_of(conn, rule, query).await);
    }
    found
}

/// Whether any rule is broken; it looks no further than the first.
pub async fn is_broken(conn: &mut PgConnection) -> bool {
    for (rule, query) in RULES {
        if !violations_of(conn, rule, query).await.is_empty() {
            return true;
        }
    }
    false
}

async fn violations_of(conn: &mut PgConnection, rule: &str, query: &str) -> Vec<String> {
    // Prepared, since a connection asks the same again and again.
    let rows = sqlx::query(AssertSqlSafe(format!("{OBJECTS} {query}")))
        .fetch_all(conn)
        .await
        .unwrap_or_else(|e| panic!("{rule}: {e}"));
    rows.iter()
        .map(|row| format!("{rule}: {}", row.get::<String, _>(0)))
        .collect()
}

/// What the rules are about. A tenant's table has the column that says whose a
/// row is; those without one are named here.
const OBJECTS: &str = "
WITH relations AS (
  SELECT c.*, c.oid::regclass::text AS name FROM pg_class c
   WHERE relnamespace IN ('public'::regnamespace, 'auth'::regnamespace, 'reporting'::regnamespace)
), tables AS (
  SELECT *, CASE WHEN relname = 'organizations' THEN 'id' ELSE 'organization_id' END AS tenant_column,
         relname IN ('users', 'user_sessions', 'login_throttles', 'service_keys', 'service_api_keys',
                     'billing_job_runs',
                     'billing_job_totals', 'billing_job_leases',
                     'billing_schema_migrations', 'webhook_rejections',
                     'webhook_dead_letter_sources', 'plan_versions', 'billing_prices',
                     'plan_version_prices', 'catalogue_metrics', 'catalogue_addons', 'trial_cards', 'stripe_meter_errors',
                     'outbound_endpoints', 'stripe_imports', 'operator_api_keys',
                     'operator_second_factors', 'operator_recovery_codes',
                     'webhook_bulk_actions', 'billing_revenue_journal',
                     'billing_revenue_months', 'mail_switch') AS without_tenant,
         relname IN ('webhook_events', 'webhook_dead_letter_queue') AS by_bucket
    FROM relations WHERE relkind IN ('r', 'p')
), functions AS (
  SELECT p.*, p.oid::regprocedure::text AS name FROM pg_proc p
   WHERE pronamespace IN ('public'::regnamespace, 'auth'::regnamespace)
), privileges AS (
  SELECT r.oid, name, relkind::text AS kind, relname::text AS relname, grantee, privilege_type AS privilege
    FROM relations r, aclexplode(coalesce(relacl, acldefault('r', relowner)))
   WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL
  SELECT r.oid, name || '.' || attname, 'c', relname, grantee, privilege_type
    FROM relations r JOIN pg_attribute a ON attrelid = r.oid, aclexplode(attacl)
  UNION ALL
  SELECT f.oid, name, 'f', proname, grantee, privilege_type
    FROM functions f, aclexplode(coalesce(proacl, acldefault('f', proowner)))
  UNION ALL
  SELECT n.oid, 'schema ' || nspname, 'n', nspname, grantee, privilege_type
    FROM pg_namespace n, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
   WHERE nspname IN ('public', 'auth', 'reporting')
), policies AS (
  SELECT p.oid, t.oid AS table_oid, t.name, tenant_column, without_tenant, polname, polpermissive, polcmd, polroles,
         pg_get_expr(polqual, polrelid) AS using_expression,
         pg_get_expr(polwithcheck, polrelid) AS check_expression
    FROM pg_policy p JOIN tables t ON t.oid = polrelid
), triggers AS (
  SELECT g.*, t.name, t.relname, f.prosrc FROM pg_trigger g
    JOIN tables t ON t.oid = tgrelid JOIN pg_proc f ON f.oid = tgfoid WHERE NOT tgisinternal
)";

const RULES: &[(&str, &str)] = &[
    ("every table has a primary key",
     "SELECT name FROM tables
       WHERE NOT EXISTS (SELECT FROM pg_index WHERE indrelid = tables.oid AND indisprimary)"),

    ("every table says whose its rows are",
     "SELECT name FROM tables
       WHERE NOT without_tenant
         AND NOT EXISTS (SELECT FROM pg_attribute a WHERE attrelid = tables.oid AND NOT attisdropped
                            AND attname = tenant_column AND atttypid = 'uuid'::regtype
                            AND (attnotnull OR by_bucket))"),

    // A customer's id, an event's id and the product's own id of an organization
    // are unique beyond the organization: by them it is found.
    ("the organization is in every key",
     "SELECT name || ': ' || indexrelid::regclass FROM tables JOIN pg_index ON indrelid = tables.oid
       WHERE indisunique AND NOT without_tenant
         AND NOT EXISTS (SELECT FROM pg_attribute a
                          WHERE attrelid = tables.oid AND attnum = ANY(indkey)
                            AND attname = CASE WHEN by_bucket THEN 'bucket'
                                               WHEN relname = 'billing_customers' THEN 'stripe_customer_id'
                                               WHEN indexrelid = to_regclass('public.organizations_external_id_key')
                                                 THEN 'external_id'
                                               ELSE tenant_column END)"),

    ("no row refers to another organization's",
     "SELECT name || ': ' || conname FROM tables JOIN pg_constraint c ON conrelid = tables.oid
       WHERE contype = 'f'
         AND NOT EXISTS (SELECT FROM unnest(conkey, confkey) AS k(ours, theirs)
                           JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = ours
                           JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = theirs
                          WHERE a.attname = tables.tenant_column
                            AND b.attname = CASE WHEN confrelid = to_regclass('public.organizations')
                                                 THEN 'id' ELSE 'organization_id' END)"),

    ("no reference empties a column when its target goes",
     "SELECT name || ': ' || conname FROM tables JOIN pg_constraint ON conrelid = tables.oid
       WHERE contype = 'f' AND (confdeltype IN ('n', 'd') OR confupdtype IN ('n', 'd'))"),

    ("nothing counts up",
     "SELECT name FROM relations WHERE relkind = 'S'
       UNION ALL SELECT name || '.' || attname FROM tables JOIN pg_attribute ON attrelid = tables.oid
       WHERE attidentity <> ''"),

    ("ids are uuid, bigint or text",
     "SELECT name || '.' || attname || ' is ' || format_type(atttypid, NULL)
        FROM tables JOIN pg_attribute ON attrelid = tables.oid
       WHERE attnum > 0 AND NOT attisdropped AND attname ~ '(^|_)id$'
         AND atttypid <> ALL (ARRAY['uuid', 'bigint', 'text']::regtype[])"),

    ("row-level security is enabled",
     "SELECT name FROM tables WHERE NOT relrowsecurity AND relname <> 'billing_schema_migrations'"),

    ("row-level security is forced",
     "SELECT name FROM tables WHERE NOT relforcerowsecurity AND relname <> 'billing_schema_migrations'"),

    ("policies compare the organization only",
     "SELECT name || ': ' || polname || ' says ' || e.expression
        FROM policies p,
             unnest(ARRAY[using_expression, check_expression]) AS e(expression),
             unnest(polroles) AS role
       WHERE e.expression <> ALL (CASE
         WHEN role = 'billing_owner'::regrole THEN ARRAY['true']
         WHEN role <> 'billing_worker'::regrole
           THEN ARRAY[format('(%s = auth.get_current_org_id())', tenant_column)]
         WHEN without_tenant THEN ARRAY['(auth.get_current_org_id() IS NULL)']
         ELSE ARRAY[format('((auth.get_current_org_id() IS NULL) OR (%s = auth.get_current_org_id()))',
                           tenant_column)] END)"),

    ("policies say what may be written",
     "SELECT name || ': ' || polname FROM policies
       WHERE check_expression IS NULL AND (polcmd = 'a' OR using_expression IS NULL)"),

    ("each privilege has its policy",
     "SELECT DISTINCT p.name || ': ' || privilege || ' by ' || grantee::regrole
        FROM privileges p JOIN tables t ON t.oid = p.oid
       WHERE t.relname <> 'billing_schema_migrations'
         AND privilege IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
         AND NOT EXISTS (SELECT FROM policies
                          WHERE table_oid = t.oid AND polpermissive AND polroles && ARRAY[grantee, 0::oid]
                            AND polcmd IN ('*', CASE privilege WHEN 'SELECT' THEN 'r' WHEN 'INSERT' THEN 'a'
                                                               WHEN 'UPDATE' THEN 'w' ELSE 'd' END))"),

    ("billing_owner owns everything",
     "SELECT name FROM relations WHERE relowner <> 'billing_owner'::regrole AND relkind <> 'i'
       UNION ALL SELECT name FROM functions WHERE proowner <> 'billing_owner'::regrole
       UNION ALL SELECT nspname FROM pg_namespace
                  WHERE nspname IN ('auth', 'reporting') AND nspowner <> 'billing_owner'::regrole"),

    ("the roles are bound and cannot log in",
     "SELECT wanted FROM unnest(ARRAY['billing_owner', 'billing_app', 'billing_worker']) AS wanted
       WHERE NOT EXISTS (SELECT FROM pg_roles
                          WHERE rolname = wanted AND NOT rolcanlogin AND NOT rolsuper AND NOT rolbypassrls
                            AND NOT rolcreaterole AND NOT rolcreatedb AND NOT rolreplication)"),

    ("the roles are nobody else",
     "SELECT member::regrole || ' is a member of ' || roleid::regrole FROM pg_auth_members
       WHERE member IN ('billing_owner'::regrole, 'billing_app'::regrole, 'billing_worker'::regrole)"),

    ("functions run as their caller",
     "SELECT name FROM functions WHERE prosecdef"),

    // The names of a body in SQL's own form were bound when it was made.
    ("functions have a search_path of their own",
     "SELECT name FROM functions
       WHERE prokind <> 'a'
         AND NOT CASE WHEN proconfig IS NULL THEN prosqlbody IS NOT NULL
                      ELSE 'search_path=pg_catalog, pg_temp' = ANY(proconfig) END"),

    ("views run as their caller",
     "SELECT name FROM relations
       WHERE relkind IN ('v', 'm') AND NOT coalesce('security_invoker=true' = ANY(reloptions), false)"),

    ("triggers only refuse",
     "SELECT name || ': ' || tgname FROM triggers
       WHERE tgtype::int & 2 = 0 OR prosrc !~ 'RAISE EXCEPTION'
          OR prosrc ~* '\\m(FROM|INTO|PERFORM|EXECUTE|TG_TABLE_NAME|TG_RELNAME)\\M'"),

    ("the audit log only grows",
     "SELECT log.name || ': ' || operation
        FROM (VALUES ('billing_audit_log'), ('billing_audit_chain_heads')) AS log(name),
             (VALUES ('UPDATE', 16 + 1), ('DELETE', 8 + 1), ('TRUNCATE', 32)) AS o(operation, bits)
       WHERE NOT EXISTS (SELECT FROM triggers
                          WHERE relname = log.name AND tgenabled IN ('O', 'A') AND tgqual IS NULL
                            AND prosrc ~ 'RAISE EXCEPTION' AND tgtype::int & bits = bits
                            AND cardinality(tgattr) = 0)"),

    ("entries follow their chain",
     "SELECT guard.name || ': ' || guard.trigger
        FROM (VALUES ('billing_audit_log', 'billing_audit_log_no_raw_entry'),
                     ('billing_audit_chain_heads', 'billing_audit_chain_heads_no_leap')) AS guard(name, trigger)
       WHERE NOT EXISTS (SELECT FROM triggers
                          WHERE relname = guard.name AND tgname = guard.trigger AND tgenabled IN ('O', 'A')
                            AND prosrc ~ 'RAISE EXCEPTION' AND tgtype::int & 7 = 7)"),

    ("nobody has privileges but the three roles",
     "SELECT name || ': ' || privilege || ' to ' ||
             CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END FROM privileges
       WHERE grantee <> ALL (ARRAY['billing_owner', 'billing_app', 'billing_worker', 'pg_database_owner']::regrole[])
         AND NOT (kind = 'n' AND relname = 'public' AND privilege = 'USAGE')"),

    ("billing_app writes only its audit entries",
     "SELECT name || ': ' || privilege FROM privileges
       WHERE grantee = 'billing_app'::regrole AND kind NOT IN ('f', 'n') AND privilege <> 'SELECT'
         AND (relname, privilege) NOT IN (('billing_audit_log', 'INSERT'),
              ('billing_audit_personal_data', 'INSERT'),
              ('billing_audit_chain_heads', 'INSERT'), ('billing_audit_chain_heads', 'UPDATE'))"),

    ("billing_worker changes no audit entry, and empties nothing",
     "SELECT name || ': ' || privilege FROM privileges
       WHERE grantee = 'billing_worker'::regrole AND kind NOT IN ('f', 'n')
         AND (privilege NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
              OR relname = 'billing_audit_log' AND privilege IN ('UPDATE', 'DELETE')
              OR relname = 'billing_audit_personal_data' AND privilege = 'UPDATE'
              OR relname = 'billing_audit_chain_heads' AND privilege = 'DELETE')"),

    ("the roles that serve make nothing",
     "SELECT name || ': ' || privilege || ' to ' || grantee::regrole FROM privileges
       WHERE kind = 'n' AND privilege <> 'USAGE'
         AND grantee IN ('billing_app'::regrole, 'billing_worker'::regrole)"),

    ("nothing rewrites statements",
     "SELECT name || ': ' || rulename FROM pg_rewrite JOIN relations ON relations.oid = ev_class
       WHERE rulename <> '_RETURN'"),
];
