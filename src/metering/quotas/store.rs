//! SQL for quotas and their overrides.

use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppliedCatalogue;
use crate::catalogue::{Catalogue, OverLimit, Plan, ceiling_text};
use crate::db::TenantTx;
use crate::features;
use crate::server::number::Number;

/// A quota in force.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Quota)]
pub struct QuotaRow {
    #[schema(example = "api_calls")]
    pub metric: String,
    /// Per billing period; null if unlimited.
    #[schema(required)]
    pub quota: Option<Number>,
    /// `hard`, `grace` or `overage`.
    pub over_limit: String,
    /// The price of one unit over the quota: a decimal number in the currency's
    /// major unit; null if overage is not billed.
    #[schema(required)]
    pub overage_rate: Option<String>,
    pub plan_tier: String,
    /// Whether an operator's override replaces the plan's quota.
    pub overridden: bool,
    /// Whether it is in a trial without a way to charge, where the plan, and no
    /// operator, would bill overage.
    #[serde(skip)]
    unpaid_trial: bool,
}

impl QuotaRow {
    /// What happens over the quota now: in a trial that nobody can charge, it is what
    /// the catalogue says for it.
    pub fn in_force(mut self, catalogue: &Catalogue) -> Self {
        if self.unpaid_trial {
            let over_limit = catalogue.trial_over_limit(&self.plan_tier);
            self.over_limit = over_limit.as_str().to_owned();
            if over_limit != OverLimit::Overage {
                self.overage_rate = None;
            }
        }
        self
    }

    /// Whether usage over the quota is allowed but has no price.
    pub fn is_never_billed(&self) -> bool {
        self.over_limit == OverLimit::Overage.as_str()
            && self.quota.is_some()
            && self.overage_rate.is_none()
    }
}

macro_rules! quota_row {
    ($row:expr) => {
        QuotaRow {
            metric: $row.metric,
            quota: $row.quota.map(Number),
            over_limit: $row.over_limit,
            overage_rate: $row
                .overage_rate
                .map(|rate: Decimal| rate.normalize().to_string()),
            plan_tier: $row.plan_tier,
            overridden: $row.overridden,
            unpaid_trial: $row.unpaid_trial,
        }
    };
}

/// The quotas of an organization, by metric.
pub async fn list(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Vec<QuotaRow>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT q.metric, CASE WHEN v.metric IS NULL THEN q.quota ELSE v.quota END AS quota,
                  coalesce(v.over_limit, q.over_limit) AS "over_limit!",
                  CASE WHEN coalesce(v.over_limit, q.over_limit) = 'overage'
                        AND NOT coalesce(v.unlimited, q.unlimited) THEN q.overage_rate END
                    AS overage_rate,
                  q.plan_tier, v.metric IS NOT NULL AS "overridden!",
                  v.over_limit IS NULL AND q.over_limit = 'overage' AND coalesce((
                    SELECT s.status = 'trialing' AND s.default_payment_method_id IS NULL
                           AND s.collection_method IS DISTINCT FROM 'send_invoice'
                           AND NOT EXISTS (SELECT FROM billing_payment_methods m
                                            WHERE m.organization_id = q.organization_id
                                              AND m.status = 'attached')
                      FROM billing_subscriptions s
                     WHERE s.organization_id = q.organization_id
                       AND s.status IN ('active', 'trialing', 'past_due')
                     ORDER BY s.plan_tier IS NOT DISTINCT FROM q.plan_tier DESC,
                              s.stripe_created_at DESC NULLS LAST, s.stripe_subscription_id DESC
                     LIMIT 1), false) AS "unpaid_trial!"
             FROM usage_quotas q
             LEFT JOIN usage_quota_overrides v
               ON v.organization_id = q.organization_id AND v.metric = q.metric
            WHERE q.organization_id = $1 ORDER BY q.metric"#,
        organization_id
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| quota_row!(row)).collect())
}

