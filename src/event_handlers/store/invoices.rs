//! Invoices, their lines, and what payments say, as rows.

use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{document, unzip, version};
use crate::event_handlers::fold::{Folded, Key, Stored, StoredRows};
use crate::event_handlers::invoice::Payment;
use crate::stripe::objects::{Invoice, InvoiceLine};

pub async fn load(conn: &mut PgConnection, keys: &[Key]) -> Result<StoredRows, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_invoice_id, status, currency, total_amount, amount_due, amount_paid,
                  amount_remaining, attempt_count,
                  last_event_at, last_event_rank, last_event_id, tied_event_ids
             FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
             JOIN billing_invoices row
               ON row.organization_id = wanted.organization AND row.stripe_invoice_id = wanted.id"#,
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let summary = json!({
            "status": row.status,
            "currency": row.currency,
            "totalAmount": row.total_amount,
            "dueAmount": row.amount_due,
            "paidAmount": row.amount_paid,
            "remainingAmount": row.amount_remaining,
            "attemptCount": row.attempt_count,
        });
        let version = version(
            row.last_event_at,
            row.last_event_rank,
            row.last_event_id,
            row.tied_event_ids,
        );
        (
            (row.organization_id, row.stripe_invoice_id),
            Stored { summary, version },
        )
    });
    Ok(stored.collect())
}

pub async fn save(conn: &mut PgConnection, changed: &[Folded<Invoice>]) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(Folded::row).collect();
    sqlx::query!(
        "INSERT INTO billing_invoices (
           organization_id, stripe_invoice_id, stripe_customer_id, stripe_subscription_id,
           number, status, billing_reason, collection_method, currency, subtotal_amount,
           tax_amount, total_amount, amount_due, amount_paid, amount_remaining,
           starting_balance, ending_balance, attempt_count, next_payment_attempt, period_start,
           period_end, due_date, finalized_at, paid_at, voided_at, hosted_invoice_url,
           invoice_pdf, has_more_items, metadata, livemode, stripe_created_at, last_event_at,
           last_event_rank, last_event_id, tied_event_ids)
         SELECT
           organization_id, stripe_invoice_id, stripe_customer_id, stripe_subscription_id,
           number, status, billing_reason, collection_method, currency, subtotal_amount,
           tax_amount, total_amount, amount_due, amount_paid, amount_remaining,
           starting_balance, ending_balance, attempt_count, next_payment_attempt, period_start,
           period_end, due_date, finalized_at, paid_at, voided_at, hosted_invoice_url,
           invoice_pdf, has_more_items, metadata, livemode, stripe_created_at, last_event_at,
           last_event_rank, last_event_id, tied_event_ids
           FROM json_populate_recordset(NULL::billing_invoices, $1::text::json)
         ON CONFLICT (organization_id, stripe_invoice_id) DO UPDATE SET
           stripe_customer_id = excluded.stripe_customer_id, stripe_subscription_id =
           excluded.stripe_subscription_id, number = excluded.number, status = excluded.status,
           billing_reason = excluded.billing_reason, collection_method =
           excluded.collection_method, currency = excluded.currency, subtotal_amount =
           excluded.subtotal_amount, tax_amount = excluded.tax_amount, total_amount =
           excluded.total_amount, amount_due = excluded.amount_due, amount_paid =
           excluded.amount_paid, amount_remaining = excluded.amount_remaining, starting_balance
           = excluded.starting_balance, ending_balance = excluded.ending_balance, attempt_count
           = excluded.attempt_count, next_payment_attempt = excluded.next_payment_attempt,
           period_start = excluded.period_start, period_end = excluded.period_end, due_date =
           excluded.due_date, finalized_at = excluded.finalized_at, paid_at = excluded.paid_at,
           voided_at = excluded.voided_at, hosted_invoice_url = excluded.hosted_invoice_url,
           invoice_pdf = excluded.invoice_pdf, has_more_items = excluded.has_more_items,
           metadata = excluded.metadata, livemode = excluded.livemode, stripe_created_at =
           excluded.stripe_created_at, last_event_at = excluded.last_event_at, last_event_rank =
           excluded.last_event_rank, last_event_id = excluded.last_event_id, tied_event_ids =
           excluded.tied_event_ids, updated_at = excluded.updated_at",
        document(&rows)?
    )
    .execute(&mut *conn)
    .await?;
    replace_lines(conn, changed).await
}

#[derive(Serialize)]
struct LineRow<'a> {
    organization_id: Uuid,
    stripe_invoice_id: &'a str,
    position: usize,
    #[serde(flatten)]
    line: &'a InvoiceLine,
}

async fn replace_lines(
    conn: &mut PgConnection,
    changed: &[Folded<Invoice>],
) -> Result<(), sqlx::Error> {
    let (organizations, ids): (Vec<Uuid>, Vec<&str>) = changed
        .iter()
        .map(|folded| (folded.organization_id, folded.snapshot.id.as_str()))
        .unzip();
    sqlx::query!(
        "DELETE FROM billing_invoice_items i USING unnest($1::uuid[], $2::text[]) AS gone(organization, id)
          WHERE i.organization_id = gone.organization AND i.stripe_invoice_id = gone.id",
        &organizations,
        &ids as &[&str]
    )
    .execute(&mut *conn)
    .await?;
    let lines: Vec<LineRow<'_>> = changed
        .iter()
        .flat_map(|folded| {
            folded
                .snapshot
                .lines
                .iter()
                .enumerate()
                .map(|(position, line)| LineRow {
                    organization_id: folded.organization_id,
                    stripe_invoice_id: &folded.snapshot.id,
                    position,
                    line,
                })
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO billing_invoice_items (
           organization_id, stripe_invoice_id, stripe_line_item_id, position, description,
           amount, currency, quantity, proration, stripe_price_id, stripe_subscription_id,
           stripe_subscription_item_id, period_start, period_end)
         SELECT
           organization_id, stripe_invoice_id, stripe_line_item_id, position, description,
           amount, currency, quantity, proration, stripe_price_id, stripe_subscription_id,
           stripe_subscription_item_id, period_start, period_end
           FROM json_populate_recordset(NULL::billing_invoice_items, $1::text::json)",
        document(&lines)?
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps the newest outcome of each subscription, in the order of [`Payment::order`].
pub async fn save_payments(
    conn: &mut PgConnection,
    payments: &[Payment],
) -> Result<(), sqlx::Error> {
    if payments.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO billing_subscription_payments AS known (
           organization_id, stripe_subscription_id, outcome, billing_reason, stripe_invoice_id,
           last_event_at, last_event_id)
         SELECT organization_id, stripe_subscription_id, outcome, billing_reason, stripe_invoice_id,
           last_event_at, last_event_id
           FROM json_populate_recordset(NULL::billing_subscription_payments, $1::text::json)
         ON CONFLICT (organization_id, stripe_subscription_id) DO UPDATE SET
           outcome = excluded.outcome, billing_reason = excluded.billing_reason,
           stripe_invoice_id = excluded.stripe_invoice_id, last_event_at = excluded.last_event_at,
           last_event_id = excluded.last_event_id
          WHERE (known.last_event_at, known.outcome = 'succeeded', known.last_event_id)
              < (excluded.last_event_at, excluded.outcome = 'succeeded', excluded.last_event_id)",
        document(payments)?
    )
    .execute(conn)
    .await?;
    Ok(())
}
