//! SQL for add-ons: what the file said of them last, at which prices they were sold, and who
//! has them.

use serde_json::Value;
use sqlx::PgConnection;

use super::NewPrice;
use crate::catalogue::{Addon, Price};

/// An add-on as the file had it last.
#[derive(Debug)]
pub struct StoredAddon {
    pub id: String,
    pub definition: Value,
}

/// Records the add-ons of the file.
pub async fn record_addons(conn: &mut PgConnection, addons: &[Addon]) -> Result<(), sqlx::Error> {
    if addons.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = addons.iter().map(|addon| addon.id.as_str()).collect();
    let definitions: Result<Vec<Value>, _> = addons.iter().map(serde_json::to_value).collect();
    let definitions = definitions.map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        "INSERT INTO catalogue_addons AS known (id, definition)
         SELECT id, definition FROM unnest($1::text[], $2::jsonb[]) AS t(id, definition)
          ORDER BY id
         ON CONFLICT (id) DO UPDATE SET definition = excluded.definition, updated_at = now()
          WHERE known.definition <> excluded.definition",
        &ids as &[&str],
        &definitions
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// All add-ons that a file ever had.
pub async fn stored_addons(conn: &mut PgConnection) -> Result<Vec<StoredAddon>, sqlx::Error> {
    sqlx::query_as!(
        StoredAddon,
        "SELECT id, definition FROM catalogue_addons ORDER BY id"
    )
    .fetch_all(conn)
    .await
}

/// A price in Stripe that an add-on was sold at.
#[derive(Debug, Clone)]
pub struct RecordedAddonPrice {
    pub stripe_price_id: String,
    pub unit_amount: i64,
}

/// The price in Stripe that an add-on was sold at for this amount, the newest one; or else
/// for another one.
pub async fn addon_price(
    conn: &mut PgConnection,
    id: &str,
    price: &Price,
) -> Result<Option<RecordedAddonPrice>, sqlx::Error> {
    sqlx::query_as!(
        RecordedAddonPrice,
        r#"SELECT stripe_price_id, unit_amount AS "unit_amount!" FROM billing_prices
            WHERE addon = $1 AND lower(currency) = $2 AND recurring_interval = $3
              AND coalesce(recurring_interval_count, 1) = 1 AND unit_amount IS NOT NULL
            ORDER BY unit_amount = $4 DESC, first_seen_at DESC, stripe_price_id LIMIT 1"#,
        id,
        price.currency,
        price.interval.as_str(),
        price.amount
    )
    .fetch_optional(conn)
    .await
}

/// Whether Stripe is known to have a price of an add-on for this amount.
pub async fn has_addon_price(
    conn: &mut PgConnection,
    id: &str,
    price: &Price,
) -> Result<bool, sqlx::Error> {
    let recorded = addon_price(conn, id, price).await?;
    Ok(recorded.is_some_and(|one| one.unit_amount == price.amount))
}

/// Records what the file says each price is for, and returns the prices for which that is
/// new or has changed.
pub async fn correct(
    conn: &mut PgConnection,
    prices: &[NewPrice],
) -> Result<Vec<String>, sqlx::Error> {
    if prices.is_empty() {
        return Ok(Vec::new());
    }
    let document =
        serde_json::to_string(prices).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query_scalar!(
        "INSERT INTO billing_prices AS known (
           stripe_price_id, plan_tier, metric, seats, addon, currency, recurring_interval,
           recurring_interval_count, unit_amount, lookup_key, stripe_product_id)
         SELECT stripe_price_id, plan_tier, metric, seats, addon, currency, recurring_interval,
                recurring_interval_count, unit_amount, lookup_key, stripe_product_id
           FROM json_populate_recordset(NULL::billing_prices, $1::text::json)
          ORDER BY stripe_price_id
         ON CONFLICT (stripe_price_id) DO UPDATE SET
           plan_tier = excluded.plan_tier, metric = excluded.metric, seats = excluded.seats,
           addon = excluded.addon
         WHERE (known.plan_tier, known.metric, known.seats, known.addon)
            IS DISTINCT FROM
               (excluded.plan_tier, excluded.metric, excluded.seats, excluded.addon)
         RETURNING stripe_price_id",
        document
    )
    .fetch_all(conn)
    .await
}

/// The add-ons that subscriptions have which have not ended, and how many have each.
pub async fn addons_held(conn: &mut PgConnection) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT i.addon AS "addon!", count(DISTINCT i.organization_id) AS "organizations!"
             FROM billing_subscription_items i
             JOIN billing_subscriptions s
               ON s.organization_id = i.organization_id
              AND s.stripe_subscription_id = i.stripe_subscription_id
            WHERE i.addon IS NOT NULL AND s.status NOT IN ('canceled', 'incomplete_expired')
            GROUP BY i.addon ORDER BY i.addon"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.addon, row.organizations))
        .collect())
}
