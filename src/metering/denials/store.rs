//! SQL of refused uses.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Denial;

pub async fn insert(conn: &mut PgConnection, denials: &[Denial]) -> Result<(), sqlx::Error> {
    let organizations: Vec<Uuid> = denials.iter().map(|one| one.organization_id).collect();
    let ids: Vec<Uuid> = denials.iter().map(|one| one.id).collect();
    let requests: Vec<&str> = denials.iter().map(|one| &*one.request_id).collect();
    let times: Vec<_> = denials.iter().map(|one| one.denied_at.to_sqlx()).collect();
    let reasons: Vec<&str> = denials.iter().map(|one| &*one.reason).collect();
    let metrics: Vec<Option<&str>> = denials.iter().map(|one| one.metric.as_deref()).collect();
    let features: Vec<Option<&str>> = denials.iter().map(|one| one.feature.as_deref()).collect();
    let usage: Vec<Option<Decimal>> = denials.iter().map(|one| one.usage).collect();
    let quotas: Vec<Option<Decimal>> = denials.iter().map(|one| one.quota).collect();
    let graces: Vec<Option<_>> = denials
        .iter()
        .map(|one| one.grace_expires_at.map(|at| at.to_sqlx()))
        .collect();
    sqlx::query!(
        "INSERT INTO usage_denials (organization_id, id, request_id, denied_at, reason, metric,
                                    feature, usage, quota, grace_expires_at)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::text[],
                              $6::text[], $7::text[], $8::numeric[], $9::numeric[],
                              $10::timestamptz[])",
        &organizations,
        &ids,
        &requests as &[&str],
        &times as _,
        &reasons as &[&str],
        &metrics as &[Option<&str>],
        &features as &[Option<&str>],
        &usage as &[Option<Decimal>],
        &quotas as &[Option<Decimal>],
        &graces as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes all but the newest `kept` of each organization that `denials` are of.
pub async fn trim(
    conn: &mut PgConnection,
    denials: &[Denial],
    kept: i64,
) -> Result<(), sqlx::Error> {
    let organizations: BTreeSet<Uuid> = denials.iter().map(|one| one.organization_id).collect();
    let organizations = Vec::from_iter(organizations);
    sqlx::query!(
        "DELETE FROM usage_denials d
          USING unnest($1::uuid[]) AS here(organization_id)
          CROSS JOIN LATERAL (
            SELECT denied_at, id FROM usage_denials newest
             WHERE newest.organization_id = here.organization_id
             ORDER BY denied_at DESC, id DESC OFFSET $2 LIMIT 1) last
          WHERE d.organization_id = here.organization_id
            AND (d.denied_at, d.id) <= (last.denied_at, last.id)",
        &organizations,
        kept
    )
    .execute(conn)
    .await?;
    Ok(())
}

struct Row {
    organization_id: Uuid,
    id: Uuid,
    request_id: String,
    denied_at: jiff_sqlx::Timestamp,
    reason: String,
    metric: Option<String>,
    feature: Option<String>,
    usage: Option<Decimal>,
    quota: Option<Decimal>,
    grace_expires_at: Option<jiff_sqlx::Timestamp>,
}

impl From<Row> for Denial {
    fn from(row: Row) -> Self {
        Self {
            organization_id: row.organization_id,
            id: row.id,
            request_id: row.request_id,
            denied_at: row.denied_at.to_jiff(),
            reason: row.reason,
            metric: row.metric,
            feature: row.feature,
            usage: row.usage,
            quota: row.quota,
            grace_expires_at: row.grace_expires_at.map(|at| at.to_jiff()),
        }
    }
}

pub async fn of_request(
    conn: &mut PgConnection,
    request_id: &str,
    limit: i64,
) -> Result<Vec<Denial>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT organization_id, id, request_id, denied_at, reason, metric, feature, usage, quota,
                grace_expires_at
           FROM usage_denials WHERE request_id = $1 ORDER BY denied_at DESC, id DESC LIMIT $2",
        request_id,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Denial::from).collect())
}

/// Within the newest that an organization keeps.
pub async fn of_metric(
    conn: &mut PgConnection,
    (organization_id, metric): (Uuid, &str),
    until: Timestamp,
    limit: i64,
) -> Result<Vec<Denial>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT organization_id, id, request_id, denied_at, reason, metric, feature, usage, quota,
                grace_expires_at
           FROM usage_denials
          WHERE organization_id = $1 AND metric = $2 AND denied_at <= $3
          ORDER BY denied_at DESC, id DESC LIMIT $4",
        organization_id,
        metric,
        until.to_sqlx() as _,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Denial::from).collect())
}
