//! SQL that shows what a transaction has changed of an organization's billing state.

use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

/// A column of a row, as text: numbers stay what they are.
#[derive(Debug, Clone)]
pub struct Cell {
    pub table: String,
    pub row: String,
    pub column: String,
    pub value: Option<String>,
}

impl Cell {
    /// Which row it is of.
    pub fn key(&self) -> String {
        format!("{} {}", self.table, self.row)
    }
}

/// The id of the transaction, as rows have it.
pub async fn transaction(conn: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT pg_current_xact_id()::xid::text AS "id!""#)
        .fetch_one(conn)
        .await
}

/// The rows of all that processing writes of an organization, each table with its key:
/// `$whose`, and of those the rows that the transaction wrote or removed, or that are named.
macro_rules! rows_of {
    ($conn:expr, $organization:expr, $transaction:expr, $keys:expr;
     $first:literal, $first_key:literal, $first_whose:literal
     $(; $table:literal, $key:literal, $whose:literal)*) => {
        sqlx::query!(
            "SELECT tab AS \"table!\", row_key AS \"row!\", c.key AS \"column!\", c.value
               FROM (SELECT '" + $first + "' AS tab, " + $first_key + " AS row_key, to_jsonb(t) AS whole
                       FROM " + $first + " t WHERE " + $first_whose + "
                        AND (xmin = $2::text::xid OR xmax = $2::text::xid
                             OR '" + $first + " ' || " + $first_key + " = ANY ($3::text[]))"
            $(+ " UNION ALL
                     SELECT '" + $table + "', " + $key + ", to_jsonb(t)
                       FROM " + $table + " t WHERE " + $whose + "
                        AND (xmin = $2::text::xid OR xmax = $2::text::xid
                             OR '" + $table + " ' || " + $key + " = ANY ($3::text[]))")*
            + ") written, jsonb_each_text(whole) c
              WHERE c.key <> 'organization_id'",
            $organization,
            $transaction,
            $keys
        )
        .fetch_all($conn)
        .await
    };
}

/// The rows of an organization that the transaction `id` wrote, as `conn` sees them, and those
/// named by `keys`. Its own connection sees them as they are after it, others as they were.
pub async fn rows(
    conn: &mut PgConnection,
    organization: Uuid,
    id: &str,
    keys: &[String],
) -> Result<Vec<Cell>, sqlx::Error> {
    let rows = rows_of!(
        conn, organization, id, keys;
        "organizations", "id::text", "id = $1";
        "billing_customers", "stripe_customer_id", "organization_id = $1";
        "billing_subscriptions", "stripe_subscription_id", "organization_id = $1";
        "billing_subscription_items", "stripe_subscription_item_id", "organization_id = $1";
        "billing_subscription_payments", "stripe_subscription_id", "organization_id = $1";
        "billing_subscription_schedules", "stripe_schedule_id", "organization_id = $1";
        "billing_invoices", "stripe_invoice_id", "organization_id = $1";
        "billing_invoice_items", "(stripe_invoice_id || ' ' || position)", "organization_id = $1";
        "billing_invoice_payments", "stripe_invoice_payment_id", "organization_id = $1";
        "billing_deleted_invoices", "stripe_invoice_id", "organization_id = $1";
        "billing_charges", "stripe_charge_id", "organization_id = $1";
        "billing_disputes", "stripe_dispute_id", "organization_id = $1";
        "billing_refunds", "stripe_refund_id", "organization_id = $1";
        "billing_payment_methods", "stripe_payment_method_id", "organization_id = $1";
        "billing_discounts", "stripe_discount_id", "organization_id = $1";
        "billing_checkout_sessions", "stripe_checkout_session_id", "organization_id = $1";
        "billing_alerts", "(kind || ' ' || alert_key)", "organization_id = $1";
        "usage_quotas", "metric", "organization_id = $1";
        "grace_periods", "(metric || ' ' || period_start)", "organization_id = $1";
        "organization_features", "feature", "organization_id = $1"
    )?;
    let cells = rows.into_iter().map(|row| Cell {
        table: row.table,
        row: row.row,
        column: row.column,
        value: row.value,
    });
    Ok(cells.collect())
}

/// An entry of the audit log.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RehearsedEntry)]
pub struct Entered {
    #[schema(example = "subscription_updated")]
    pub action: String,
    #[schema(required)]
    pub resource_type: Option<String>,
    #[schema(required)]
    pub resource_id: Option<String>,
}

/// The sequence of the organization's last entry.
pub async fn last_entry(conn: &mut PgConnection, organization: Uuid) -> Result<i64, sqlx::Error> {
    let last = sqlx::query_scalar!(
        "SELECT last_sequence FROM billing_audit_chain_heads WHERE organization_id = $1",
        organization
    )
    .fetch_optional(conn)
    .await?;
    Ok(last.unwrap_or(0))
}

/// The entries that come after `last`.
pub async fn entries(
    conn: &mut PgConnection,
    organization: Uuid,
    last: i64,
) -> Result<Vec<Entered>, sqlx::Error> {
    sqlx::query_as!(
        Entered,
        "SELECT action, resource_type, resource_id FROM billing_audit_log
          WHERE organization_id = $1 AND sequence > $2 ORDER BY sequence",
        organization,
        last
    )
    .fetch_all(conn)
    .await
}
