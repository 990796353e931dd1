//! SQL for quotas and their overrides.

mod held;
mod seats;
mod versions;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::audit;
use crate::catalogue::{Catalogue, OverLimit};
use crate::db::TenantTx;
use crate::features;
use crate::metering::reports;
use crate::server::number::Number;
use held::Columns;
pub use held::{Assigned, HeldPlan};
pub use seats::{are_fewer_seats, hold_seats, release_seats, seats_used};
pub use versions::{adopt_oldest, adopt_prices, behind, held_plans, set_version};

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
        r#"SELECT q.metric AS "metric!", q.quota, q.over_limit AS "over_limit!",
                  CASE WHEN q.over_limit = 'overage' AND NOT q.unlimited THEN q.overage_rate END
                    AS overage_rate,
                  q.plan_tier AS "plan_tier!", q.overridden AS "overridden!",
                  q.over_limit_override IS NULL AND q.over_limit = 'overage' AND coalesce((
                    SELECT s.status = 'trialing' AND s.default_payment_method_id IS NULL
                           AND s.collection_method IS DISTINCT FROM 'send_invoice'
                           AND NOT EXISTS (SELECT FROM billing_payment_methods m
                                            WHERE m.organization_id = q.organization_id
                                              AND m.status = 'attached')
                      FROM billing_subscriptions s
                     WHERE s.organization_id = q.organization_id
                       AND s.status IN ('active', 'trialing', 'past_due')
                       AND s.access_ended_at IS NULL
                     ORDER BY s.plan_tier IS NOT DISTINCT FROM q.plan_tier DESC,
                              s.stripe_created_at DESC NULLS LAST, s.stripe_subscription_id DESC
                     LIMIT 1), false) AS "unpaid_trial!"
             FROM effective_usage_quotas q
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

/// A quota that is set in the plan's place.
pub struct NewOverride<'a> {
    pub metric: &'a str,
    /// `None` if unlimited.
    pub quota: Option<Decimal>,
    pub over_limit: Option<OverLimit>,
    pub reason: Option<&'a str>,
    pub expires_at: Option<Timestamp>,
    pub set_by: &'a str,
}

pub async fn put_override(tx: &mut TenantTx, new: &NewOverride<'_>) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "INSERT INTO usage_quota_overrides
           (organization_id, metric, unlimited, quota, over_limit, reason, expires_at, set_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (organization_id, metric) DO UPDATE SET
           unlimited = excluded.unlimited, quota = excluded.quota,
           over_limit = excluded.over_limit, reason = excluded.reason,
           expires_at = excluded.expires_at, set_by = excluded.set_by,
           updated_at = excluded.updated_at",
        organization_id,
        new.metric,
        new.quota.is_none(),
        new.quota,
        new.over_limit.map(OverLimit::as_str),
        new.reason,
        new.expires_at.map(|at| at.to_sqlx()) as _,
        new.set_by
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What is known of an override besides the quota.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaOverride {
    #[serde(skip)]
    pub metric: String,
    /// `hard`, `grace` or `overage`; null: as the plan says.
    #[schema(required)]
    pub over_limit: Option<String>,
    #[schema(required)]
    pub reason: Option<String>,
    /// When it ends by itself.
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    /// A user's id, or the login name of whoever ran the command.
    #[schema(required)]
    pub set_by: Option<String>,
    pub updated_at: Timestamp,
}

/// The overrides of an organization.
pub async fn overrides(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Vec<QuotaOverride>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT metric, over_limit, reason, expires_at, set_by, updated_at FROM usage_quota_overrides
          WHERE organization_id = $1 ORDER BY metric",
        organization_id
    )
    .fetch_all(conn)
    .await?;
    let overrides = rows.into_iter().map(|row| QuotaOverride {
        metric: row.metric,
        over_limit: row.over_limit,
        reason: row.reason,
        expires_at: row.expires_at.map(|at| at.to_jiff()),
        set_by: row.set_by,
        updated_at: row.updated_at.to_jiff(),
    });
    Ok(overrides.collect())
}

/// Overrides whose end has come.
pub async fn due_overrides(
    conn: &mut PgConnection,
    limit: i64,
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, metric FROM usage_quota_overrides
          WHERE expires_at <= now() ORDER BY expires_at LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.organization_id, row.metric))
        .collect())
}

