//! SQL for invoices.

use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Details, Invoice, Line, Position};
use crate::db::{RequestTx, TenantTx};

struct Row {
    stripe_invoice_id: String,
    number: Option<String>,
    status: Option<String>,
    billing_reason: Option<String>,
    currency: String,
    subtotal_amount: i64,
    discount_amount: Option<i64>,
    included_tax_amount: Option<i64>,
    tax_amount: Option<i64>,
    total_amount: i64,
    amount_due: i64,
    amount_paid: i64,
    amount_remaining: i64,
    period_start: Option<jiff_sqlx::Timestamp>,
    period_end: Option<jiff_sqlx::Timestamp>,
    due_date: Option<jiff_sqlx::Timestamp>,
    paid_at: Option<jiff_sqlx::Timestamp>,
    stripe_created_at: Option<jiff_sqlx::Timestamp>,
    hosted_invoice_url: Option<String>,
    has_pdf: bool,
    has_more_items: bool,
}

impl From<Row> for Invoice {
    fn from(row: Row) -> Self {
        Self {
            id: row.stripe_invoice_id,
            number: row.number,
            status: row.status,
            billing_reason: row.billing_reason,
            currency: row.currency,
            subtotal_amount: row.subtotal_amount,
            discount_amount: row.discount_amount,
            included_tax_amount: row.included_tax_amount,
            tax_amount: row.tax_amount,
            total_amount: row.total_amount,
            due_amount: row.amount_due,
            paid_amount: row.amount_paid,
            remaining_amount: row.amount_remaining,
            period_start: row.period_start.map(|at| at.to_jiff()),
            period_end: row.period_end.map(|at| at.to_jiff()),
            due_date: row.due_date.map(|at| at.to_jiff()),
            paid_at: row.paid_at.map(|at| at.to_jiff()),
            created_at: row.stripe_created_at.map(|at| at.to_jiff()),
            hosted_invoice_url: row.hosted_invoice_url,
            has_pdf: row.has_pdf,
        }
    }
}

/// Lists invoices other than drafts, newest first; those without a time from
/// Stripe come last.
pub async fn list(
    tx: &mut RequestTx,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<Invoice>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let (begun, created_at, id) = match after {
        Some(position) => (true, position.created_at, position.id.as_str()),
        None => (false, None, ""),
    };
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT stripe_invoice_id, number, status, billing_reason, currency, subtotal_amount,
                  discount_amount, included_tax_amount, tax_amount, total_amount, amount_due, amount_paid, amount_remaining, period_start,
                  period_end, due_date, paid_at, stripe_created_at, hosted_invoice_url,
                  invoice_pdf IS NOT NULL AS "has_pdf!", has_more_items
             FROM billing_invoices
            WHERE organization_id = $1 AND status IS DISTINCT FROM 'draft'
              AND (NOT $2 OR (coalesce(stripe_created_at, '-infinity'), stripe_invoice_id)
                           < (coalesce($3::timestamptz, '-infinity'), $4))
            ORDER BY coalesce(stripe_created_at, '-infinity') DESC, stripe_invoice_id DESC
            LIMIT $5"#,
        organization_id,
        begun,
        created_at.map(|at| at.to_sqlx()) as _,
        id,
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(Invoice::from).collect())
}

/// The newest open invoices with an amount still to be paid.
pub async fn unpaid(tx: &mut RequestTx, limit: i64) -> Result<Vec<Invoice>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT stripe_invoice_id, number, status, billing_reason, currency, subtotal_amount,
                  discount_amount, included_tax_amount, tax_amount, total_amount, amount_due, amount_paid, amount_remaining, period_start,
                  period_end, due_date, paid_at, stripe_created_at, hosted_invoice_url,
                  invoice_pdf IS NOT NULL AS "has_pdf!", has_more_items
             FROM billing_invoices
            WHERE organization_id = $1 AND status = 'open' AND amount_remaining > 0
            ORDER BY stripe_created_at DESC LIMIT $2"#,
        organization_id,
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(Invoice::from).collect())
}

