//! `migrate verify`: checks that the schema is what the migrations leave. Covers steps
//! 4 and 5 of the deployment guide, and more.

mod tenancy;

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};

use super::{State, columns};
use crate::db::{guards, rights};

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    /// What is wrong, and how to fix it.
    pub problem: Option<String>,
    /// What an operator should know although it holds.
    pub warning: Option<String>,
}

/// The tables with tenants' data, and whether a request may read them.
pub const TENANT_TABLES: &[(&str, bool)] = &[
    ("organizations", true),
    ("usage_quotas", true),
    ("billing_customers", true),
    ("billing_subscriptions", true),
    ("billing_subscription_items", true),
    ("billing_subscription_payments", true),
    ("billing_invoices", true),
    ("billing_invoice_items", true),
    ("billing_charges", true),
    ("billing_payment_methods", true),
    ("billing_alerts", true),
    ("billing_applied_events", true),
    ("billing_disputes", true),
    ("billing_refunds", true),
    ("billing_invoice_payments", true),
    ("billing_checkout_sessions", true),
    ("billing_deleted_invoices", true),
    ("webhook_unclaimed_events", false),
    ("webhook_events", false),
    ("billing_audit_log", true),
    ("billing_audit_chain_heads", true),
    ("billing_audit_personal_data", true),
    ("grace_periods", true),
    ("webhook_dead_letter_queue", false),
    ("request_idempotency", false),
    ("organization_members", true),
    ("billing_stripe_requests", false),
    ("api_keys", false),
    ("usage_quota_overrides", true),
    ("usage_events", true),
    ("usage_totals", true),
    ("usage_reservations", true),
    ("usage_alerts", true),
    ("usage_reports", true),
    ("usage_charges", true),
    ("usage_pending_levels", true),
    ("organization_features", true),
    ("feature_overrides", true),
    ("checkout_sessions", true),
    ("billing_subscription_schedules", true),
    ("billing_discounts", true),
    ("outbound_changes", false),
    ("outbound_streams", false),
    ("outbound_events", false),
    ("outbound_deliveries", false),
    ("outbound_lanes", false),
    ("billing_revenue_balances", false),
    ("billing_revenue_movements", false),
    ("usage_denials", false),
    ("mails", false),
];

/// The ledger under the name that operators use, where Prisma has no table of its own, and
/// the quotas in force; the business figures.
const VIEWS: [&str; 12] = [
    "_prisma_migrations",
    "effective_usage_quotas",
    "reporting.recurring_items",
    "reporting.recurring_revenue",
    "reporting.unknown_taxes",
    "reporting.mrr",
    "reporting.mrr_movements",
    "reporting.mrr_months",
    "reporting.trials",
    "reporting.past_due",
    "reporting.usage_at_risk",
    "reporting.customers",
];

/// Tables without tenants' data that row-level security closes as well.
const CLOSED_TABLES: &[&str] = &[
    "users",
    "billing_job_runs",
    "billing_job_totals",
    "billing_job_leases",
    "user_sessions",
    "login_throttles",
    "service_keys",
    "service_api_keys",
    "portal_sessions",
    "operator_api_keys",
    "operator_second_factors",
    "operator_recovery_codes",
    "webhook_rejections",
    "webhook_dead_letter_sources",
    "plan_versions",
    "catalogue_addons",
    "trial_cards",
    "catalogue_metrics",
    "stripe_meter_errors",
    "billing_prices",
    "plan_version_prices",
    "outbound_endpoints",
    "stripe_imports",
    "webhook_bulk_actions",
    "billing_revenue_journal",
    "billing_revenue_months",
    "mail_switch",
];

/// The migrations' ledger.
const LEDGER: &str = "billing_schema_migrations";