/// By the database's clock.
pub async fn now(conn: &mut PgConnection) -> Result<Timestamp, sqlx::Error> {
    let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
        .fetch_one(conn)
        .await?;
    Ok(now.to_jiff())
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

/// The organizations on a plan whose quotas or features differ from its terms.
pub async fn differing(
    conn: &mut PgConnection,
    assigned: Assigned<'_>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let columns = Columns::of(assigned.plan);
    let (seats, fewest) = assigned.seats();
    sqlx::query_scalar!(
        r#"WITH held AS (
             SELECT o.id, o.plan_seats FROM organizations o
              WHERE o.plan_tier = $1 AND o.plan_version IS NOT DISTINCT FROM $2
                AND o.plan_currency IS NOT DISTINCT FROM $11
                AND o.plan_interval IS NOT DISTINCT FROM $12 AND o.plan_addons = $15)
           SELECT DISTINCT o.id AS "id!"
             FROM held o
            CROSS JOIN unnest($3::text[], $4::numeric[], $5::text[], $6::numeric[], $9::text[],
                              $16::numeric[], $17::boolean[])
               AS t(metric, quota, kind, rate, ceiling, added, freed)
             LEFT JOIN usage_quotas q ON q.organization_id = o.id AND q.metric = t.metric
            WHERE (q.plan_tier, q.quota, q.over_limit, q.overage_rate, q.plan_version, q.currency,
                   q.plan_interval, q.grace_max, q.added_quota, q.added_unlimited)
                  IS DISTINCT FROM
                  ($1, CASE WHEN t.metric = $13::text THEN coalesce(o.plan_seats, $14::integer)
                            ELSE t.quota END,
                   t.kind, t.rate, $2::integer, $7, $8, t.ceiling, t.added, t.freed)
           UNION
           SELECT o.id FROM held o
            WHERE (SELECT coalesce(jsonb_object_agg(f.feature, f.value), '{}')
                     FROM organization_features f WHERE f.organization_id = o.id) <> $10
            ORDER BY 1"#,
        assigned.plan.tier,
        assigned.held.plan_version,
        &columns.metrics as &[&str],
        &columns.limits as &[Option<Decimal>],
        &columns.kinds as &[&str],
        &columns.rates as &[Option<Decimal>],
        assigned.plan.price.currency,
        assigned.plan.price.interval.as_str(),
        &columns.ceilings as &[Option<String>],
        json!(assigned.plan.features),
        assigned.held.plan_currency,
        assigned.held.plan_interval,
        seats,
        fewest,
        json!(assigned.held.plan_addons),
        &columns.added,
        &columns.freed
    )
    .fetch_all(conn)
    .await
}

/// Those of `organizations` all of whose quotas this transaction could lock.
pub async fn lock_free(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
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
        organizations
    )
    .fetch_all(conn)
    .await
}

/// What became of organizations whose quotas differ from their terms.
pub struct Refreshed {
    /// Whose quotas are those of their terms now.
    pub organizations: Vec<Uuid>,
    /// Quotas and features that differed.
    pub changed: u64,
    /// Organizations that another transaction holds.
    pub skipped: usize,
}

/// Updates the quotas of those of `organizations` that are still on the plan, and
/// `unlocked`: their audit chains are locked.
pub async fn refresh(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    unlocked: &[Uuid],
    assigned: Assigned<'_>,
) -> Result<Refreshed, sqlx::Error> {
    // The lock keeps a concurrent plan change from being undone. Organizations
    // locked by another transaction are skipped so that the rest need not wait.
    let free = sqlx::query_scalar!(
        "SELECT id FROM organizations
          WHERE id = ANY($1) AND plan_tier = $2 AND plan_version IS NOT DISTINCT FROM $3
            AND plan_currency IS NOT DISTINCT FROM $4 AND plan_interval IS NOT DISTINCT FROM $5
            AND plan_addons = $6
          ORDER BY id FOR NO KEY UPDATE SKIP LOCKED",
        unlocked,
        assigned.plan.tier,
        assigned.held.plan_version,
        assigned.held.plan_currency,
        assigned.held.plan_interval,
        json!(assigned.held.plan_addons)
    )
    .fetch_all(&mut *conn)
    .await?;
    let still = lock_free(conn, &free).await?;
    let left: i64 = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM organizations
            WHERE id = ANY($1) AND plan_tier = $2 AND plan_version IS NOT DISTINCT FROM $4
              AND plan_currency IS NOT DISTINCT FROM $5
              AND plan_interval IS NOT DISTINCT FROM $6 AND plan_addons = $7
              AND NOT id = ANY($3)"#,
        organizations,
        assigned.plan.tier,
        &still,
        assigned.held.plan_version,
        assigned.held.plan_currency,
        assigned.held.plan_interval,
        json!(assigned.held.plan_addons)
    )
    .fetch_one(&mut *conn)
    .await?;
    reports::keep_terms(conn, &still).await?;
    let features = features::assign(conn, &still, assigned.plan).await?;
    audit::count_unentered(conn, &still).await?;
    Ok(Refreshed {
        changed: set_quotas(conn, &still, assigned).await? + features,
        skipped: usize::try_from(left).unwrap_or(usize::MAX),
        organizations: still,
    })
}