/// Reads an invoice of the organization with its lines.
pub async fn one(tx: &mut RequestTx, id: &str) -> Result<Option<Details>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let row = sqlx::query_as!(
        Row,
        r#"SELECT stripe_invoice_id, number, status, billing_reason, currency, subtotal_amount,
                  discount_amount, included_tax_amount, tax_amount, total_amount, amount_due, amount_paid, amount_remaining, period_start,
                  period_end, due_date, paid_at, stripe_created_at, hosted_invoice_url,
                  invoice_pdf IS NOT NULL AS "has_pdf!", has_more_items
             FROM billing_invoices WHERE organization_id = $1 AND stripe_invoice_id = $2"#,
        organization_id,
        id
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let lines = sqlx::query!(
        "SELECT description, amount, discount_amount, tax_amount, included_tax_amount, currency,
                quantity, proration, period_start, period_end
           FROM billing_invoice_items WHERE organization_id = $1 AND stripe_invoice_id = $2
          ORDER BY position, stripe_line_item_id",
        organization_id,
        id
    )
    .fetch_all(tx.conn())
    .await?;
    let lines = lines.into_iter().map(|line| Line {
        description: line.description,
        amount: line.amount,
        discount_amount: line.discount_amount,
        tax_amount: line.tax_amount,
        included_tax_amount: line.included_tax_amount,
        currency: line.currency,
        quantity: line.quantity,
        proration: line.proration,
        period_start: line.period_start.map(|at| at.to_jiff()),
        period_end: line.period_end.map(|at| at.to_jiff()),
    });
    Ok(Some(Details {
        has_more_lines: row.has_more_items,
        lines: lines.collect(),
        invoice: row.into(),
    }))
}

/// The URL of an invoice's PDF.
pub async fn pdf(tx: &mut RequestTx, id: &str) -> Result<Option<String>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let address = sqlx::query_scalar!(
        "SELECT invoice_pdf FROM billing_invoices
          WHERE organization_id = $1 AND stripe_invoice_id = $2",
        organization_id,
        id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(address.flatten())
}

/// An invoice with missing lines.
pub struct Incomplete {
    pub organization_id: Uuid,
    pub id: String,
    /// The event that last wrote it.
    pub last_event_id: String,
}

/// Invoices whose lines are due to be fetched, the longest waiting first.
pub async fn incomplete(
    conn: &mut PgConnection,
    limit: i64,
) -> Result<Vec<Incomplete>, sqlx::Error> {
    sqlx::query_as!(
        Incomplete,
        "SELECT organization_id, stripe_invoice_id AS id, last_event_id FROM billing_invoices
          WHERE ask_again_since <= now() ORDER BY ask_again_since LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await
}

/// Whether no event has written the invoice since it was read.
pub async fn is_unchanged(tx: &mut TenantTx, invoice: &Incomplete) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let found = sqlx::query_scalar!(
        "SELECT stripe_invoice_id FROM billing_invoices
          WHERE organization_id = $1 AND stripe_invoice_id = $2 AND last_event_id = $3",
        organization_id,
        invoice.id,
        invoice.last_event_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found.is_some())
}

/// Records that an invoice has all of its lines.
pub async fn mark_complete(tx: &mut TenantTx, id: &str) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE billing_invoices SET has_more_items = false, ask_again_since = NULL, updated_at = now()
          WHERE organization_id = $1 AND stripe_invoice_id = $2",
        organization_id,
        id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Postpones fetching an invoice's lines.
pub async fn postpone(tx: &mut TenantTx, id: &str) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE billing_invoices SET ask_again_since = now() + interval '5 minutes'
          WHERE organization_id = $1 AND stripe_invoice_id = $2 AND has_more_items",
        organization_id,
        id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