const FUNCTIONS: &[&str] = &[
    "auth.get_current_org_id",
    "public.log_billing_action",
    "public.billing_audit_entry_hash",
    "public.billing_audit_next_entry_hash",
    "public.billing_audit_running_entry_hash",
    "public.billing_audit_personal_digest",
    "public.billing_audit_log_refuse_change",
    "public.billing_audit_chain_heads_refuse_change",
    "public.billing_audit_has_entry",
    "public.billing_audit_head_hash",
    "public.billing_audit_log_refuse_raw",
    "public.billing_audit_chain_heads_refuse_leap",
];

/// What migrations call, and no role of the service.
const OF_MIGRATIONS: &[&str] = &["public.enable_tenancy"];

const TRIGGERS: &[(&str, &str)] = &[
    ("billing_audit_log", "billing_audit_log_append_only"),
    ("billing_audit_log", "billing_audit_log_no_truncate"),
    (
        "billing_audit_chain_heads",
        "billing_audit_chain_heads_grow_only",
    ),
    (
        "billing_audit_chain_heads",
        "billing_audit_chain_heads_no_truncate",
    ),
    (
        "billing_audit_chain_heads",
        "billing_audit_chain_heads_no_leap",
    ),
];

/// Belongs to the latest log_billing_action(). After the deployment guide's rollback
/// and its file, which create the log anew, neither exists.
const RAW_ENTRIES: (&str, &str) = ("billing_audit_log", "billing_audit_log_no_raw_entry");

const RERUN: &str = "run its migration again (`psql -f supabase/migrations/…`: each may be rerun)";

/// Runs all checks; the connection should be the owner's.
pub async fn verify(conn: &mut PgConnection) -> Result<Vec<Check>, sqlx::Error> {
    // Makes names and printed expressions the same for every login.
    conn.execute("SET search_path TO public, pg_temp").await?;
    let mut checks = Vec::new();
    let present = columns::present(conn).await?;
    // A ledger that lacks a column cannot be read.
    if !present.contains_key(LEDGER) || columns::problem(LEDGER, &present).is_none() {
        migrations(conn, &mut checks).await?;
    }
    let tables = columns::tables();
    let unapplied = checks.iter().any(|check| !check.ok);
    for table in &tables {
        let problem = columns::problem(table, &present);
        check(&mut checks, format!("table {table}"), problem);
    }
    if unapplied || tables.iter().any(|table| !present.contains_key(*table)) {
        // Further checks would only repeat what is missing.
        return Ok(checks);
    }
    roles(conn, &mut checks).await?;
    tenancy::row_level_security(conn, &mut checks).await?;
    tenancy::privileges(conn, &mut checks).await?;
    whole_rights(conn, &mut checks).await?;
    functions(conn, &mut checks).await?;
    views(conn, &mut checks).await?;
    triggers(conn, &mut checks).await?;
    large_objects(conn, &mut checks).await?;
    audit_round_trip(conn, &mut checks).await?;
    Ok(checks)
}

fn check(checks: &mut Vec<Check>, name: impl Into<String>, problem: Option<String>) {
    checks.push(Check {
        name: name.into(),
        ok: problem.is_none(),
        problem,
        warning: None,
    });
}

async fn migrations(conn: &mut PgConnection, checks: &mut Vec<Check>) -> Result<(), sqlx::Error> {
    for status in super::status(conn).await? {
        let problem = match status.state {
            State::Applied | State::Unknown => None,
            State::Pending => Some("is not applied: run `migrate up`".to_owned()),
            State::Changed => Some("was applied from another version of its file".to_owned()),
        };
        let is_unknown = status.state == State::Unknown;
        checks.push(Check {
            name: format!("migration {}_{}", status.version, status.name),
            ok: problem.is_none(),
            problem,
            warning: is_unknown.then(|| {
                "is of a newer program: this one does not know it, and cannot check or undo it"
                    .to_owned()
            }),
        });
    }
    Ok(())
}

