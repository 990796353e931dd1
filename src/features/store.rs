//! SQL for features and their overrides.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::effective::{Held, Override, Values};
use crate::catalogue::Plan;
use crate::catalogue::features::FeatureValue;
use crate::db::TenantTx;

/// Gives `organizations` the features of `plan`, and takes away what it has not.
/// The caller holds their rows, so that no other plan is assigned meanwhile.
/// Returns how many rows changed.
pub async fn assign(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    plan: &Plan,
) -> Result<u64, sqlx::Error> {
    let (features, values): (Vec<&str>, Vec<Value>) = plan
        .features
        .iter()
        .map(|(feature, value)| (feature.as_str(), serde_json::json!(value)))
        .unzip();
    let removed = sqlx::query!(
        "DELETE FROM organization_features
          WHERE organization_id = ANY($1) AND NOT feature = ANY($2)",
        organizations,
        &features as &[&str]
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    let written = sqlx::query!(
        "INSERT INTO organization_features (organization_id, feature, value, plan_tier)
         SELECT organization, t.feature, t.value, $2
           FROM unnest($1::uuid[]) AS o(organization)
          CROSS JOIN unnest($3::text[], $4::jsonb[]) AS t(feature, value)
          -- A conflict would lock the row, and so write it. `OFFSET 0`: found by its key.
          WHERE NOT EXISTS (SELECT FROM organization_features f
                             WHERE f.organization_id = organization AND f.feature = t.feature
                               AND f.value = t.value AND f.plan_tier = $2 OFFSET 0)
          ORDER BY organization, t.feature
         ON CONFLICT (organization_id, feature) DO UPDATE SET
           value = excluded.value, plan_tier = excluded.plan_tier, updated_at = excluded.updated_at
         WHERE (organization_features.value, organization_features.plan_tier)
            IS DISTINCT FROM (excluded.value, excluded.plan_tier)",
        organizations,
        plan.tier,
        &features as &[&str],
        &values
    )
    .execute(conn)
    .await?
    .rows_affected();
    Ok(removed + written)
}

/// What an organization has. Overrides whose end has come are left out.
pub async fn held(conn: &mut PgConnection, organization_id: Uuid) -> Result<Held, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT feature AS "feature!", value AS "value!", NULL AS reason,
                  NULL::timestamptz AS expires_at, NULL AS set_by, NULL::timestamptz AS created_at
             FROM organization_features WHERE organization_id = $1
           UNION ALL
           SELECT feature, value, reason, expires_at, set_by, created_at
             FROM feature_overrides
            WHERE organization_id = $1 AND (expires_at IS NULL OR expires_at > now())"#,
        organization_id
    )
    .fetch_all(conn)
    .await?;
    let mut held = Held::default();
    for row in rows {
        let value = value_of(row.value)?;
        let set = row.reason.zip(row.set_by).zip(row.created_at);
        let feature = row.feature;
        held.values
            .insert(feature.clone(), set.is_some(), value.clone());
        if let Some(((reason, set_by), created_at)) = set {
            let set = Override {
                value,
                reason,
                expires_at: row.expires_at.map(jiff_sqlx::Timestamp::to_jiff),
                set_by,
                created_at: created_at.to_jiff(),
            };
            held.overrides.insert(feature, set);
        }
    }
    Ok(held)
}

/// The values of many organizations; those without any are left out.
pub async fn values(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashMap<Uuid, Arc<Values>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id AS "organization_id!", feature AS "feature!",
                  false AS "overridden!", value AS "value!"
             FROM organization_features WHERE organization_id = ANY($1)
           UNION ALL
           SELECT organization_id, feature, true, value
             FROM feature_overrides
            WHERE organization_id = ANY($1) AND (expires_at IS NULL OR expires_at > now())"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let mut found = HashMap::<Uuid, Values>::new();
    for row in rows {
        let value = value_of(row.value)?;
        let values = found.entry(row.organization_id).or_default();
        values.insert(row.feature, row.overridden, value);
    }
    let found = found.into_iter();
    Ok(found.map(|(id, values)| (id, Arc::new(values))).collect())
}

