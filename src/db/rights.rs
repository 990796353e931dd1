//! The rights that the service's roles need, and which of them were revoked.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;

/// A table or view, and what `billing_worker` and `billing_app` may do to it.
pub type OfTable = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const NOTHING: &[&str] = &[];
const READ: &[&str] = &["SELECT"];
const APPEND: &[&str] = &["SELECT", "INSERT"];
const KEEP: &[&str] = &["SELECT", "INSERT", "UPDATE"];
const CHANGE: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// All rights on tables and views that the migrations grant; a test compares. Those of intake and
/// the ledger come first, since the first are named first.
pub const TABLES: &[OfTable] = &[
    ("webhook_events", CHANGE, NOTHING),
    ("usage_events", CHANGE, READ),
    ("usage_totals", CHANGE, READ),
    ("usage_reservations", CHANGE, READ),
    ("usage_pending_levels", CHANGE, READ),
    ("usage_alerts", CHANGE, READ),
    ("usage_denials", CHANGE, NOTHING),
    ("usage_quotas", CHANGE, READ),
    ("usage_quota_overrides", CHANGE, READ),
    ("effective_usage_quotas", READ, READ),
    ("usage_reports", CHANGE, READ),
    ("usage_charges", KEEP, READ),
    ("organization_features", CHANGE, READ),
    ("feature_overrides", CHANGE, READ),
    ("grace_periods", CHANGE, READ),
    ("billing_audit_log", APPEND, APPEND),
    ("billing_audit_chain_heads", KEEP, KEEP),
    (
        "billing_audit_personal_data",
        &["SELECT", "INSERT", "DELETE"],
        APPEND,
    ),
    ("webhook_dead_letter_queue", CHANGE, NOTHING),
    ("webhook_dead_letter_sources", CHANGE, NOTHING),
    ("webhook_rejections", CHANGE, NOTHING),
    ("webhook_bulk_actions", CHANGE, NOTHING),
    ("webhook_unclaimed_events", CHANGE, NOTHING),
    ("outbound_changes", CHANGE, NOTHING),
    ("outbound_endpoints", CHANGE, NOTHING),
    ("outbound_streams", KEEP, NOTHING),
    ("outbound_events", CHANGE, NOTHING),
    ("outbound_deliveries", CHANGE, NOTHING),
    ("outbound_lanes", CHANGE, NOTHING),
    ("organizations", KEEP, READ),
    ("organization_members", CHANGE, READ),
    ("users", CHANGE, NOTHING),
    ("user_sessions", CHANGE, NOTHING),
    ("login_throttles", CHANGE, NOTHING),
    ("api_keys", CHANGE, NOTHING),
    ("service_api_keys", KEEP, NOTHING),
    ("portal_sessions", CHANGE, NOTHING),
    ("operator_api_keys", KEEP, NOTHING),
    ("operator_second_factors", CHANGE, NOTHING),
    ("operator_recovery_codes", CHANGE, NOTHING),
    ("service_keys", APPEND, NOTHING),
    ("request_idempotency", CHANGE, NOTHING),
    ("billing_alerts", KEEP, READ),
    ("billing_applied_events", CHANGE, READ),
    ("billing_charges", KEEP, READ),
    ("billing_checkout_sessions", KEEP, READ),
    ("billing_customers", CHANGE, READ),
    ("billing_deleted_invoices", KEEP, READ),
    ("billing_discounts", KEEP, READ),
    ("billing_disputes", KEEP, READ),
    ("billing_invoice_items", CHANGE, READ),
    ("billing_invoice_payments", KEEP, READ),
    ("billing_invoices", CHANGE, READ),
    ("billing_job_leases", CHANGE, NOTHING),
    ("billing_job_runs", &["SELECT", "INSERT", "DELETE"], NOTHING),
    ("billing_job_totals", KEEP, NOTHING),
    ("billing_payment_methods", CHANGE, READ),
    ("billing_prices", KEEP, NOTHING),
    ("billing_refunds", KEEP, READ),
    ("billing_schema_migrations", READ, READ),
    ("billing_stripe_requests", KEEP, NOTHING),
    ("billing_subscription_items", CHANGE, READ),
    ("billing_subscription_payments", KEEP, READ),
    ("billing_subscription_schedules", KEEP, READ),
    ("billing_subscriptions", KEEP, READ),
    ("billing_revenue_balances", CHANGE, NOTHING),
    ("billing_revenue_journal", KEEP, NOTHING),
    ("billing_revenue_months", CHANGE, NOTHING),
    (
        "billing_revenue_movements",
        &["SELECT", "INSERT", "DELETE"],
        NOTHING,
    ),
    ("mails", CHANGE, NOTHING),
    ("mail_switch", KEEP, NOTHING),
    ("catalogue_addons", KEEP, NOTHING),
    ("trial_cards", CHANGE, NOTHING),
    ("catalogue_metrics", KEEP, NOTHING),
    ("checkout_sessions", KEEP, READ),
    ("plan_version_prices", APPEND, NOTHING),
    ("plan_versions", APPEND, NOTHING),
    ("stripe_imports", KEEP, NOTHING),
    ("stripe_meter_errors", KEEP, NOTHING),
    ("reporting.recurring_items", READ, NOTHING),
    ("reporting.recurring_revenue", READ, NOTHING),
    ("reporting.unknown_taxes", READ, NOTHING),
    ("reporting.mrr", READ, NOTHING),
    ("reporting.mrr_movements", READ, NOTHING),
    ("reporting.mrr_months", READ, NOTHING),
    ("reporting.trials", READ, NOTHING),
    ("reporting.past_due", READ, NOTHING),
    ("reporting.usage_at_risk", READ, NOTHING),
    ("reporting.customers", READ, NOTHING),
];