async fn roles(conn: &mut PgConnection, checks: &mut Vec<Check>) -> Result<(), sqlx::Error> {
    for role in ["billing_owner", "billing_app", "billing_worker"] {
        let row = sqlx::query(
            "SELECT rolcanlogin, rolsuper OR rolbypassrls AS unbound FROM pg_roles WHERE rolname = $1",
        )
        .bind(role)
        .fetch_optional(&mut *conn)
        .await?;
        let problem = match row {
            None => Some(format!("is missing: {RERUN}")),
            Some(row) if row.try_get("rolcanlogin")? => {
                Some(format!("may log in: ALTER ROLE {role} NOLOGIN"))
            }
            Some(row) if row.try_get("unbound")? => Some(format!(
                "escapes row-level security: ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS"
            )),
            Some(_) => None,
        };
        check(checks, format!("role {role}"), problem);
    }
    Ok(())
}

/// Everything that the migrations grant to the service's roles.
async fn whole_rights(conn: &mut PgConnection, checks: &mut Vec<Check>) -> Result<(), sqlx::Error> {
    let lost = rights::lost(conn).await?;
    let grants: Vec<String> = lost.iter().map(rights::Lost::grant).collect();
    let problem = (!lost.is_empty())
        .then(|| format!("are incomplete; as the owner, run: {}", grants.join("; ")));
    check(checks, "rights of billing_app and billing_worker", problem);
    Ok(())
}

async fn functions(conn: &mut PgConnection, checks: &mut Vec<Check>) -> Result<(), sqlx::Error> {
    for function in FUNCTIONS.iter().chain(OF_MIGRATIONS) {
        let row = sqlx::query(
            "SELECT prosecdef,
                    prokind = 'a' OR prosqlbody IS NOT NULL
                      OR coalesce(proconfig::text LIKE '%search_path=%', false) AS fixed_path,
                    has_function_privilege('billing_worker', oid, 'EXECUTE') OR prorettype = 'trigger'::regtype
                      AS granted,
                    EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner)))
                             WHERE grantee = 0) AS public
               FROM pg_proc WHERE oid = to_regproc($1)",
        )
        .bind(*function)
        .fetch_optional(&mut *conn)
        .await?;
        let problem = match row {
            None => Some(format!("is missing, or there are several: {RERUN}")),
            Some(row) if row.try_get("prosecdef")? => {
                Some(format!("runs as its owner (SECURITY DEFINER): {RERUN}"))
            }
            Some(row) if !row.try_get::<bool, _>("fixed_path")? => {
                Some(format!("takes its search_path from the caller: {RERUN}"))
            }
            Some(row) if row.try_get("public")? => {
                Some(format!("may be called by everyone: {RERUN}"))
            }
            Some(row)
                if !row.try_get::<bool, _>("granted")? && !OF_MIGRATIONS.contains(function) =>
            {
                Some(format!("may not be called by billing_worker: {RERUN}"))
            }
            Some(_) => None,
        };
        check(checks, format!("function {function}"), problem);
    }
    Ok(())
}

async fn views(conn: &mut PgConnection, checks: &mut Vec<Check>) -> Result<(), sqlx::Error> {
    for view in VIEWS {
        let as_caller: Option<bool> = sqlx::query_scalar(
            "SELECT relkind <> 'v' OR coalesce('security_invoker=true' = ANY(reloptions), false)
               FROM pg_class
              WHERE oid = to_regclass(CASE strpos($1, '.') WHEN 0 THEN 'public.' || $1 ELSE $1 END)",
        )
        .bind(view)
        .fetch_optional(&mut *conn)
        .await?;
        let problem = match as_caller {
            None => Some(format!("is missing: {RERUN}")),
            Some(false) => Some(format!(
                "reads as its owner: ALTER VIEW {view} SET (security_invoker = true)"
            )),
            Some(true) => None,
        };
        check(checks, format!("view {view}"), problem);
    }
    Ok(())
}

/// Whether log_billing_action() is its latest version.
pub async fn appends_by_newest(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT coalesce(bool_and(prosrc LIKE '%billing_audit_personal_data%'), false) FROM pg_proc
          WHERE oid = to_regproc('public.log_billing_action')",
    )
    .fetch_one(conn)
    .await
}

