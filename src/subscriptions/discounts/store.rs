//! SQL of an organization's discounts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Applied, Held};
use crate::db::RequestTx;
use crate::stripe::objects::CouponTerms;

/// The discounts of the organization, and those of its customer `customer_id`.
pub async fn of_organization(
    tx: &mut RequestTx,
    customer_id: Option<&str>,
) -> Result<Held, sqlx::Error> {
    let organization_id = tx.organization_id();
    let rows = sqlx::query!(
        r#"SELECT stripe_discount_id, stripe_customer_id, stripe_subscription_id,
                  stripe_subscription_item_id, stripe_coupon_id, stripe_promotion_code_id,
                  promotion_code, coupon_name, percent_off::text AS percent_off, amount_off,
                  currency, duration, duration_in_months, starts_at, ends_at,
                  deleted_at IS NOT NULL AS "deleted!"
             FROM billing_discounts WHERE organization_id = $1 ORDER BY stripe_discount_id"#,
        organization_id
    )
    .fetch_all(tx.conn())
    .await?;
    // Null where nothing has shown the customer: then its discounts' own events count.
    let of_customer = sqlx::query_scalar!(
        r#"SELECT discount_ids FROM billing_customers
            WHERE organization_id = $1 AND stripe_customer_id = $2 AND deleted_at IS NULL"#,
        organization_id,
        customer_id
    )
    .fetch_optional(tx.conn())
    .await?
    .flatten();
    let mut by_id = BTreeMap::new();
    let mut removed = BTreeSet::new();
    let mut told = Vec::new();
    for row in rows {
        let id = row.stripe_discount_id;
        if row.deleted {
            removed.insert(id);
            continue;
        }
        let is_whole =
            row.stripe_subscription_id.is_none() && row.stripe_subscription_item_id.is_none();
        if is_whole && row.stripe_customer_id.as_deref() == customer_id {
            told.push(id.clone());
        }
        let applied = Applied {
            coupon_id: row.stripe_coupon_id,
            promotion_code_id: row.stripe_promotion_code_id,
            promotion_code: row.promotion_code,
            terms: row.duration.map(|duration| CouponTerms {
                name: row.coupon_name,
                percent_off: row.percent_off,
                amount_off: row.amount_off,
                currency: row.currency,
                duration,
                duration_in_months: row.duration_in_months,
            }),
            starts_at: row.starts_at.map(|at| at.to_jiff()),
            ends_at: row.ends_at.map(|at| at.to_jiff()),
        };
        by_id.insert(id, applied);
    }
    let mut of_customer = of_customer.unwrap_or(told);
    of_customer.retain(|id| !removed.contains(id));
    Ok(Held {
        by_id,
        removed,
        of_customer,
    })
}
