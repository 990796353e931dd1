//! SQL of discounts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{document, unzip};
use crate::projection::discount::KnownDiscount;
use crate::projection::versions::merge::ObjectKey;
use crate::stripe::objects::{CouponTerms, Discount};

/// What is known of the discounts of `keys`.
pub async fn load(
    conn: &mut PgConnection,
    keys: &[ObjectKey],
) -> Result<BTreeMap<ObjectKey, KnownDiscount>, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (d.organization_id, d.stripe_discount_id)
                  d.organization_id, d.stripe_discount_id, d.stripe_customer_id,
                  d.stripe_subscription_id, d.stripe_subscription_item_id, d.stripe_coupon_id,
                  d.stripe_promotion_code_id, d.promotion_code, d.coupon_name,
                  d.percent_off::text AS percent_off, d.amount_off, d.currency, d.duration,
                  d.duration_in_months, d.starts_at, d.ends_at, d.observed_at, d.terms_at,
                  d.deleted_at
             FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
             JOIN billing_discounts d
               ON d.organization_id = wanted.organization AND d.stripe_discount_id = wanted.id"#,
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let known = rows.into_iter().map(|row| {
        let known = KnownDiscount {
            organization_id: row.organization_id,
            discount: Discount {
                id: row.stripe_discount_id,
                customer_id: row.stripe_customer_id,
                subscription_id: row.stripe_subscription_id,
                subscription_item_id: row.stripe_subscription_item_id,
                coupon_id: row.stripe_coupon_id,
                promotion_code_id: row.stripe_promotion_code_id,
                promotion_code: row.promotion_code,
                starts_at: row.starts_at.map(|at| at.to_jiff()),
                ends_at: row.ends_at.map(|at| at.to_jiff()),
                terms: None,
            },
            terms: row.duration.map(|duration| CouponTerms {
                name: row.coupon_name,
                percent_off: row.percent_off,
                amount_off: row.amount_off,
                currency: row.currency,
                duration,
                duration_in_months: row.duration_in_months,
            }),
            observed_at: row.observed_at.to_jiff(),
            terms_at: row.terms_at.map(|at| at.to_jiff()),
            deleted_at: row.deleted_at.map(|at| at.to_jiff()),
        };
        ((known.organization_id, known.discount.id.clone()), known)
    });
    Ok(known.collect())
}