/// A stored value; JSON's null is a text that is off.
pub(super) fn value_of(json: Value) -> Result<Option<FeatureValue>, sqlx::Error> {
    serde_json::from_value(json).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// The database's clock, where the organization exists.
pub async fn now_for(tx: &mut TenantTx) -> Result<Option<Timestamp>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let now = sqlx::query_scalar!(
        r#"SELECT now() AS "now!" FROM organizations WHERE id = $1"#,
        organization_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(now.map(|now| now.to_jiff()))
}

/// An override as an operator gives it.
pub struct NewOverride<'a> {
    pub feature: &'a str,
    pub value: Option<&'a FeatureValue>,
    pub reason: &'a str,
    pub expires_at: Option<Timestamp>,
    pub set_by: &'a str,
}

pub async fn put(tx: &mut TenantTx, new: &NewOverride<'_>) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "INSERT INTO feature_overrides (organization_id, feature, value, reason, expires_at, set_by)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (organization_id, feature) DO UPDATE SET
           value = excluded.value, reason = excluded.reason, expires_at = excluded.expires_at,
           set_by = excluded.set_by, created_at = excluded.created_at",
        organization_id,
        new.feature,
        serde_json::json!(new.value),
        new.reason,
        new.expires_at.map(|at| at.to_sqlx()) as _,
        new.set_by
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub async fn remove(tx: &mut TenantTx, feature: &str) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "DELETE FROM feature_overrides WHERE organization_id = $1 AND feature = $2",
        organization_id,
        feature
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The features, and how many overrides each has, that are in none of `known`'s
/// pairs of a feature and the type of its values in JSON.
pub async fn overrides_beside(
    conn: &mut PgConnection,
    known: &[(&str, &str)],
    limit: i64,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let (features, types): (Vec<&str>, Vec<&str>) = known.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"SELECT feature, count(*) AS "overrides!" FROM feature_overrides
            WHERE NOT (feature, jsonb_typeof(value))
                      IN (SELECT * FROM unnest($1::text[], $2::text[]))
              AND (expires_at IS NULL OR expires_at > now())
            GROUP BY feature ORDER BY feature LIMIT $3"#,
        &features as &[&str],
        &types as &[&str],
        limit
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows.map(|row| (row.feature, row.overrides)).collect())
}

/// Organizations with overrides whose end has come, by their ids.
pub async fn due(
    conn: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT DISTINCT organization_id FROM feature_overrides
          WHERE expires_at <= now() AND ($1::uuid IS NULL OR organization_id > $1)
          ORDER BY organization_id LIMIT $2",
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

/// An override that ended by itself, and what its organization has by the plan.
pub struct Expired {
    pub organization_id: Uuid,
    pub feature: String,
    pub ended: Override,
    pub plan_value: Option<FeatureValue>,
}

/// Removes the overrides of `organizations` whose end has come; of one `feature`
/// only, if there is one. Without it, those that another transaction holds are left.
/// The caller holds the audit chains.
pub async fn remove_expired(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    feature: Option<&str>,
) -> Result<Vec<Expired>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH free AS (
             SELECT organization_id, feature FROM feature_overrides
              WHERE organization_id = ANY($1) AND expires_at <= now() AND $2::text IS NULL
                FOR UPDATE SKIP LOCKED
           ), gone AS (
             DELETE FROM feature_overrides
              WHERE organization_id = ANY($1) AND expires_at <= now()
                AND (feature = $2
                     OR (organization_id, feature) IN (SELECT organization_id, feature FROM free))
             RETURNING organization_id, feature, value, reason, expires_at, set_by, created_at)
           SELECT gone.organization_id, gone.feature, gone.value, gone.reason, gone.expires_at,
                  gone.set_by, gone.created_at, f.value AS "plan_value?"
             FROM gone
             LEFT JOIN organization_features f
               ON f.organization_id = gone.organization_id AND f.feature = gone.feature
            ORDER BY gone.organization_id, gone.feature"#,
        organizations,
        feature
    )
    .fetch_all(conn)
    .await?;
    let expired = rows.into_iter().map(|row| {
        let plan_value = row.plan_value.map(value_of).transpose()?;
        Ok(Expired {
            organization_id: row.organization_id,
            feature: row.feature,
            ended: Override {
                value: value_of(row.value)?,
                reason: row.reason,
                expires_at: row.expires_at.map(jiff_sqlx::Timestamp::to_jiff),
                set_by: row.set_by,
                created_at: row.created_at.to_jiff(),
            },
            plan_value: plan_value.flatten(),
        })
    });
    expired.collect()
}