/// Sets the plan of organizations, each with the seats that it bought, and updates their
/// quotas to match. A tier that the catalogue no longer has leaves the quotas unchanged.
pub async fn set_plan(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    held: &HeldPlan,
    holders: &[(Uuid, Option<u32>)],
) -> Result<(), sqlx::Error> {
    let (organizations, seats): (Vec<Uuid>, Vec<Option<i32>>) = holders
        .iter()
        .map(|(id, seats)| (*id, seats.map(i32::try_from).and_then(Result::ok)))
        .unzip();
    reports::keep_terms(conn, &organizations).await?;
    sqlx::query!(
        "UPDATE organizations o SET plan_tier = $3, plan_version = $4, plan_currency = $5,
                plan_interval = $6, plan_seats = holder.seats, plan_addons = $7,
                updated_at = now()
           FROM unnest($1::uuid[], $2::integer[]) AS holder(id, seats)
          WHERE o.id = holder.id",
        &organizations,
        &seats as &[Option<i32>],
        held.plan_tier,
        held.plan_version,
        held.plan_currency,
        held.plan_interval,
        json!(held.plan_addons)
    )
    .execute(&mut *conn)
    .await?;
    match held.terms(catalogue) {
        Some(plan) => {
            let assigned = Assigned { plan: &plan, held };
            features::assign(conn, &organizations, &plan).await?;
            set_quotas(conn, &organizations, assigned).await.map(drop)
        }
        None => {
            tracing::warn!(
                tier = held.plan_tier,
                "the catalogue has no such tier; quotas are left unchanged"
            );
            Ok(())
        }
    }
}

/// The limit of seats is what each organization bought.
async fn set_quotas(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    assigned: Assigned<'_>,
) -> Result<u64, sqlx::Error> {
    let columns = Columns::of(assigned.plan);
    let (seats, fewest) = assigned.seats();
    sqlx::query!(
        "INSERT INTO usage_quotas (organization_id, metric, plan_tier, unlimited, quota, over_limit,
                                   overage_rate, plan_version, currency, plan_interval, grace_max,
                                   added_quota, added_unlimited)
         SELECT o.id, t.metric, $2, l.quota IS NULL, l.quota, kind, rate, $7, $8, $9, ceiling,
                added, freed
           FROM organizations o
          CROSS JOIN unnest($3::text[], $4::numeric[], $5::text[], $6::numeric[], $10::text[],
                            $13::numeric[], $14::boolean[])
             AS t(metric, quota, kind, rate, ceiling, added, freed)
          CROSS JOIN LATERAL (
            SELECT CASE WHEN t.metric = $11::text
                        THEN coalesce(o.plan_seats, $12::integer)
                        ELSE t.quota END AS quota) l
          WHERE o.id = ANY($1)
          -- The ledger's lock order.
          ORDER BY o.id, t.metric
         ON CONFLICT (organization_id, metric) DO UPDATE SET
           plan_tier = excluded.plan_tier, unlimited = excluded.unlimited, quota = excluded.quota,
           over_limit = excluded.over_limit, overage_rate = excluded.overage_rate,
           plan_version = excluded.plan_version, currency = excluded.currency,
           plan_interval = excluded.plan_interval, grace_max = excluded.grace_max,
           added_quota = excluded.added_quota, added_unlimited = excluded.added_unlimited,
           updated_at = excluded.updated_at
         WHERE (usage_quotas.plan_tier, usage_quotas.quota, usage_quotas.over_limit,
                usage_quotas.overage_rate, usage_quotas.plan_version, usage_quotas.currency,
                usage_quotas.plan_interval, usage_quotas.grace_max, usage_quotas.added_quota,
                usage_quotas.added_unlimited)
            IS DISTINCT FROM (excluded.plan_tier, excluded.quota, excluded.over_limit,
                              excluded.overage_rate, excluded.plan_version, excluded.currency,
                              excluded.plan_interval, excluded.grace_max, excluded.added_quota,
                              excluded.added_unlimited)",
        organizations,
        assigned.plan.tier,
        &columns.metrics as &[&str],
        &columns.limits as &[Option<Decimal>],
        &columns.kinds as &[&str],
        &columns.rates as &[Option<Decimal>],
        assigned.held.plan_version,
        assigned.plan.price.currency,
        assigned.plan.price.interval.as_str(),
        &columns.ceilings as &[Option<String>],
        seats,
        fewest,
        &columns.added,
        &columns.freed
    )
    .execute(conn)
    .await
    .map(|done| done.rows_affected())
}