/// The functions that both roles may call.
pub const FUNCTIONS: &[&str] = &[
    "auth.get_current_org_id",
    "public.log_billing_action",
    "public.billing_audit_entry_hash",
    "public.billing_audit_next_entry_hash",
    "public.billing_audit_running_entry_hash",
    "public.billing_audit_personal_digest",
    "public.billing_audit_has_entry",
    "public.billing_audit_head_hash",
    "public.billing_usage_subscription",
    "public.billing_monthly_amount",
    "public.billing_untaxed_share",
];

const SCHEMAS: [&str; 2] = ["public", "auth"];
const ROLES: [&str; 2] = ["billing_worker", "billing_app"];

/// The rights that one role has lost on one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    place: i64,
    role: String,
    /// As GRANT names the object.
    object: String,
    rights: Vec<String>,
}

impl Lost {
    /// The statement that restores the rights.
    pub fn grant(&self) -> String {
        let Self { role, object, .. } = self;
        format!("GRANT {} ON {object} TO {role}", self.rights.join(", "))
    }
}

/// The rights on existing [`TABLES`], [`FUNCTIONS`] and schemas that are lost. Looks
/// in the catalog, so that names are found even if their schema may not be used.
pub async fn lost(conn: &mut PgConnection) -> Result<Vec<Lost>, sqlx::Error> {
    let needed = needed();
    let column = |of: fn(&[&'static str; 4]) -> &'static str| -> Vec<&'static str> {
        needed.iter().map(of).collect()
    };
    // Not checked at compile time: the objects may not exist.
    let rows: Vec<(i64, String, String, String, String)> = sqlx::query_as(
        "SELECT place, role, kind, object, privilege
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
                  WITH ORDINALITY AS needed(role, kind, object, privilege, place)
          WHERE CASE kind
            WHEN 'SCHEMA' THEN (SELECT NOT has_schema_privilege(role, oid, privilege)
                                  FROM pg_namespace WHERE nspname = object)
            WHEN 'FUNCTION' THEN (SELECT bool_or(NOT has_function_privilege(role, p.oid, privilege))
                                    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                                   WHERE p.proname = split_part(object, '.', 2)
                                     AND n.nspname = split_part(object, '.', 1))
            ELSE (SELECT NOT has_table_privilege(role, c.oid, privilege)
                    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.relname = CASE strpos(object, '.') WHEN 0 THEN object
                                          ELSE split_part(object, '.', 2) END
                     AND n.nspname = CASE strpos(object, '.') WHEN 0 THEN 'public'
                                          ELSE split_part(object, '.', 1) END)
          END
          ORDER BY place",
    )
    .bind(column(|row| row[0]))
    .bind(column(|row| row[1]))
    .bind(column(|row| row[2]))
    .bind(column(|row| row[3]))
    .fetch_all(conn)
    .await?;
    let mut lost = BTreeMap::<(String, String), Lost>::new();
    for (place, role, kind, object, privilege) in rows {
        let object = match &*kind {
            "" => object,
            kind => format!("{kind} {object}"),
        };
        let of_one = lost
            .entry((role.clone(), object.clone()))
            .or_insert_with(|| Lost {
                place,
                role,
                object,
                rights: Vec::new(),
            });
        of_one.rights.push(privilege);
    }
    let mut lost: Vec<Lost> = lost.into_values().collect();
    lost.sort_by_key(|lost| lost.place);
    Ok(lost)
}

/// Role, kind, name and privilege of each right.
fn needed() -> Vec<[&'static str; 4]> {
    let mut needed = Vec::new();
    for role in ROLES {
        for schema in SCHEMAS {
            needed.push([role, "SCHEMA", schema, "USAGE"]);
        }
    }
    // Requests read no figures.
    needed.push(["billing_worker", "SCHEMA", "reporting", "USAGE"]);
    for (table, worker, app) in TABLES {
        for (role, rights) in ROLES.into_iter().zip([worker, app]) {
            needed.extend(rights.iter().map(|right| [role, "", *table, *right]));
        }
    }
    for role in ROLES {
        for function in FUNCTIONS {
            needed.push([role, "FUNCTION", *function, "EXECUTE"]);
        }
    }
    needed
}

/// How to restore lost rights; only the first few are named.
pub fn remedy(lost: &[Lost]) -> Option<String> {
    const NAMED: usize = 4;
    let grants: Vec<String> = lost.iter().take(NAMED).map(Lost::grant).collect();
    let more = match lost.len().checked_sub(NAMED) {
        Some(more) if more > 0 => format!("; and {more} more, which `migrate verify` names"),
        _ => String::new(),
    };
    (!lost.is_empty()).then(|| format!("{}{more}", grants.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_are_named_and_the_others_counted() {
        let lost: Vec<Lost> = (0..6)
            .map(|n| Lost {
                place: n,
                role: "billing_worker".to_owned(),
                object: format!("t{n}"),
                rights: vec!["INSERT".to_owned(), "UPDATE".to_owned()],
            })
            .collect();
        assert_eq!(remedy(&[]), None);
        let one = remedy(&lost[..1]).unwrap();
        assert_eq!(one, "GRANT INSERT, UPDATE ON t0 TO billing_worker");
        let said = remedy(&lost).unwrap();
        assert!(said.contains("ON t3 TO"), "{said}");
        assert!(
            said.ends_with("and 2 more, which `migrate verify` names"),
            "{said}"
        );
        assert!(!remedy(&lost[..4]).unwrap().contains("more"));
    }
}
