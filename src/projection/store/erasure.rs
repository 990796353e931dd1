//! SQL for taking personal data out of the mirror. Amounts stay.

use sqlx::PgConnection;
use uuid::Uuid;

pub async fn delete_payment_methods(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "DELETE FROM billing_payment_methods WHERE organization_id = $1",
        organization_id
    );
    Ok(deleted.execute(conn).await?.rows_affected())
}

/// Clears the messages of alerts, which name invoices and their pages.
pub async fn clear_alerts(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<u64, sqlx::Error> {
    let cleared = sqlx::query!(
        "UPDATE billing_alerts SET message = 'erased'
          WHERE organization_id = $1 AND message <> 'erased'",
        organization_id
    );
    Ok(cleared.execute(conn).await?.rows_affected())
}

/// Clears what is personal in mirrored objects that are kept for their amounts. Returns the rows
/// affected.
pub async fn clear_texts(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<u64, sqlx::Error> {
    let mut rows = 0;
    let subscriptions = sqlx::query!(
        "UPDATE billing_subscriptions SET metadata = '{}', default_payment_method_id = NULL, pending_update = NULL,
                cancellation_comment = NULL
          WHERE organization_id = $1",
        organization_id
    );
    rows += subscriptions.execute(&mut *conn).await?.rows_affected();
    let customers = sqlx::query!(
        "UPDATE billing_customers SET tax_country = NULL
          WHERE organization_id = $1 AND tax_country IS NOT NULL",
        organization_id
    );
    rows += customers.execute(&mut *conn).await?.rows_affected();
    rows += clear_documents(conn, organization_id).await?;
    let sessions = sqlx::query!(
        "UPDATE billing_checkout_sessions SET metadata = '{}', client_reference_id = NULL
          WHERE organization_id = $1",
        organization_id
    );
    rows += sessions.execute(&mut *conn).await?.rows_affected();
    let schedules = sqlx::query!(
        "UPDATE billing_subscription_schedules SET metadata = '{}' WHERE organization_id = $1",
        organization_id
    );
    rows += schedules.execute(&mut *conn).await?.rows_affected();
    // Codes and coupons may be made for one customer.
    let discounts = sqlx::query!(
        "UPDATE billing_discounts SET promotion_code = NULL, coupon_name = NULL
          WHERE organization_id = $1 AND coalesce(promotion_code, coupon_name) IS NOT NULL",
        organization_id
    );
    rows += discounts.execute(&mut *conn).await?.rows_affected();
    let extracts = sqlx::query!(
        "UPDATE billing_applied_events SET extract = NULL
          WHERE organization_id = $1 AND extract IS NOT NULL",
        organization_id
    );
    rows += extracts.execute(conn).await?.rows_affected();
    Ok(rows)
}

/// Invoices, charges, disputes and refunds.
async fn clear_documents(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<u64, sqlx::Error> {
    let invoices = sqlx::query!(
        "UPDATE billing_invoices SET metadata = '{}', hosted_invoice_url = NULL, invoice_pdf = NULL
          WHERE organization_id = $1",
        organization_id
    );
    let mut rows = invoices.execute(&mut *conn).await?.rows_affected();
    let lines = sqlx::query!(
        "UPDATE billing_invoice_items SET description = NULL WHERE organization_id = $1",
        organization_id
    );
    rows += lines.execute(&mut *conn).await?.rows_affected();
    let charges = sqlx::query!(
        "UPDATE billing_charges SET metadata = '{}', description = NULL, receipt_url = NULL,
                card_brand = NULL, card_last4 = NULL, stripe_payment_method_id = NULL,
                failure_message = NULL, outcome_seller_message = NULL
          WHERE organization_id = $1",
        organization_id
    );
    rows += charges.execute(&mut *conn).await?.rows_affected();
    let disputes = sqlx::query!(
        "UPDATE billing_disputes SET metadata = '{}' WHERE organization_id = $1",
        organization_id
    );
    rows += disputes.execute(&mut *conn).await?.rows_affected();
    let refunds = sqlx::query!(
        "UPDATE billing_refunds SET metadata = '{}' WHERE organization_id = $1",
        organization_id
    );
    rows += refunds.execute(conn).await?.rows_affected();
    Ok(rows)
}
