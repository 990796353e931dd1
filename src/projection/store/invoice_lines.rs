//! SQL of invoice lines, by position: in API versions before 2019-12-03, two lines
//! may have the same id.

use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::document;
use crate::projection::invoice::is_deleted;
use crate::projection::versions::merge::MergedObject;
use crate::stripe::objects::{Invoice, InvoiceLine};

#[derive(Serialize)]
struct LineRow<'a> {
    organization_id: Uuid,
    stripe_invoice_id: &'a str,
    position: usize,
    #[serde(flatten)]
    line: &'a InvoiceLine,
}

/// Removes the lines of `changed`. Fetched lines that an event left out stay until
/// they are fetched again.
pub async fn remove(
    conn: &mut PgConnection,
    changed: &[&MergedObject<Invoice>],
) -> Result<(), sqlx::Error> {
    let organizations: Vec<Uuid> = changed.iter().map(|one| one.organization_id).collect();
    let ids: Vec<&str> = changed.iter().map(|one| one.snapshot.id.as_str()).collect();
    let shown: Vec<Option<i32>> = changed
        .iter()
        .map(|one| {
            let cut = one.snapshot.has_more_lines && !is_deleted(&one.version);
            cut.then(|| i32::try_from(one.snapshot.lines.len()).unwrap_or(i32::MAX))
        })
        .collect();
    sqlx::query!(
        "DELETE FROM billing_invoice_items i
          USING unnest($1::uuid[], $2::text[], $3::integer[]) AS gone(organization, id, shown)
          WHERE i.organization_id = gone.organization AND i.stripe_invoice_id = gone.id
            AND (gone.shown IS NULL OR i.position < gone.shown)",
        &organizations,
        &ids as &[&str],
        &shown as &[Option<i32>]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes the lines in events.
pub async fn replace(
    conn: &mut PgConnection,
    changed: &[&MergedObject<Invoice>],
) -> Result<(), sqlx::Error> {
    remove(conn, changed).await?;
    let lines = changed
        .iter()
        .flat_map(|one| rows_of(one.organization_id, &one.snapshot));
    insert(conn, &Vec::from_iter(lines)).await
}

/// Writes all lines of `invoice`.
pub async fn replace_all(
    conn: &mut PgConnection,
    organization_id: Uuid,
    invoice: &Invoice,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM billing_invoice_items WHERE organization_id = $1 AND stripe_invoice_id = $2",
        organization_id,
        invoice.id
    )
    .execute(&mut *conn)
    .await?;
    insert(conn, &Vec::from_iter(rows_of(organization_id, invoice))).await
}

fn rows_of(organization_id: Uuid, invoice: &Invoice) -> impl Iterator<Item = LineRow<'_>> {
    let lines = invoice.lines.iter().enumerate();
    lines.map(move |(position, line)| LineRow {
        organization_id,
        stripe_invoice_id: &invoice.id,
        position,
        line,
    })
}

async fn insert(conn: &mut PgConnection, lines: &[LineRow<'_>]) -> Result<(), sqlx::Error> {
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO billing_invoice_items (
           organization_id, stripe_invoice_id, stripe_line_item_id, position, description,
           amount, currency, quantity, proration, stripe_price_id, stripe_subscription_id,
           stripe_subscription_item_id, period_start, period_end, discount_amount, tax_amount,
           included_tax_amount)
         SELECT
           organization_id, stripe_invoice_id, stripe_line_item_id, position, description,
           amount, currency, quantity, proration, stripe_price_id, stripe_subscription_id,
           stripe_subscription_item_id, period_start, period_end, discount_amount, tax_amount,
           included_tax_amount
           FROM json_populate_recordset(NULL::billing_invoice_items, $1::text::json)",
        document(lines)?
    )
    .execute(conn)
    .await?;
    Ok(())
}
