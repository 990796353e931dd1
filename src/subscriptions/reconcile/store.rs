//! The mirrored state that reconciliation compares: whole rows, so that no column is
//! left out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde::Deserialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::tenancy::organizations::sample;

/// A mirrored object.
#[derive(Debug, Clone)]
pub struct Mirrored {
    pub organization_id: Uuid,
    /// Whether the organization was erased, and personal data with it.
    pub erased: bool,
    /// The row, by the names of its columns.
    pub row: Value,
    pub parts: Parts,
}

/// The rows that belong to an object's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Parts {
    /// A subscription's items, or an invoice's lines.
    pub items: Vec<Value>,
    /// A subscription's schedule, if it is known.
    pub schedule: Option<Value>,
    /// An invoice's payments.
    pub payments: Vec<Value>,
}

impl Mirrored {
    /// The text of a column, or nothing.
    pub fn text(&self, column: &str) -> &str {
        self.row[column].as_str().unwrap_or_default()
    }
}

/// What every query below returns.
struct Stored {
    id: String,
    organization_id: Uuid,
    erased: bool,
    object: Value,
    parts: Option<Value>,
}

fn by_id(stored: Vec<Stored>) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let mirrored = stored.into_iter().map(|stored| {
        let parts = stored.parts.map(serde_json::from_value).transpose();
        let mirrored = Mirrored {
            organization_id: stored.organization_id,
            erased: stored.erased,
            row: stored.object,
            parts: parts
                .map_err(|error| sqlx::Error::Decode(error.into()))?
                .unwrap_or_default(),
        };
        Ok((stored.id, mirrored))
    });
    mirrored.collect()
}

/// The mirrored subscriptions of `ids`, or all of them, by id.
pub async fn subscriptions(
    conn: &mut PgConnection,
    ids: Option<&[&str]>,
) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let stored = sqlx::query_as!(
        Stored,
        r#"SELECT s.stripe_subscription_id AS id, s.organization_id,
                  o.erased_at IS NOT NULL AS "erased!", to_jsonb(s) AS "object!",
                  jsonb_build_object(
                    'items', (SELECT coalesce(jsonb_agg(to_jsonb(i)), '[]')
                                FROM billing_subscription_items i
                               WHERE i.organization_id = s.organization_id
                                 AND i.stripe_subscription_id = s.stripe_subscription_id),
                    'schedule', (SELECT to_jsonb(h) FROM billing_subscription_schedules h
                                  WHERE h.organization_id = s.organization_id
                                    AND h.stripe_schedule_id = s.stripe_schedule_id)) AS parts
             FROM billing_subscriptions s JOIN organizations o ON o.id = s.organization_id
            WHERE $1::text[] IS NULL OR s.stripe_subscription_id = ANY($1)"#,
        ids as Option<&[&str]>
    )
    .fetch_all(conn)
    .await?;
    by_id(stored)
}

/// The mirrored invoices of `ids`, and those that are open here if `open`, by id.
pub async fn invoices(
    conn: &mut PgConnection,
    ids: &[&str],
    open: bool,
) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let stored = sqlx::query_as!(
        Stored,
        r#"SELECT i.stripe_invoice_id AS id, i.organization_id,
                  o.erased_at IS NOT NULL AS "erased!", to_jsonb(i) AS "object!",
                  jsonb_build_object(
                    'items', (SELECT coalesce(jsonb_agg(to_jsonb(l)), '[]')
                                FROM billing_invoice_items l
                               WHERE l.organization_id = i.organization_id
                                 AND l.stripe_invoice_id = i.stripe_invoice_id),
                    'payments', (SELECT coalesce(jsonb_agg(to_jsonb(p)), '[]')
                                   FROM billing_invoice_payments p
                                  WHERE p.organization_id = i.organization_id
                                    AND p.stripe_invoice_id = i.stripe_invoice_id)) AS parts
             FROM billing_invoices i JOIN organizations o ON o.id = i.organization_id
            WHERE i.organization_id <> $2
              AND (i.stripe_invoice_id = ANY($1) OR $3 AND i.status = 'open')"#,
        ids as &[&str],
        sample::ID,
        open
    )
    .fetch_all(conn)
    .await?;
    by_id(stored)
}

/// The mirrored payment methods of `customers`, or all of them, by id.
pub async fn payment_methods(
    conn: &mut PgConnection,
    customers: Option<&[&str]>,
) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let stored = sqlx::query_as!(
        Stored,
        r#"SELECT m.stripe_payment_method_id AS id, m.organization_id,
                  o.erased_at IS NOT NULL AS "erased!", to_jsonb(m) AS "object!",
                  NULL::jsonb AS parts
             FROM billing_payment_methods m JOIN organizations o ON o.id = m.organization_id
            WHERE $1::text[] IS NULL OR m.stripe_customer_id = ANY($1)"#,
        customers as Option<&[&str]>
    )
    .fetch_all(conn)
    .await?;
    by_id(stored)
}