/// Writes discounts whole. Terms that are not known are due to be asked for.
pub async fn save(conn: &mut PgConnection, changed: &[&KnownDiscount]) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO billing_discounts AS d (
           organization_id, stripe_discount_id, stripe_customer_id, stripe_subscription_id,
           stripe_subscription_item_id, stripe_coupon_id, stripe_promotion_code_id,
           promotion_code, coupon_name, percent_off, amount_off, currency, duration,
           duration_in_months, starts_at, ends_at, deleted_at, observed_at, terms_at,
           terms_due_at)
         SELECT
           organization_id, stripe_discount_id, stripe_customer_id, stripe_subscription_id,
           stripe_subscription_item_id, stripe_coupon_id, stripe_promotion_code_id,
           promotion_code, coupon_name, percent_off, amount_off, currency, duration,
           duration_in_months, starts_at, ends_at, deleted_at, observed_at, terms_at,
           CASE WHEN duration IS NULL AND stripe_coupon_id IS NOT NULL THEN now() END
           FROM json_populate_recordset(NULL::billing_discounts, $1::text::json)
         ON CONFLICT (organization_id, stripe_discount_id) DO UPDATE SET
           stripe_customer_id = excluded.stripe_customer_id,
           stripe_subscription_id = excluded.stripe_subscription_id,
           stripe_subscription_item_id = excluded.stripe_subscription_item_id,
           stripe_coupon_id = excluded.stripe_coupon_id,
           stripe_promotion_code_id = excluded.stripe_promotion_code_id,
           promotion_code = excluded.promotion_code, coupon_name = excluded.coupon_name,
           percent_off = excluded.percent_off, amount_off = excluded.amount_off,
           currency = excluded.currency, duration = excluded.duration,
           duration_in_months = excluded.duration_in_months, starts_at = excluded.starts_at,
           ends_at = excluded.ends_at, deleted_at = excluded.deleted_at,
           observed_at = excluded.observed_at, terms_at = excluded.terms_at,
           terms_due_at = CASE WHEN excluded.duration IS NULL THEN d.terms_due_at END,
           updated_at = now()",
        document(changed)?
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The running subscriptions of `keys` with a discount that nothing has shown, or nothing
/// with the promotion code as the customer types it.
pub async fn not_shown(
    conn: &mut PgConnection,
    keys: &[ObjectKey],
) -> Result<Vec<ObjectKey>, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        "SELECT s.organization_id, s.stripe_subscription_id
           FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
           JOIN billing_subscriptions s
             ON s.organization_id = wanted.organization AND s.stripe_subscription_id = wanted.id
          WHERE s.status NOT IN ('canceled', 'incomplete_expired')
            AND EXISTS (
              SELECT FROM (SELECT unnest(s.discount_ids) UNION ALL
                           SELECT unnest(i.discount_ids) FROM billing_subscription_items i
                            WHERE i.organization_id = s.organization_id
                              AND i.stripe_subscription_id = s.stripe_subscription_id) AS has(id)
               WHERE NOT EXISTS (SELECT FROM billing_discounts d
                                  WHERE d.organization_id = s.organization_id
                                    AND d.stripe_discount_id = has.id)
              UNION ALL
              SELECT FROM billing_discounts d
               WHERE d.organization_id = s.organization_id
                 AND d.stripe_subscription_id = s.stripe_subscription_id
                 AND d.stripe_promotion_code_id IS NOT NULL AND d.promotion_code IS NULL
                 AND d.deleted_at IS NULL)
          GROUP BY s.organization_id, s.stripe_subscription_id",
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let keys = rows.into_iter();
    Ok(keys
        .map(|row| (row.organization_id, row.stripe_subscription_id))
        .collect())
}

/// A coupon whose terms are not known.
#[derive(Debug)]
pub struct Unexplained {
    pub organization_id: Uuid,
    pub coupon_id: String,
}

/// Coupons whose terms are due to be asked for, the longest waiting first.
pub async fn unexplained(
    conn: &mut PgConnection,
    limit: i64,
) -> Result<Vec<Unexplained>, sqlx::Error> {
    sqlx::query_as!(
        Unexplained,
        r#"SELECT organization_id, stripe_coupon_id AS "coupon_id!"
             FROM billing_discounts
            WHERE terms_due_at <= now() AND stripe_coupon_id IS NOT NULL
            ORDER BY terms_due_at LIMIT $1"#,
        limit
    )
    .fetch_all(conn)
    .await
}

/// Fills the terms of a coupon's discounts that lack them.
pub async fn explain(
    conn: &mut PgConnection,
    organization_id: Uuid,
    coupon_id: &str,
    terms: &CouponTerms,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_discounts
            SET coupon_name = $3, percent_off = $4::text::numeric, amount_off = $5, currency = $6,
                duration = $7, duration_in_months = $8, terms_at = $9, terms_due_at = NULL,
                updated_at = now()
          WHERE organization_id = $1 AND stripe_coupon_id = $2 AND duration IS NULL",
        organization_id,
        coupon_id,
        terms.name,
        terms.percent_off,
        terms.amount_off,
        terms.currency,
        terms.duration,
        terms.duration_in_months,
        at.to_sqlx() as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The coupon is gone: its terms are not asked for again.
pub async fn give_up(
    conn: &mut PgConnection,
    organization_id: Uuid,
    coupon_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_discounts SET terms_due_at = NULL, updated_at = now()
          WHERE organization_id = $1 AND stripe_coupon_id = $2 AND duration IS NULL",
        organization_id,
        coupon_id
    )
    .execute(conn)
    .await?;
    Ok(())
}
