//! SQL of invoices, their lines, and payment outcomes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{document, invoice_lines, unzip, version};
use crate::projection::invoice::{Payment, is_deleted};
use crate::projection::versions::Version;
use crate::projection::versions::merge::{MergedObject, ObjectKey, Stored, StoredRows};
use crate::stripe::objects::Invoice;

/// The summary of a deleted draft.
pub fn deleted() -> Value {
    json!({"status": "deleted"})
}

pub async fn load(conn: &mut PgConnection, keys: &[ObjectKey]) -> Result<StoredRows, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_invoice_id, number, status, currency, subtotal_amount, tax_amount,
                  total_amount, amount_due, amount_paid, amount_remaining, attempt_count,
                  next_payment_attempt, due_date, period_start, period_end,
                  last_event_at, last_event_rank, last_event_id, tied_event_ids
             FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
             JOIN billing_invoices row
               ON row.organization_id = wanted.organization AND row.stripe_invoice_id = wanted.id"#,
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(&mut *conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let summary = json!({
            "number": row.number,
            "status": row.status,
            "currency": row.currency,
            "subtotalAmount": row.subtotal_amount,
            "taxAmount": row.tax_amount,
            "totalAmount": row.total_amount,
            "dueAmount": row.amount_due,
            "paidAmount": row.amount_paid,
            "remainingAmount": row.amount_remaining,
            "attemptCount": row.attempt_count,
            "nextPaymentAttempt": row.next_payment_attempt.map(|at| at.to_jiff()),
            "dueDate": row.due_date.map(|at| at.to_jiff()),
            "periodStart": row.period_start.map(|at| at.to_jiff()),
            "periodEnd": row.period_end.map(|at| at.to_jiff()),
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
    let mut stored: StoredRows = stored.collect();
    stored.extend(load_deleted(conn, &organizations, &ids).await?);
    Ok(stored)
}

async fn load_deleted(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    ids: &[&str],
) -> Result<StoredRows, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, stripe_invoice_id, last_event_at, last_event_rank, last_event_id,
                tied_event_ids
           FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
           JOIN billing_deleted_invoices row
             ON row.organization_id = wanted.organization AND row.stripe_invoice_id = wanted.id",
        organizations,
        ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let version = version(
            row.last_event_at,
            row.last_event_rank,
            row.last_event_id,
            row.tied_event_ids,
        );
        let summary = deleted();
        (
            (row.organization_id, row.stripe_invoice_id),
            Stored { summary, version },
        )
    });
    Ok(stored.collect())
}

/// Writes invoices with their lines, and deletes deleted drafts.
pub async fn save(
    conn: &mut PgConnection,
    changed: &[MergedObject<Invoice>],
) -> Result<(), sqlx::Error> {
    let is_gone = |merged: &&MergedObject<Invoice>| is_deleted(&merged.version);
    let (gone, kept): (Vec<&MergedObject<Invoice>>, Vec<&MergedObject<Invoice>>) =
        changed.iter().partition(is_gone);
    remove(conn, &gone).await?;
    write(conn, &kept).await
}

#[derive(Serialize)]
struct DeletedRow<'a> {
    organization_id: Uuid,
    stripe_invoice_id: &'a str,
    #[serde(flatten)]
    version: &'a Version,
}