/// The mirrored charges of `ids`, by id.
pub async fn charges(
    conn: &mut PgConnection,
    ids: &[String],
) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let stored = sqlx::query_as!(
        Stored,
        r#"SELECT c.stripe_charge_id AS id, c.organization_id,
                  o.erased_at IS NOT NULL AS "erased!", to_jsonb(c) AS "object!",
                  NULL::jsonb AS parts
             FROM billing_charges c JOIN organizations o ON o.id = c.organization_id
            WHERE c.stripe_charge_id = ANY($1)"#,
        ids
    )
    .fetch_all(conn)
    .await?;
    by_id(stored)
}

/// The mirrored refunds of `ids`, by id.
pub async fn refunds(
    conn: &mut PgConnection,
    ids: &[String],
) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let stored = sqlx::query_as!(
        Stored,
        r#"SELECT r.stripe_refund_id AS id, r.organization_id,
                  o.erased_at IS NOT NULL AS "erased!", to_jsonb(r) AS "object!",
                  NULL::jsonb AS parts
             FROM billing_refunds r JOIN organizations o ON o.id = r.organization_id
            WHERE r.stripe_refund_id = ANY($1)"#,
        ids
    )
    .fetch_all(conn)
    .await?;
    by_id(stored)
}

/// The mirrored disputes of `ids`, and those that no bank has decided yet if `undecided`, by
/// id.
pub async fn disputes(
    conn: &mut PgConnection,
    ids: &[String],
    undecided: bool,
) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let stored = sqlx::query_as!(
        Stored,
        r#"SELECT d.stripe_dispute_id AS id, d.organization_id,
                  o.erased_at IS NOT NULL AS "erased!", to_jsonb(d) AS "object!",
                  NULL::jsonb AS parts
             FROM billing_disputes d JOIN organizations o ON o.id = d.organization_id
            WHERE d.organization_id <> $2
              AND (d.stripe_dispute_id = ANY($1)
                   OR $3 AND d.status NOT IN ('won', 'lost', 'warning_closed', 'prevented'))"#,
        ids,
        sample::ID,
        undecided
    )
    .fetch_all(conn)
    .await?;
    by_id(stored)
}

/// The mirrored checkout sessions that were created since `since`, by id.
pub async fn checkout_sessions(
    conn: &mut PgConnection,
    since: Timestamp,
) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let stored = sqlx::query_as!(
        Stored,
        r#"SELECT c.stripe_checkout_session_id AS id, c.organization_id,
                  o.erased_at IS NOT NULL AS "erased!", to_jsonb(c) AS "object!",
                  NULL::jsonb AS parts
             FROM billing_checkout_sessions c JOIN organizations o ON o.id = c.organization_id
            WHERE c.organization_id <> $2 AND c.stripe_created_at >= $1"#,
        since.to_sqlx() as _,
        sample::ID
    )
    .fetch_all(conn)
    .await?;
    by_id(stored)
}

/// The mirrored customers of `ids`, or all of them, by id.
pub async fn customers(
    conn: &mut PgConnection,
    ids: Option<&[&str]>,
) -> Result<BTreeMap<String, Mirrored>, sqlx::Error> {
    let stored = sqlx::query_as!(
        Stored,
        r#"SELECT c.stripe_customer_id AS id, c.organization_id,
                  o.erased_at IS NOT NULL AS "erased!", to_jsonb(c) AS "object!",
                  NULL::jsonb AS parts
             FROM billing_customers c JOIN organizations o ON o.id = c.organization_id
            WHERE $1::text[] IS NULL OR c.stripe_customer_id = ANY($1)"#,
        ids as Option<&[&str]>
    )
    .fetch_all(conn)
    .await?;
    by_id(stored)
}

/// What an organization has, by its ids.
pub struct Named {
    /// The newest.
    pub customers: Vec<String>,
    /// Those that have not ended, and the newest of those that have.
    pub subscriptions: Vec<String>,
}

/// The ids of what the organization has in Stripe, `most` customers at most.
pub async fn of_organization(
    conn: &mut PgConnection,
    organization_id: Uuid,
    most: i64,
) -> Result<Named, sqlx::Error> {
    let customers = sqlx::query_scalar!(
        "SELECT stripe_customer_id FROM billing_customers
          WHERE organization_id = $1 AND deleted_at IS NULL AND stripe_customer_id LIKE 'cus\\_%'
          ORDER BY linked_at DESC LIMIT $2",
        organization_id,
        most
    )
    .fetch_all(&mut *conn)
    .await?;
    let subscriptions = sqlx::query_scalar!(
        "SELECT stripe_subscription_id FROM billing_subscriptions
          WHERE organization_id = $1 ORDER BY ended_at DESC NULLS FIRST LIMIT 100",
        organization_id
    )
    .fetch_all(conn)
    .await?;
    Ok(Named {
        customers,
        subscriptions,
    })
}

pub async fn organizations(conn: &mut PgConnection) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    let ids = sqlx::query_scalar!("SELECT id FROM organizations")
        .fetch_all(conn)
        .await?;
    Ok(ids.into_iter().collect())
}