/// Locks a quota; the ledger counts nothing under it meanwhile.
pub async fn lock_one(tx: &mut TenantTx, metric: &str) -> Result<Option<QuotaRow>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let locked = sqlx::query!(
        r#"SELECT 1 AS "locked!" FROM usage_quotas WHERE organization_id = $1 AND metric = $2
              FOR NO KEY UPDATE"#,
        organization_id,
        metric
    )
    .fetch_optional(tx.conn())
    .await?;
    if locked.is_none() {
        return Ok(None);
    }
    let quotas = list(tx.conn(), organization_id).await?;
    Ok(quotas.into_iter().find(|quota| quota.metric == metric))
}

pub async fn put_override(
    tx: &mut TenantTx,
    metric: &str,
    quota: Option<Decimal>,
    over_limit: Option<OverLimit>,
) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "INSERT INTO usage_quota_overrides (organization_id, metric, unlimited, quota, over_limit)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (organization_id, metric) DO UPDATE SET
           unlimited = excluded.unlimited, quota = excluded.quota,
           over_limit = excluded.over_limit, updated_at = excluded.updated_at",
        organization_id,
        metric,
        quota.is_none(),
        quota,
        over_limit.map(OverLimit::as_str)
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub async fn remove_override(tx: &mut TenantTx, metric: &str) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "DELETE FROM usage_quota_overrides WHERE organization_id = $1 AND metric = $2",
        organization_id,
        metric
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A plan with its terms, and the version that they are; `None` for organizations
/// without a subscription, which have what is sold now.
#[derive(Debug, Clone, Copy)]
pub struct Assigned<'a> {
    pub plan: &'a Plan,
    pub version: Option<i32>,
}

/// A plan's quotas as columns.
struct Columns<'a> {
    metrics: Vec<&'a str>,
    limits: Vec<Option<Decimal>>,
    kinds: Vec<&'static str>,
    rates: Vec<Option<Decimal>>,
    ceilings: Vec<Option<String>>,
}

impl<'a> Columns<'a> {
    fn of(plan: &'a Plan) -> Self {
        let mut columns = Self {
            metrics: vec![],
            limits: vec![],
            kinds: vec![],
            rates: vec![],
            ceilings: vec![],
        };
        for (metric, quota) in &plan.quotas {
            columns.metrics.push(metric.as_str());
            columns.limits.push(quota.quota);
            columns.kinds.push(quota.over_limit.as_str());
            columns.rates.push(quota.overage_rate);
            columns.ceilings.push(quota.grace_max.map(ceiling_text));
        }
        columns
    }
}

/// The versions of each plan that organizations have; `None` where a plan is held
/// without a subscription, or since before there were versions.
pub async fn held_versions(
    conn: &mut PgConnection,
) -> Result<Vec<(String, Option<i32>)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT plan_tier, plan_version FROM organizations GROUP BY plan_tier, plan_version
          ORDER BY plan_tier, plan_version"
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter();
    Ok(held.map(|row| (row.plan_tier, row.plan_version)).collect())
}

/// Gives up to 1,000 organizations whose plan a subscription pays for the oldest
/// version of it, if they have none: they bought it before there were versions.
/// Returns their number.
pub async fn adopt_oldest(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    sqlx::query!(
        "UPDATE organizations o SET plan_version = oldest.version
           FROM (SELECT plan_tier, min(version) AS version FROM plan_versions
                  GROUP BY plan_tier) oldest
          WHERE o.plan_version IS NULL AND oldest.plan_tier = o.plan_tier
            AND o.id IN (SELECT c.id FROM organizations c
                          WHERE c.plan_version IS NULL
                            AND EXISTS (SELECT FROM plan_versions v
                                         WHERE v.plan_tier = c.plan_tier)
                            AND EXISTS (SELECT FROM billing_subscriptions s
                                         WHERE s.organization_id = c.id
                                           AND s.plan_tier = c.plan_tier
                                           AND s.status IN ('active', 'trialing', 'past_due'))
                          ORDER BY c.id LIMIT 1000 FOR UPDATE SKIP LOCKED)"
    )
    .execute(conn)
    .await
    .map(|done| done.rows_affected())
}

