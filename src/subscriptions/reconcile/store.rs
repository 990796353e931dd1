//! The mirrored state that reconciliation compares.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::tenancy::organizations::sample;

/// A mirrored subscription.
pub struct MirroredSubscription {
    pub organization_id: Uuid,
    pub customer_id: String,
    /// The last status received from Stripe.
    pub status: String,
    pub currency: Option<String>,
    pub cancel_at_period_end: bool,
    pub cancel_at: Option<Timestamp>,
    pub canceled_at: Option<Timestamp>,
    pub period_start: Option<Timestamp>,
    pub period_end: Option<Timestamp>,
    pub trial_start: Option<Timestamp>,
    pub trial_end: Option<Timestamp>,
    pub anchor: Option<Timestamp>,
    pub billing_mode: Option<String>,
    pub collection_method: Option<String>,
    pub default_payment_method_id: Option<String>,
    pub latest_invoice_id: Option<String>,
    pub discounted: bool,
    pub discount_ids: Vec<String>,
    pub taxed: bool,
    pub schedule_id: Option<String>,
    /// Of the schedule; `None` if it is not known.
    pub phases: Option<Value>,
    pub items: Vec<MirroredItem>,
}

#[derive(Debug, Deserialize)]
pub struct MirroredItem {
    pub id: String,
    pub price_id: Option<String>,
    pub quantity: Option<i64>,
    pub discount_ids: Vec<String>,
}

/// All mirrored subscriptions, by id.
pub async fn subscriptions(
    conn: &mut PgConnection,
) -> Result<BTreeMap<String, MirroredSubscription>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT s.organization_id, s.stripe_subscription_id, s.stripe_customer_id,
                  s.stripe_status, s.currency, s.cancel_at_period_end, s.cancel_at, s.canceled_at,
                  s.current_period_start, s.current_period_end, s.trial_start, s.trial_end,
                  s.billing_cycle_anchor, s.billing_mode, s.collection_method,
                  s.default_payment_method_id, s.latest_invoice_id, s.discounted, s.discount_ids,
                  s.taxed, s.stripe_schedule_id,
                  (SELECT h.phases FROM billing_subscription_schedules h
                    WHERE h.organization_id = s.organization_id
                      AND h.stripe_schedule_id = s.stripe_schedule_id
                      AND h.status IN ('active', 'not_started')) AS phases,
                  (SELECT coalesce(jsonb_agg(jsonb_build_object(
                            'id', i.stripe_subscription_item_id, 'price_id', i.stripe_price_id,
                            'quantity', i.quantity, 'discount_ids', i.discount_ids)), '[]')
                     FROM billing_subscription_items i
                    WHERE i.organization_id = s.organization_id
                      AND i.stripe_subscription_id = s.stripe_subscription_id) AS "items!: Value"
             FROM billing_subscriptions s"#
    )
    .fetch_all(conn)
    .await?;
    let mirrored = rows.into_iter().map(|row| {
        let items =
            serde_json::from_value(row.items).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let mirrored = MirroredSubscription {
            organization_id: row.organization_id,
            customer_id: row.stripe_customer_id,
            status: row.stripe_status,
            currency: row.currency,
            cancel_at_period_end: row.cancel_at_period_end,
            cancel_at: row.cancel_at.map(|at| at.to_jiff()),
            canceled_at: row.canceled_at.map(|at| at.to_jiff()),
            period_start: row.current_period_start.map(|at| at.to_jiff()),
            period_end: row.current_period_end.map(|at| at.to_jiff()),
            trial_start: row.trial_start.map(|at| at.to_jiff()),
            trial_end: row.trial_end.map(|at| at.to_jiff()),
            anchor: row.billing_cycle_anchor.map(|at| at.to_jiff()),
            billing_mode: row.billing_mode,
            collection_method: row.collection_method,
            default_payment_method_id: row.default_payment_method_id,
            latest_invoice_id: row.latest_invoice_id,
            discounted: row.discounted,
            discount_ids: row.discount_ids,
            taxed: row.taxed,
            schedule_id: row.stripe_schedule_id,
            phases: row.phases,
            items,
        };
        Ok((row.stripe_subscription_id, mirrored))
    });
    mirrored.collect()
}