async fn remove(
    conn: &mut PgConnection,
    gone: &[&MergedObject<Invoice>],
) -> Result<(), sqlx::Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let rows: Vec<DeletedRow<'_>> = gone
        .iter()
        .map(|merged| DeletedRow {
            organization_id: merged.organization_id,
            stripe_invoice_id: &merged.snapshot.id,
            version: &merged.version,
        })
        .collect();
    sqlx::query!(
        "INSERT INTO billing_deleted_invoices (organization_id, stripe_invoice_id, last_event_at,
                                               last_event_rank, last_event_id, tied_event_ids)
         SELECT organization_id, stripe_invoice_id, last_event_at, last_event_rank, last_event_id,
                tied_event_ids
           FROM json_populate_recordset(NULL::billing_deleted_invoices, $1::text::json)
         ON CONFLICT (organization_id, stripe_invoice_id) DO UPDATE SET
           last_event_at = excluded.last_event_at, last_event_rank = excluded.last_event_rank,
           last_event_id = excluded.last_event_id, tied_event_ids = excluded.tied_event_ids",
        document(&rows)?
    )
    .execute(&mut *conn)
    .await?;
    invoice_lines::remove(conn, gone).await?;
    let organizations: Vec<Uuid> = gone.iter().map(|merged| merged.organization_id).collect();
    let ids: Vec<&str> = gone
        .iter()
        .map(|merged| merged.snapshot.id.as_str())
        .collect();
    sqlx::query!(
        "DELETE FROM billing_invoices i USING unnest($1::uuid[], $2::text[]) AS gone(organization, id)
          WHERE i.organization_id = gone.organization AND i.stripe_invoice_id = gone.id",
        &organizations,
        &ids as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn write(
    conn: &mut PgConnection,
    changed: &[&MergedObject<Invoice>],
) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(|merged| merged.row()).collect();
    sqlx::query!(
        "INSERT INTO billing_invoices (
           organization_id, stripe_invoice_id, stripe_customer_id, stripe_subscription_id,
           number, status, billing_reason, collection_method, currency, subtotal_amount,
           tax_amount, total_amount, amount_due, amount_paid, amount_remaining,
           starting_balance, ending_balance, attempt_count, next_payment_attempt, period_start,
           period_end, due_date, finalized_at, paid_at, voided_at, hosted_invoice_url,
           invoice_pdf, has_more_items, ask_again_since, metadata, livemode, stripe_created_at,
           last_event_at, last_event_rank, last_event_id, tied_event_ids, discount_amount,
           included_tax_amount)
         SELECT
           organization_id, stripe_invoice_id, stripe_customer_id, stripe_subscription_id,
           number, status, billing_reason, collection_method, currency, subtotal_amount,
           tax_amount, total_amount, amount_due, amount_paid, amount_remaining,
           starting_balance, ending_balance, attempt_count, next_payment_attempt, period_start,
           period_end, due_date, finalized_at, paid_at, voided_at, hosted_invoice_url,
           invoice_pdf, has_more_items, CASE WHEN has_more_items THEN now() END, metadata, livemode,
           stripe_created_at, last_event_at, last_event_rank, last_event_id, tied_event_ids,
           discount_amount, included_tax_amount
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
           ask_again_since = excluded.ask_again_since,
           metadata = excluded.metadata, livemode = excluded.livemode, stripe_created_at =
           excluded.stripe_created_at, last_event_at = excluded.last_event_at, last_event_rank =
           excluded.last_event_rank, last_event_id = excluded.last_event_id, tied_event_ids =
           excluded.tied_event_ids, discount_amount = excluded.discount_amount,
           included_tax_amount = excluded.included_tax_amount, updated_at = excluded.updated_at",
        document(&rows)?
    )
    .execute(&mut *conn)
    .await?;
    invoice_lines::replace(conn, changed).await
}

/// Stores when invoices failed first. The earliest time stays, in whatever order the
/// failures come.
pub async fn note_failures(
    conn: &mut PgConnection,
    failures: &BTreeMap<ObjectKey, Timestamp>,
) -> Result<(), sqlx::Error> {
    if failures.is_empty() {
        return Ok(());
    }
    let keys: Vec<ObjectKey> = failures.keys().cloned().collect();
    let (organizations, ids) = unzip(&keys);
    let times: Vec<_> = failures.values().map(|at| at.to_sqlx()).collect();
    sqlx::query!(
        "UPDATE billing_invoices i SET first_failed_at = failed.at
           FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS failed(organization, id, at)
          WHERE i.organization_id = failed.organization AND i.stripe_invoice_id = failed.id
            AND (i.first_failed_at IS NULL OR i.first_failed_at > failed.at)",
        &organizations,
        &ids as &[&str],
        &times as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores the newest outcome of each subscription, by [`Payment::order`].
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