/// Organizations whose subscription has a former version of a plan for which Stripe
/// charges the same, with that version; all of them, or those `among` these.
pub async fn behind(
    conn: &mut PgConnection,
    tier: &str,
    version: i32,
    among: Option<&[Uuid]>,
    limit: i64,
) -> Result<Vec<(Uuid, i32)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT o.id, o.plan_version AS "version!" FROM organizations o
             JOIN plan_versions had ON had.plan_tier = $1 AND had.version = o.plan_version
             JOIN plan_versions sold ON sold.plan_tier = $1 AND sold.version = $2
            WHERE o.plan_tier = $1 AND o.plan_version <> $2
              AND had.billed_digest = sold.billed_digest
              AND ($3::uuid[] IS NULL OR o.id = ANY($3))
            ORDER BY o.id LIMIT $4"#,
        tier,
        version,
        among,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.version)).collect())
}

/// Sets the version of the organizations' subscriptions to a plan for which Stripe
/// charges the same.
pub async fn set_version(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    tier: &str,
    version: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_subscriptions s SET plan_version = $3
           FROM plan_versions had, plan_versions sold
          WHERE s.organization_id = ANY($1) AND s.plan_tier = $2
            AND s.plan_version IS DISTINCT FROM $3
            AND had.plan_tier = $2 AND had.version = coalesce(s.plan_version, 1)
            AND sold.plan_tier = $2 AND sold.version = $3
            AND had.billed_digest = sold.billed_digest",
        organizations,
        tier,
        version
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The organizations on a plan whose quotas or features differ from its terms.
pub async fn differing(
    conn: &mut PgConnection,
    assigned: Assigned<'_>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let columns = Columns::of(assigned.plan);
    sqlx::query_scalar!(
        r#"SELECT DISTINCT o.id AS "id!"
             FROM organizations o
            CROSS JOIN unnest($3::text[], $4::numeric[], $5::text[], $6::numeric[], $9::text[])
               AS t(metric, quota, kind, rate, ceiling)
             LEFT JOIN usage_quotas q ON q.organization_id = o.id AND q.metric = t.metric
            WHERE o.plan_tier = $1 AND o.plan_version IS NOT DISTINCT FROM $2
              AND (q.plan_tier, q.quota, q.over_limit, q.overage_rate, q.plan_version, q.currency,
                   q.plan_interval, q.grace_max)
                  IS DISTINCT FROM
                  ($1, t.quota, t.kind, t.rate, $2::integer, $7, $8, t.ceiling)
           UNION
           SELECT o.id FROM organizations o
            WHERE o.plan_tier = $1 AND o.plan_version IS NOT DISTINCT FROM $2
              AND (SELECT coalesce(jsonb_object_agg(f.feature, f.value), '{}')
                     FROM organization_features f WHERE f.organization_id = o.id) <> $10
            ORDER BY 1"#,
        assigned.plan.tier,
        assigned.version,
        &columns.metrics as &[&str],
        &columns.limits as &[Option<Decimal>],
        &columns.kinds as &[&str],
        &columns.rates as &[Option<Decimal>],
        assigned.plan.price.currency,
        assigned.plan.price.interval.as_str(),
        &columns.ceilings as &[Option<String>],
        json!(assigned.plan.features)
    )
    .fetch_all(conn)
    .await
}

/// Updates the quotas of those of `organizations` that are still on the plan.
pub async fn refresh(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    assigned: Assigned<'_>,
) -> Result<AppliedCatalogue, sqlx::Error> {
    // The lock keeps a concurrent plan change from being undone. Organizations
    // locked by another transaction are skipped so that the rest need not wait.
    let free = sqlx::query_scalar!(
        "SELECT id FROM organizations
          WHERE id = ANY($1) AND plan_tier = $2 AND plan_version IS NOT DISTINCT FROM $3
          ORDER BY id FOR SHARE SKIP LOCKED",
        organizations,
        assigned.plan.tier,
        assigned.version
    )
    .fetch_all(&mut *conn)
    .await?;
    let still = sqlx::query_scalar!(
        r#"WITH locked AS MATERIALIZED (
             SELECT organization_id, metric FROM usage_quotas
              WHERE organization_id = ANY($1)
              ORDER BY organization_id, metric FOR NO KEY UPDATE SKIP LOCKED)
           SELECT id AS "id!" FROM unnest($1::uuid[]) AS free(id)
            WHERE NOT EXISTS (
              SELECT FROM usage_quotas q
               WHERE q.organization_id = free.id
                 AND NOT EXISTS (SELECT FROM locked l
                                  WHERE l.organization_id = q.organization_id
                                    AND l.metric = q.metric))"#,
        &free
    )
    .fetch_all(&mut *conn)
    .await?;
    let left: i64 = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM organizations
            WHERE id = ANY($1) AND plan_tier = $2 AND plan_version IS NOT DISTINCT FROM $4
              AND NOT id = ANY($3)"#,
        organizations,
        assigned.plan.tier,
        &still,
        assigned.version
    )
    .fetch_one(&mut *conn)
    .await?;
    let features = features::assign(conn, &still, assigned.plan).await?;
    Ok(AppliedCatalogue {
        changed: set_quotas(conn, &still, assigned).await? + features,
        skipped: usize::try_from(left).unwrap_or(usize::MAX),
    })
}

