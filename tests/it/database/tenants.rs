//! A row of each tenant's table, for any organization.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::support::TestDatabase;

/// How a row is inserted. `{org}` is whose it is, `{key}` makes it another
/// row, and `{order}` stands for the columns that keep the order of events.
pub const ROWS: &[(&str, &str)] = &[
    ("organizations", "(id, name) VALUES ({org}, '{key}')"),
    (
        "usage_quotas",
        "(organization_id, metric, plan_tier, unlimited, over_limit) VALUES ({org}, '{key}', 'free', true, 'hard')",
    ),
    (
        "usage_quota_overrides",
        "(organization_id, metric, quota) VALUES ({org}, '{key}', 1)",
    ),
    (
        "organization_features",
        "(organization_id, feature, value, plan_tier) VALUES ({org}, '{key}', 'true', 'free')",
    ),
    (
        "feature_overrides",
        "(organization_id, feature, value, reason, set_by)
         VALUES ({org}, '{key}', 'true', 'a promise', 'alice')",
    ),
    (
        "usage_events",
        "(organization_id, event_id, metric, quantity, recorded_at, period_start)
         VALUES ({org}, '{key}', 'api_calls', 1, now(), now())",
    ),
    (
        "usage_totals",
        "(organization_id, metric, period_start, period_end, total)
         VALUES ({org}, '{key}', now(), now() + interval '1 month', 1)",
    ),
    (
        "usage_reservations",
        "(organization_id, id, metric, period_start, quantity, reserved_at, expires_at)
         VALUES ({org}, md5('{key}')::uuid, 'api_calls', now(), 1, now(), now())",
    ),
    (
        "usage_alerts",
        "(organization_id, metric, period_start, threshold, id, period_end, usage, quota, raised_at,
          next_attempt_at)
         VALUES ({org}, '{key}', now(), 80, gen_random_uuid(), now(), 8, 10, now(), now())",
    ),
    (
        "usage_denials",
        "(organization_id, id, request_id, denied_at, reason, metric)
         VALUES ({org}, md5('{key}')::uuid, '{key}', now(), 'QUOTA_EXCEEDED', 'api_calls')",
    ),
    (
        "outbound_changes",
        "(organization_id, id, first_entry, last_entry) VALUES ({org}, md5('{key}')::uuid, 1, 1)",
    ),
    ("outbound_streams", "(organization_id) VALUES ({org})"),
    (
        "outbound_events",
        "(organization_id, sequence, id, event_type, body)
         VALUES ({org}, 1 + abs(hashtext('{key}')), md5('{key}')::uuid, 'plan.changed', '{}')",
    ),
    (
        "outbound_deliveries",
        "(organization_id, endpoint_id, sequence) VALUES ({org}, md5('{key}')::uuid, 1)",
    ),
    (
        "outbound_lanes",
        "(organization_id, endpoint_id) VALUES ({org}, md5('{key}')::uuid)",
    ),
    (
        "mails",
        "(organization_id, id, kind, fact, resource_id, happened_at)
         VALUES ({org}, md5('{key}')::uuid, 'quota_warning', '{key}', 'api_calls', now())",
    ),
    (
        "billing_revenue_balances",
        "(organization_id, currency, amount, discounted_amount, sequence, occurred_at)
         VALUES ({org}, '{key}', 1, 0, 1, now())",
    ),
    (
        "billing_revenue_movements",
        "(organization_id, currency, sequence, kind, before_amount, after_amount, occurred_at,
          stripe_subscription_id, stripe_event_id)
         VALUES ({org}, '{key}', 1, 'new', 0, 1, now(), 'sub', 'evt')",
    ),
    (
        "usage_reports",
        "(organization_id, identifier, metric, period_start, stripe_customer_id, event_name, units, at, created_at)
         VALUES ({org}, '{key}', 'api_calls', now(), 'cus', 'valuecanvas_api_calls', 1, now(), now())",
    ),
    (
        "usage_charges",
        "(organization_id, id, metric, period_start, stripe_customer_id, stripe_subscription_id,
          stripe_price_id, units, overage_rate, amount, currency, changed_at, charged_by)
         VALUES ({org}, md5('{key}')::uuid, 'api_calls', now(), 'cus', 'sub', 'price', 1, 0.1, 10,
                 'usd', now(), 'change')",
    ),
    (
        "usage_pending_levels",
        "(organization_id, metric, occurred_at, event_id, period_start, quantity)
         VALUES ({org}, 'storage_gb', now(), '{key}', now(), 1)",
    ),
    (
        "billing_customers",
        "(organization_id, stripe_customer_id) VALUES ({org}, 'cus_' || {org} || '{key}')",
    ),
    (
        "billing_subscriptions",
        "(organization_id, stripe_subscription_id, stripe_customer_id, status, stripe_status, livemode, {order})
         VALUES ({org}, '{key}', 'cus', 'active', 'active', false, now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_subscription_items",
        "(organization_id, stripe_subscription_id, stripe_subscription_item_id) VALUES ({org}, 'sub', '{key}')",
    ),
    (
        "billing_discounts",
        "(organization_id, stripe_discount_id, observed_at) VALUES ({org}, '{key}', now())",
    ),
    (
        "billing_subscription_payments",
        "(organization_id, stripe_subscription_id, outcome, stripe_invoice_id, last_event_at, last_event_id)
         VALUES ({org}, '{key}', 'failed', 'in', now(), 'evt')",
    ),
    (
        "billing_invoices",
        "(organization_id, stripe_invoice_id, currency, subtotal_amount, total_amount, amount_due, amount_paid,
          amount_remaining, livemode, {order})
         VALUES ({org}, '{key}', 'usd', 1, 1, 1, 0, 1, false, now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_invoice_items",
        "(organization_id, stripe_invoice_id, stripe_line_item_id, position, amount, currency, proration)
         VALUES ({org}, 'in', '{key}', abs(hashtext('{key}')), 1, 'usd', false)",
    ),
    (
        "billing_charges",
        "(organization_id, stripe_charge_id, status, currency, amount, amount_captured, amount_refunded, paid,
          captured, refunded, disputed, livemode, {order})
         VALUES ({org}, '{key}', 'failed', 'usd', 1, 0, 0, false, false, false, false, false,
                 now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_payment_methods",
        "(organization_id, stripe_payment_method_id, status, type, livemode, {order})
         VALUES ({org}, '{key}', 'attached', 'card', false, now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_alerts",
        "(organization_id, kind, alert_key, resource_type, resource_id, message, occurred_at)
         VALUES ({org}, 'payment_failed', '{key}', 'invoice', 'in', 'A payment failed', now())",
    ),
    (
        "billing_applied_events",
        "(organization_id, stripe_event_id, event_type, resource_id) VALUES ({org}, '{key}', 'invoice.paid', 'in')",
    ),
    (
        "billing_subscription_schedules",
        "(organization_id, stripe_schedule_id, status, livemode, {order})
         VALUES ({org}, '{key}', 'active', false, now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_disputes",
        "(organization_id, stripe_dispute_id, stripe_charge_id, status, currency, amount, livemode, {order})
         VALUES ({org}, '{key}', 'ch', 'lost', 'usd', 1, false, now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_refunds",
        "(organization_id, stripe_refund_id, stripe_charge_id, status, currency, amount, {order})
         VALUES ({org}, '{key}', 'ch', 'failed', 'usd', 1, now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_invoice_payments",
        "(organization_id, stripe_invoice_payment_id, stripe_invoice_id, livemode, {order})
         VALUES ({org}, '{key}', 'in', false, now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_checkout_sessions",
        "(organization_id, stripe_checkout_session_id, livemode, {order})
         VALUES ({org}, '{key}', false, now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "billing_deleted_invoices",
        "(organization_id, stripe_invoice_id, {order}) VALUES ({org}, '{key}', now(), 0, 'evt', ARRAY['evt'])",
    ),
    (
        "webhook_unclaimed_events",
        "(organization_id, waiting_for, stripe_event_id, bucket) VALUES ({org}, 'pm_1', '{key}', 1)",
    ),
    (
        "webhook_events",
        "(organization_id, bucket, stripe_event_id, event_type, livemode, event_created_at, payload)
         VALUES ({org}, 1, {org} || '{key}', 'invoice.paid', false, now(), '{}')",
    ),
    (
        "webhook_dead_letter_queue",
        "(organization_id, bucket, stripe_event_id, event_type, livemode, event_created_at, payload, received_at,
          retry_count, error_message, attempts)
         VALUES ({org}, 1, {org} || '{key}', 'invoice.paid', false, now(), '{}', now(), 20, 'it failed', '[]')",
    ),
    (
        "billing_audit_log",
        "(organization_id, action, actor_type, resource_type, created_at)
         VALUES ({org}, 'test_action', 'system', '{key}', now())",
    ),
    (
        "billing_audit_chain_heads",
        "(organization_id, last_sequence, last_hash) VALUES ({org}, 0, sha256(''))",
    ),
    (
        "billing_audit_personal_data",
        "(organization_id, entry_id, salt, reason)
         VALUES ({org}, gen_random_uuid(), decode(repeat('00', 16), 'hex'), '{key}')",
    ),
    (
        "grace_periods",
        "(organization_id, metric, period_start, period_end, quota, usage_at_start, expires_at)
         VALUES ({org}, '{key}', now(), now() + '1 month', 1, 1, now() + '1 day')",
    ),
    (
        "organization_members",
        "(organization_id, user_id, role) VALUES ({org}, gen_random_uuid(), 'member')",
    ),
    (
        "api_keys",
        "(organization_id, id, name, prefix, key_hash, scopes)
         VALUES ({org}, gen_random_uuid(), '{key}', 'vck_', sha256(''), ARRAY['billing.read'])",
    ),
    (
        "billing_stripe_requests",
        "(organization_id, id, subject, operation, params, state, finished_at)
         VALUES ({org}, gen_random_uuid(), 'customer', 'create', '{}', 'failed', now())",
    ),
    (
        "checkout_sessions",
        "(organization_id, id, state, wish, params, stripe_checkout_session_id, finished_at)
         VALUES ({org}, gen_random_uuid(), 'expired', '{}', '{}', 'cs_{key}', now())",
    ),
    (
        "portal_sessions",
        "(organization_id, id, role, service_key_id, code_hash, code_expires_at, expires_at)
         VALUES ({org}, gen_random_uuid(), 'owner', gen_random_uuid(), sha256('{key}'), now(), now())",
    ),
    (
        "request_idempotency",
        "(organization_id, idempotency_key, fingerprint, lease_id, lease_expires_at, expires_at)
         VALUES ({org}, '{key}', sha256(''), gen_random_uuid(), now(), now() + '1 day')",
    ),
];

/// The statement that inserts a row of `table` for `organization`.
pub fn insert(table: &str, organization: Uuid, key: &str) -> String {
    let (_, row) = ROWS
        .iter()
        .find(|(name, _)| *name == table)
        .unwrap_or_else(|| panic!("say in ROWS what a row of {table} is"));
    let row = row
        .replace("{org}", &format!("'{organization}'"))
        .replace("{key}", key)
        .replace(
            "{order}",
            "last_event_at, last_event_rank, last_event_id, tied_event_ids",
        );
    format!("INSERT INTO {table} {row}")
}

/// The column that says whose a row is.
pub fn column(table: &str) -> &'static str {
    if table == "organizations" {
        "id"
    } else {
        "organization_id"
    }
}

/// The tenants' tables, as the catalog has them. Endpoints are the operator's, though one may
/// be limited to an organization.
pub async fn tables(db: &TestDatabase) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT DISTINCT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
          WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
            AND (a.attname = 'organization_id' OR c.relname = 'organizations')
            AND c.relname NOT IN ('outbound_endpoints', 'trial_cards') ORDER BY 1",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap()
}

/// Two organizations, each with a row in every table.
pub async fn two(db: &TestDatabase) -> [Uuid; 2] {
    let organizations = [Uuid::from_u128(0xa), Uuid::from_u128(0xb)];
    for table in tables(db).await {
        for organization in organizations {
            db.execute(&insert(&table, organization, "1")).await;
        }
    }
    organizations
}

/// What came of a statement: how many rows, or the SQLSTATE of its refusal.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Rows(u64),
    Refused(String),
}

impl Outcome {
    pub fn refused() -> Self {
        Self::Refused("42501".to_owned())
    }

    /// Whether nobody else's row was read or changed.
    pub fn is_nothing(&self) -> bool {
        *self == Self::Rows(0) || *self == Self::refused()
    }
}

/// Runs `statement` as `role`, for `organization`, and undoes it.
pub async fn attempt(
    conn: &mut PgConnection,
    role: &str,
    organization: Option<Uuid>,
    statement: &str,
) -> Outcome {
    let context = organization
        .map(|id| format!("SET LOCAL app.current_org_id = '{id}';"))
        .unwrap_or_default();
    let opening = format!("BEGIN; SET LOCAL ROLE {role}; {context}");
    conn.execute(sqlx::raw_sql(AssertSqlSafe(opening)))
        .await
        .unwrap();
    let result = conn.execute(AssertSqlSafe(statement.to_owned())).await;
    conn.execute("ROLLBACK").await.unwrap();
    match result {
        Ok(done) => Outcome::Rows(done.rows_affected()),
        Err(sqlx::Error::Database(error)) => {
            Outcome::Refused(error.code().unwrap_or_default().into_owned())
        }
        Err(error) => panic!("{statement}: {error}"),
    }
}