/// A mirrored invoice.
pub struct MirroredInvoice {
    pub organization_id: Uuid,
    pub customer_id: Option<String>,
    pub status: Option<String>,
    pub number: Option<String>,
    pub currency: String,
    pub total: i64,
    pub discount: Option<i64>,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
}

/// The mirrored invoices of `ids`, and those that are open here, by id.
pub async fn invoices(
    conn: &mut PgConnection,
    ids: &[&str],
) -> Result<BTreeMap<String, MirroredInvoice>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, stripe_invoice_id, stripe_customer_id, status, number, currency,
                total_amount, discount_amount, amount_due, amount_paid, amount_remaining
           FROM billing_invoices
          WHERE organization_id <> $2 AND (stripe_invoice_id = ANY($1) OR status = 'open')",
        ids as &[&str],
        sample::ID
    )
    .fetch_all(conn)
    .await?;
    let mirrored = rows.into_iter().map(|row| {
        let mirrored = MirroredInvoice {
            organization_id: row.organization_id,
            customer_id: row.stripe_customer_id,
            status: row.status,
            number: row.number,
            currency: row.currency,
            total: row.total_amount,
            discount: row.discount_amount,
            amount_due: row.amount_due,
            amount_paid: row.amount_paid,
            amount_remaining: row.amount_remaining,
        };
        (row.stripe_invoice_id, mirrored)
    });
    Ok(mirrored.collect())
}

/// A mirrored payment method.
pub struct MirroredMethod {
    pub organization_id: Uuid,
    pub customer_id: Option<String>,
    pub status: String,
    pub brand: Option<String>,
    pub last4: Option<String>,
    pub exp_month: Option<i16>,
    pub exp_year: Option<i16>,
}

/// All mirrored payment methods, by id.
pub async fn payment_methods(
    conn: &mut PgConnection,
) -> Result<BTreeMap<String, MirroredMethod>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, stripe_payment_method_id, stripe_customer_id, status, brand,
                last4, exp_month, exp_year
           FROM billing_payment_methods"
    )
    .fetch_all(conn)
    .await?;
    let mirrored = rows.into_iter().map(|row| {
        let mirrored = MirroredMethod {
            organization_id: row.organization_id,
            customer_id: row.stripe_customer_id,
            status: row.status,
            brand: row.brand,
            last4: row.last4,
            exp_month: row.exp_month,
            exp_year: row.exp_year,
        };
        (row.stripe_payment_method_id, mirrored)
    });
    Ok(mirrored.collect())
}

/// The owner of a customer in Stripe.
#[derive(Debug, Clone)]
pub struct CustomerOwner {
    pub organization_id: Uuid,
    pub deleted: bool,
    /// `None` if nothing has shown the customer yet.
    pub discount_ids: Option<Vec<String>>,
    pub tax_located: Option<bool>,
}

/// The owners of all customers, by customer id.
pub async fn customers(
    conn: &mut PgConnection,
) -> Result<BTreeMap<String, CustomerOwner>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT stripe_customer_id, organization_id, deleted_at IS NOT NULL AS "deleted!",
                  discount_ids, tax_located
             FROM billing_customers"#
    )
    .fetch_all(conn)
    .await?;
    let owners = rows.into_iter().map(|row| {
        let owned = CustomerOwner {
            organization_id: row.organization_id,
            deleted: row.deleted,
            discount_ids: row.discount_ids,
            tax_located: row.tax_located,
        };
        (row.stripe_customer_id, owned)
    });
    Ok(owners.collect())
}

pub async fn organizations(conn: &mut PgConnection) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    let ids = sqlx::query_scalar!("SELECT id FROM organizations")
        .fetch_all(conn)
        .await?;
    Ok(ids.into_iter().collect())
}
