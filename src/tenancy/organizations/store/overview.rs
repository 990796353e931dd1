//! SQL for everything about one organization, for support: its plan and quotas,
//! and what it was charged for.

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

/// Rows in each list.
const ROWS: i64 = 20;

/// An organization as support sees it; each list has its newest rows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    pub organization: Value,
    pub customers: Vec<Value>,
    pub subscriptions: Vec<Value>,
    pub invoices: Vec<Value>,
    pub charges: Vec<Value>,
    pub payment_methods: Vec<Value>,
    pub usage: Vec<Value>,
    pub quotas: Vec<Value>,
    pub features: Vec<Value>,
    pub grace_periods: Vec<Value>,
    pub alerts: Vec<Value>,
    pub usage_alerts: Vec<Value>,
    pub open_requests: Vec<Value>,
}

/// Reads an overview in the organization's own transaction.
pub async fn overview(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<Overview>, sqlx::Error> {
    let organization = sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('id', id, 'name', name, 'externalId', external_id,
                  'email', email, 'planTier', plan_tier, 'basePlanTier', base_plan_tier,
                  'metadata', metadata, 'createdAt', created_at, 'archivedAt', archived_at,
                  'erasedAt', erased_at) AS "row!: Value"
             FROM organizations WHERE id = $1"#,
        organization_id
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(organization) = organization else {
        return Ok(None);
    };
    Ok(Some(Overview {
        organization,
        customers: customers(conn, organization_id).await?,
        subscriptions: subscriptions(conn, organization_id).await?,
        invoices: invoices(conn, organization_id).await?,
        charges: charges(conn, organization_id).await?,
        payment_methods: payment_methods(conn, organization_id).await?,
        usage: usage(conn, organization_id).await?,
        quotas: quotas(conn, organization_id).await?,
        features: features(conn, organization_id).await?,
        grace_periods: grace_periods(conn, organization_id).await?,
        alerts: alerts(conn, organization_id).await?,
        usage_alerts: usage_alerts(conn, organization_id).await?,
        open_requests: open_requests(conn, organization_id).await?,
    }))
}

async fn customers(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('stripeCustomerId', stripe_customer_id, 'linkedAt', linked_at,
                  'deletedAt', deleted_at, 'createdAt', created_at) AS "row!: Value"
             FROM billing_customers WHERE organization_id = $1
            ORDER BY linked_at DESC NULLS LAST, created_at, stripe_customer_id LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn subscriptions(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('stripeSubscriptionId', s.stripe_subscription_id,
                  'stripeCustomerId', s.stripe_customer_id, 'status', s.status,
                  'planTier', s.plan_tier, 'currency', s.currency,
                  'currentPeriodStart', s.current_period_start,
                  'currentPeriodEnd', s.current_period_end, 'trialEnd', s.trial_end,
                  'cancelAt', s.cancel_at, 'cancelAtPeriodEnd', s.cancel_at_period_end,
                  'canceledAt', s.canceled_at, 'endedAt', s.ended_at,
                  'items', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                              'stripePriceId', i.stripe_price_id, 'lookupKey', i.lookup_key,
                              'quantity', i.quantity, 'unitAmount', i.unit_amount,
                              'currency', i.currency, 'usageType', i.usage_type)
                              ORDER BY i.stripe_subscription_item_id), '[]')
                     FROM billing_subscription_items i
                    WHERE i.organization_id = s.organization_id
                      AND i.stripe_subscription_id = s.stripe_subscription_id)) AS "row!: Value"
             FROM billing_subscriptions s WHERE s.organization_id = $1
            ORDER BY s.ended_at DESC NULLS FIRST, s.stripe_created_at DESC LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn invoices(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('stripeInvoiceId', v.stripe_invoice_id, 'number', v.number,
                  'status', v.status, 'billingReason', v.billing_reason, 'currency', v.currency,
                  'totalAmount', v.total_amount, 'dueAmount', v.amount_due,
                  'paidAmount', v.amount_paid, 'remainingAmount', v.amount_remaining,
                  'createdAt', v.stripe_created_at, 'paidAt', v.paid_at,
                  'lines', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                              'description', l.description, 'amount', l.amount,
                              'quantity', l.quantity, 'periodStart', l.period_start,
                              'periodEnd', l.period_end, 'proration', l.proration)
                              ORDER BY l.position), '[]')
                     FROM billing_invoice_items l
                    WHERE l.organization_id = v.organization_id
                      AND l.stripe_invoice_id = v.stripe_invoice_id)) AS "row!: Value"
             FROM billing_invoices v WHERE v.organization_id = $1
            ORDER BY v.stripe_created_at DESC NULLS LAST LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn charges(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('stripeChargeId', stripe_charge_id,
                  'stripeInvoiceId', stripe_invoice_id, 'status', status, 'currency', currency,
                  'amount', amount, 'refundedAmount', amount_refunded, 'disputed', disputed,
                  'failureCode', failure_code, 'failureMessage', failure_message,
                  'createdAt', stripe_created_at) AS "row!: Value"
             FROM billing_charges WHERE organization_id = $1
            ORDER BY stripe_created_at DESC NULLS LAST LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn payment_methods(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('stripePaymentMethodId', stripe_payment_method_id,
                  'status', status, 'type', type, 'brand', brand, 'last4', last4,
                  'expMonth', exp_month, 'expYear', exp_year) AS "row!: Value"
             FROM billing_payment_methods WHERE organization_id = $1
            ORDER BY status, stripe_created_at DESC NULLS LAST LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn usage(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('metric', metric, 'periodStart', period_start,
                  'periodEnd', period_end, 'total', total::text, 'reserved', reserved::text,
                  'reported', reported::text) AS "row!: Value"
             FROM usage_totals WHERE organization_id = $1
            ORDER BY period_start DESC, metric LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn quotas(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('metric', q.metric, 'planTier', q.plan_tier,
                  'quota', q.quota::text, 'unlimited', q.unlimited, 'overLimit', q.over_limit,
                  'overageRate', q.overage_rate::text,
                  'override', (SELECT jsonb_build_object('quota', o.quota::text,
                              'unlimited', o.unlimited, 'overLimit', o.over_limit,
                              'reason', o.reason, 'expiresAt', o.expires_at, 'setBy', o.set_by,
                              'updatedAt', o.updated_at)
                     FROM usage_quota_overrides o
                    WHERE o.organization_id = q.organization_id AND o.metric = q.metric)) AS "row!: Value"
             FROM usage_quotas q WHERE q.organization_id = $1 ORDER BY q.metric"#,
        id
    )
    .fetch_all(conn)
    .await
}

async fn features(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('feature', coalesce(f.feature, o.feature),
                  'planTier', f.plan_tier, 'planValue', f.value,
                  'override', CASE WHEN o.feature IS NOT NULL THEN
                     jsonb_build_object('value', o.value, 'reason', o.reason,
                              'expiresAt', o.expires_at, 'setBy', o.set_by,
                              'createdAt', o.created_at) END) AS "row!: Value"
             FROM (SELECT * FROM organization_features WHERE organization_id = $1) f
             FULL JOIN (SELECT * FROM feature_overrides WHERE organization_id = $1
                           AND (expires_at IS NULL OR expires_at > now())) o
               ON o.feature = f.feature
            ORDER BY coalesce(f.feature, o.feature)"#,
        id
    )
    .fetch_all(conn)
    .await
}

async fn grace_periods(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('metric', metric, 'startedAt', started_at,
                  'expiresAt', expires_at, 'endedAt', ended_at, 'endReason', end_reason)
                  AS "row!: Value"
             FROM grace_periods WHERE organization_id = $1 ORDER BY started_at DESC LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn alerts(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('kind', kind, 'resourceId', resource_id, 'message', message,
                  'occurredAt', occurred_at) AS "row!: Value"
             FROM billing_alerts WHERE organization_id = $1 ORDER BY occurred_at DESC LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn usage_alerts(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('metric', metric, 'threshold', threshold,
                  'usage', usage::text, 'quota', quota::text, 'raisedAt', raised_at)
                  AS "row!: Value"
             FROM usage_alerts WHERE organization_id = $1 ORDER BY raised_at DESC LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}

async fn open_requests(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('id', id, 'operation', operation, 'subject', subject,
                  'targetId', target_id, 'createdAt', created_at,
                  'recoveryAttempts', recovery_attempts, 'recoveryError', recovery_error,
                  'abandonedAt', abandoned_at) AS "row!: Value"
             FROM billing_stripe_requests
            WHERE organization_id = $1 AND (state = 'open' OR abandoned_at IS NOT NULL)
            ORDER BY created_at DESC LIMIT $2"#,
        id,
        ROWS
    )
    .fetch_all(conn)
    .await
}