/// Whether the service's roles may create large objects although this login could
/// prevent it.
async fn large_objects(
    conn: &mut PgConnection,
    checks: &mut Vec<Check>,
) -> Result<(), sqlx::Error> {
    let open = guards::may_make_large_objects(conn).await?
        && guards::may_close_large_objects(conn).await?;
    let problem = open.then(|| {
        "may be created by the service's roles: run \
         supabase/migrations/20260109020000_no_large_objects.sql again"
            .to_owned()
    });
    check(checks, "large objects", problem);
    Ok(())
}

async fn triggers(conn: &mut PgConnection, checks: &mut Vec<Check>) -> Result<(), sqlx::Error> {
    let newest = appends_by_newest(conn).await?;
    for (table, trigger) in TRIGGERS.iter().chain(newest.then_some(&RAW_ENTRIES)) {
        let enabled: Option<String> = sqlx::query_scalar(
            "SELECT tgenabled::text FROM pg_trigger
              WHERE tgrelid = to_regclass('public.' || $1) AND tgname = $2",
        )
        .bind(*table)
        .bind(*trigger)
        .fetch_optional(&mut *conn)
        .await?;
        let problem = match enabled.as_deref() {
            Some("O" | "A") => None,
            Some(_) => Some(format!(
                "is disabled: ALTER TABLE {table} ENABLE TRIGGER {trigger}"
            )),
            None => Some(format!("is missing: {RERUN}")),
        };
        check(checks, format!("trigger {trigger}"), problem);
    }
    Ok(())
}

/// Appends an entry as the deployment guide does, and checks that it can be read and
/// deleted and that other entries cannot be changed. Rolls everything back.
async fn audit_round_trip(
    conn: &mut PgConnection,
    checks: &mut Vec<Check>,
) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin().await?;
    let problem = match round_trip(&mut tx).await {
        Ok(problem) => problem,
        Err(sqlx::Error::Database(error)) => Some(format!("fails: {error}")),
        Err(error) => return Err(error),
    };
    tx.rollback().await?;
    check(checks, "log_billing_action round trip", problem);
    Ok(())
}

async fn round_trip(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let entry: Value = sqlx::query_scalar(
        "WITH logged AS MATERIALIZED (
           SELECT log_billing_action(
             p_organization_id := coalesce((SELECT id FROM organizations LIMIT 1), gen_random_uuid()),
             p_action := 'test_action', p_actor_type := 'system', p_actor_id := NULL,
             p_resource_type := 'test', p_resource_id := NULL, p_metadata := '{\"test\": true}'::jsonb
           ) AS id)
         SELECT to_jsonb(id) FROM logged",
    )
    .fetch_one(&mut *conn)
    .await?;
    let seen: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM billing_audit_log WHERE id = ($1 #>> '{}')::uuid AND action = 'test_action'",
    )
    .bind(&entry)
    .fetch_one(&mut *conn)
    .await?;
    if seen != 1 {
        return Ok(Some("the entry that it returned cannot be read".to_owned()));
    }
    // Only the owner may delete test entries.
    let owner: bool =
        sqlx::query_scalar("SELECT has_table_privilege('billing_audit_log', 'DELETE')")
            .fetch_one(&mut *conn)
            .await?;
    if !owner {
        return Ok(None);
    }
    let deleted = sqlx::query("DELETE FROM billing_audit_log WHERE id = ($1 #>> '{}')::uuid")
        .bind(&entry)
        .execute(&mut *conn)
        .await?;
    if deleted.rows_affected() != 1 {
        return Ok(Some("the owner cannot delete its test entry".to_owned()));
    }
    conn.execute(
        "SELECT log_billing_action(gen_random_uuid(), 'verify', 'system', p_resource_type => 'test')",
    )
    .await?;
    let mut savepoint = conn.begin().await?;
    let refused = savepoint
        .execute("UPDATE billing_audit_log SET action = 'x' WHERE action = 'verify'")
        .await;
    savepoint.rollback().await?;
    Ok(refused
        .is_ok()
        .then(|| "entries can be changed: the log is not append-only".to_owned()))
}