/// Sets the plan of `organizations` and updates their quotas to match. A tier
/// that the catalogue no longer has leaves the quotas unchanged.
pub async fn set_plan(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    tier: &str,
    version: Option<i32>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE organizations SET plan_tier = $2, plan_version = $3, updated_at = now()
          WHERE id = ANY($1)",
        organizations,
        tier,
        version
    )
    .execute(&mut *conn)
    .await?;
    match catalogue.terms(tier, version) {
        Some(plan) => {
            let assigned = Assigned {
                plan: &plan,
                version,
            };
            features::assign(conn, organizations, &plan).await?;
            set_quotas(conn, organizations, assigned).await.map(drop)
        }
        None => {
            tracing::warn!(
                tier,
                "the catalogue has no such tier; quotas are left unchanged"
            );
            Ok(())
        }
    }
}

async fn set_quotas(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    assigned: Assigned<'_>,
) -> Result<u64, sqlx::Error> {
    let columns = Columns::of(assigned.plan);
    sqlx::query!(
        "INSERT INTO usage_quotas (organization_id, metric, plan_tier, unlimited, quota, over_limit,
                                   overage_rate, plan_version, currency, plan_interval, grace_max)
         SELECT organization, metric, $2, quota IS NULL, quota, kind, rate, $7, $8, $9, ceiling
           FROM unnest($1::uuid[]) AS o(organization)
          CROSS JOIN unnest($3::text[], $4::numeric[], $5::text[], $6::numeric[], $10::text[])
             AS t(metric, quota, kind, rate, ceiling)
          -- The ledger's lock order.
          ORDER BY organization, metric
         ON CONFLICT (organization_id, metric) DO UPDATE SET
           plan_tier = excluded.plan_tier, unlimited = excluded.unlimited, quota = excluded.quota,
           over_limit = excluded.over_limit, overage_rate = excluded.overage_rate,
           plan_version = excluded.plan_version, currency = excluded.currency,
           plan_interval = excluded.plan_interval, grace_max = excluded.grace_max,
           updated_at = excluded.updated_at
         WHERE (usage_quotas.plan_tier, usage_quotas.quota, usage_quotas.over_limit,
                usage_quotas.overage_rate, usage_quotas.plan_version, usage_quotas.currency,
                usage_quotas.plan_interval, usage_quotas.grace_max)
            IS DISTINCT FROM (excluded.plan_tier, excluded.quota, excluded.over_limit,
                              excluded.overage_rate, excluded.plan_version, excluded.currency,
                              excluded.plan_interval, excluded.grace_max)",
        organizations,
        assigned.plan.tier,
        &columns.metrics as &[&str],
        &columns.limits as &[Option<Decimal>],
        &columns.kinds as &[&str],
        &columns.rates as &[Option<Decimal>],
        assigned.version,
        assigned.plan.price.currency,
        assigned.plan.price.interval.as_str(),
        &columns.ceilings as &[Option<String>]
    )
    .execute(conn)
    .await
    .map(|done| done.rows_affected())
}
