//! SQL for usage reports.

mod counted;
mod invoiced;
mod outcomes;
mod rejected;
mod terms;

use billing_domain::quota::OverLimit;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::due::OLDEST;
use crate::catalogue::{Aggregation, Catalogue};
use crate::db::words;
pub use counted::{ToldLately, clear_uncounted, mark_uncounted, told_lately};
pub use invoiced::{InvoicedUsage, Told, invoiced_otherwise, told_of};
pub use outcomes::{Attempt, Stuck, mark_attempted, mark_failed, mark_refused, mark_sent, stuck};
pub use rejected::{
    MeterError, enter_meter_errors, explained, mark_rejected, meter_errors, postpone_explanation,
    settle_meter_errors, take_back, unexplained, with_rejected,
};
pub use terms::keep as keep_terms;

/// A usage total for which Stripe bills the organization, or should.
#[derive(Debug, Clone)]
pub struct OpenTotal {
    pub organization_id: Uuid,
    pub metric: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// When the period was invoiced, if that was before its planned end.
    pub closed_at: Option<Timestamp>,
    /// Usage up to now; usage dated in the future is left out until then.
    pub total: Decimal,
    /// Whether a level is scheduled for later, so that reporting must wait.
    pub waits: bool,
    /// The number of events in the total.
    pub events: i64,
    /// Units recorded for reporting, sent or not.
    pub reported: Decimal,
    /// The part of `reported` that came after the invoice.
    pub reported_late: Decimal,
    /// The part of `reported` that was in time and that Stripe will never take.
    pub refused: Decimal,
    /// Whether the customer was deleted before usage was reported.
    pub customer_deleted: bool,
    /// Whether Stripe rejected usage that it had accepted.
    pub rejected: bool,
    /// `None` if unlimited, or if there is no quota.
    pub quota: Option<Decimal>,
    pub over_limit: Option<OverLimit>,
    /// When an operator overrode the quota, if one did.
    pub overridden_at: Option<Timestamp>,
    /// What changes of plan within the period add to the quota.
    pub adjustment: Decimal,
    /// The price of a unit over the quota, if it has one.
    pub rate: Option<Decimal>,
    pub currency: Option<String>,
    /// `None` if no subscription of that period has a price for the metric.
    pub billed: Option<Billed>,
}

/// The subscription and price that bill a total.
#[derive(Debug, Clone)]
pub struct Billed {
    pub stripe_customer_id: String,
    pub stripe_subscription_id: String,
    /// The price; `None` if a closed period names its lookup key only.
    pub stripe_price_id: Option<String>,
    /// The units that Stripe's price includes.
    pub included: Decimal,
    /// Usage during a trial costs nothing.
    pub on_trial: bool,
    /// The subscription ended and Stripe made no invoice for its last usage.
    pub never_invoiced: bool,
}

/// A report to be recorded for a total.
#[derive(Debug, Clone)]
pub struct ReportEntry {
    pub event_name: String,
    pub units: Decimal,
    /// The total's `reported` after this report.
    pub reported: Decimal,
    /// The units that come after the invoice.
    pub late: Decimal,
    pub at: Timestamp,
    /// Whether it is reported ahead of a change of ours that ends the period.
    pub ahead: bool,
}

/// A row of `open`'s query.
struct OpenRow {
    organization_id: Uuid,
    metric: String,
    period_start: jiff_sqlx::Timestamp,
    period_end: jiff_sqlx::Timestamp,
    total: Decimal,
    closed_at: Option<jiff_sqlx::Timestamp>,
    ahead: Option<Decimal>,
    newest: Option<Decimal>,
    highest: Option<Decimal>,
    waits: Option<bool>,
    events: i64,
    reported: Decimal,
    reported_late: Decimal,
    refused: Option<Decimal>,
    taken: Option<Decimal>,
    is_refused: Option<bool>,
    is_rejected: Option<bool>,
    stripe_customer_id: Option<String>,
    included: Option<Decimal>,
    on_trial: Option<bool>,
    never_invoiced: Option<bool>,
    quota: Option<Decimal>,
    over_limit: Option<String>,
    overridden_at: Option<jiff_sqlx::Timestamp>,
    quota_adjustment: Decimal,
    rate: Option<Decimal>,
    currency: Option<String>,
    stripe_subscription_id: Option<String>,
    stripe_price_id: Option<String>,
}

impl OpenRow {
    fn into_total(self, aggregation: Aggregation) -> Result<OpenTotal, sqlx::Error> {
        let is_sum = aggregation == Aggregation::Sum;
        let ahead = self.ahead.unwrap_or(Decimal::ZERO);
        let subscription = self.stripe_customer_id.zip(self.stripe_subscription_id);
        let billed = match (subscription, self.included, self.on_trial) {
            (
                Some((stripe_customer_id, stripe_subscription_id)),
                Some(included),
                Some(on_trial),
            ) => Some(Billed {
                stripe_customer_id,
                stripe_subscription_id,
                stripe_price_id: self.stripe_price_id,
                included,
                on_trial,
                never_invoiced: self.never_invoiced.unwrap_or(false),
            }),
            _ => None,
        };
        let over_limit = self.over_limit.as_deref();
        let over_limit = over_limit.map(|word| words::decode("usage_quotas.over_limit", word));
        Ok(OpenTotal {
            organization_id: self.organization_id,
            metric: self.metric,
            period_start: self.period_start.to_jiff(),
            period_end: self.period_end.to_jiff(),
            closed_at: self.closed_at.map(|at| at.to_jiff()),
            total: match aggregation {
                Aggregation::Sum => (self.total - ahead).max(Decimal::ZERO),
                Aggregation::Last => self.newest.unwrap_or(self.total),
                Aggregation::Max => self.highest.map_or(self.total, |due| due.max(self.total)),
            },
            waits: !is_sum && (self.ahead.is_some() || self.waits.unwrap_or(false)),
            events: self.events,
            reported: self.reported,
            reported_late: self.reported_late,
            customer_deleted: self.is_refused.unwrap_or(false),
            rejected: self.is_rejected.unwrap_or(false),
            refused: match (self.refused, aggregation) {
                (None, _) => Decimal::ZERO,
                (Some(_), Aggregation::Last) => self.reported - self.taken.unwrap_or(Decimal::ZERO),
                (Some(units), _) => units,
            },
            quota: self.quota,
            over_limit: over_limit.transpose()?,
            overridden_at: self.overridden_at.map(|at| at.to_jiff()),
            adjustment: self.quota_adjustment,
            rate: self.rate,
            currency: self.currency,
            billed,
        })
    }
}

/// Reads the totals of the periods for which Stripe still accepts usage, as of
/// `now`: those of organizations whose subscription began before the period and
/// has a price for the metric, and those over a quota whose overage should be
/// billed. `organizations` narrows it to these.
#[expect(clippy::too_many_lines, reason = "it is one query")]
pub async fn open(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    now: Timestamp,
    organizations: Option<&[Uuid]>,
) -> Result<Vec<OpenTotal>, sqlx::Error> {
    let rows = sqlx::query_as!(
        OpenRow,
        r#"SELECT t.organization_id, t.metric, t.period_start, t.period_end, t.total,
                  -- A subscription that ends as scheduled is invoiced like any period end; one
                  -- that ends immediately, immediately.
                  CASE WHEN s.ended_at <= t.period_end AND s.ended_at > s.begun_at THEN s.cut_at
                       -- It ended as a period began; the previous one was complete.
                       ELSE t.closed_at END
                    AS closed_at,
                  ahead.quantity AS "ahead?", level.newest AS "newest?",
                  level.highest AS "highest?", level.waits AS "waits?",
                  t.events, t.reported, t.reported_late, refused.units AS "refused?",
                  refused.taken AS "taken?", refused.any AS "is_refused?",
                  refused.rejected AS "is_rejected?",
                  s.stripe_customer_id AS "stripe_customer_id?", s.included AS "included?",
                  s.on_trial AS "on_trial?",
                  (s.ended_at <= t.period_end AND NOT EXISTS (
                     SELECT FROM billing_invoices v
                      WHERE v.organization_id = t.organization_id
                        AND v.stripe_subscription_id = s.stripe_subscription_id
                        AND v.stripe_created_at > t.period_start
                        AND v.stripe_created_at >= s.ended_at - interval '1 second'))
                    AS never_invoiced,
                  -- The plan that bills the period need not be today's plan.
                  CASE WHEN s.included IS NULL THEN had.quota
                       WHEN q.overridden THEN q.quota
                       -- Stripe's price includes the plan's quota alone.
                       WHEN added.unlimited THEN NULL
                       ELSE s.included + coalesce(added.quota, 0) END AS quota,
                  CASE WHEN s.included IS NULL THEN had.over_limit
                       ELSE coalesce(q.over_limit_override, 'overage') END AS over_limit,
                  q.overridden_at AS "overridden_at?", t.quota_adjustment,
                  coalesce(s.overage_rate, had.overage_rate, q.overage_rate) AS rate,
                  q.currency AS "currency?",
                  s.stripe_subscription_id AS "stripe_subscription_id?",
                  s.stripe_price_id AS "stripe_price_id?"
             FROM usage_totals t
             LEFT JOIN effective_usage_quotas q
               ON q.organization_id = t.organization_id AND q.metric = t.metric
             LEFT JOIN LATERAL (
               SELECT s.stripe_customer_id, s.stripe_subscription_id, billed.included,
                      billed.overage_rate, billed.stripe_price_id, s.ended_at,
                      coalesce(s.usage_period_start, s.current_period_start) AS begun_at,
                      CASE WHEN s.ended_at IN (s.cancel_at, s.current_period_end) THEN NULL
                           ELSE s.ended_at END AS cut_at,
                      coalesce(s.trial_end > t.period_start, false) AS on_trial
                 -- By the plan that the organization has, or had when the period was closed. If it
                 -- has no price for the metric, nothing is told for another one.
                 FROM (SELECT s.* FROM billing_subscriptions s
                        WHERE s.organization_id = t.organization_id
                          AND s.stripe_subscription_id = coalesce(
                            t.billed_subscription_id,
                            billing_usage_subscription(t.organization_id, t.period_start,
                              coalesce((SELECT b.plan_tier FROM billing_prices b
                                         WHERE b.stripe_price_id = t.billed_by),
                                       q.plan_tier)))) s
                CROSS JOIN LATERAL (
                  (SELECT coalesce(b.included, q.plan_quota, 0) AS included, b.overage_rate,
                          i.stripe_price_id
                     FROM billing_subscription_items i
                     LEFT JOIN billing_prices b ON b.stripe_price_id = i.stripe_price_id
                    WHERE t.billed_by IS NULL AND i.organization_id = s.organization_id
                      AND i.stripe_subscription_id = s.stripe_subscription_id
                      -- An older replica does not say what an item is for.
                      AND coalesce(i.metric, b.metric) = t.metric
                    ORDER BY i.stripe_price_id LIMIT 1)
                  UNION ALL
                  -- A closed period is billed by the price it had; rows of before name its
                  -- lookup key.
                  (SELECT coalesce(b.included, q.plan_quota, 0), b.overage_rate, b.stripe_price_id
                     FROM billing_prices b
                    WHERE t.billed_by <> '' AND b.metric = t.metric
                      -- Rows of before do not name its subscription.
                      AND coalesce(t.billed_subscription_id = s.stripe_subscription_id, true)
                      AND (b.stripe_price_id = t.billed_by OR b.lookup_key = t.billed_by)
                    ORDER BY b.stripe_price_id = t.billed_by DESC, b.first_seen_at DESC
                    LIMIT 1)) billed) s ON true
             LEFT JOIN LATERAL (
               -- last_at shows whether any event lies in the future; such an event is at most
               -- minutes old.
               SELECT sum(e.quantity) AS quantity FROM usage_events e
                WHERE t.last_at > greatest($3, now())
                  AND e.organization_id = t.organization_id AND e.metric = t.metric
                  AND e.period_start = t.period_start
                  AND e.recorded_at > greatest($3, now()) - interval '10 minutes'
                  AND e.occurred_at > greatest($3, now())) ahead ON true
             LEFT JOIN LATERAL (
               -- Scheduled levels whose time has come by then.
               SELECT (array_agg(p.quantity ORDER BY p.occurred_at DESC, p.event_id DESC)
                         FILTER (WHERE p.occurred_at <= greatest($3, now())
                                   AND (t.last_at IS NULL OR p.occurred_at >= t.last_at)))[1]
                        AS newest,
                      max(p.quantity) FILTER (WHERE p.occurred_at <= greatest($3, now()))
                        AS highest,
                      bool_or(p.occurred_at > greatest($3, now())) AS waits
                 FROM usage_pending_levels p
                WHERE p.organization_id = t.organization_id AND p.metric = t.metric
                  AND p.period_start = t.period_start) level ON true
             LEFT JOIN LATERAL (
               SELECT sum(r.units) FILTER (WHERE r.late IS NOT TRUE) AS units,
                      bool_or(r.rejected_code IS NULL) AS any,
                      bool_or(r.rejected_code IS NOT NULL) AS rejected,
                      -- The level Stripe has now.
                      (SELECT k.units FROM usage_reports k
                        WHERE k.organization_id = t.organization_id AND k.metric = t.metric
                          AND k.period_start = t.period_start AND k.refused_at IS NULL
                        ORDER BY date_trunc('second', k.at) DESC, k.created_at DESC LIMIT 1)
                        AS taken
                 FROM usage_reports r
                WHERE r.organization_id = t.organization_id AND r.metric = t.metric
                  AND r.period_start = t.period_start AND r.refused_at IS NOT NULL
                  AND r.retold_at IS NULL) refused
               ON true
             LEFT JOIN LATERAL (
               -- What add-ons added when the period ended, or add now.
               SELECT CASE WHEN t.terms_kept_at >= t.period_end THEN t.kept_added_quota
                           ELSE u.added_quota END AS quota,
                      CASE WHEN t.terms_kept_at >= t.period_end THEN t.kept_added_unlimited
                           ELSE u.added_unlimited END AS unlimited
                 FROM usage_quotas u
                WHERE u.organization_id = t.organization_id AND u.metric = t.metric) added
               ON true
             LEFT JOIN LATERAL (
               -- What nothing bills is judged by the terms of the period's end.
               SELECT t.kept_quota AS quota, t.kept_over_limit AS over_limit,
                      t.kept_overage_rate AS overage_rate
                WHERE t.terms_kept_at >= t.period_end
               UNION ALL
               SELECT q.quota, q.over_limit, q.overage_rate
                WHERE (t.terms_kept_at >= t.period_end) IS NOT TRUE
                  AND (t.period_end > now() OR q.changed_at <= t.period_end)) had
               ON s.included IS NULL
            WHERE t.period_end > $1 AND ($2::uuid[] IS NULL OR t.organization_id = ANY($2))
              AND t.billed_by IS DISTINCT FROM '-'
              AND (s.included IS NOT NULL
                   OR (had.overage_rate IS NOT NULL AND had.over_limit = 'overage'
                       AND t.total > t.quota_adjustment + had.quota))
            ORDER BY t.organization_id, t.metric, t.period_start"#,
        (now - OLDEST).to_sqlx() as _,
        organizations as _,
        now.to_sqlx() as _
    )
    .fetch_all(conn)
    .await?;
    let totals = rows.into_iter().map(|row| {
        let metric = catalogue.metric(&row.metric);
        let aggregation = metric.map_or(Aggregation::Sum, |metric| metric.aggregation);
        row.into_total(aggregation)
    });
    totals.collect()
}

/// Locks the organizations' quotas, in the ledger's order, so that nothing is counted or
/// recorded for reporting meanwhile.
pub async fn lock(conn: &mut PgConnection, organizations: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"SELECT 1 AS "locked!" FROM usage_quotas WHERE organization_id = ANY($1)
            ORDER BY organization_id, metric FOR NO KEY UPDATE"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// Records a report and updates the total. Returns false, and changes nothing,
/// if the identifier belongs to another report.
pub async fn record(
    conn: &mut PgConnection,
    total: &OpenTotal,
    billed: &Billed,
    identifier: &str,
    entry: &ReportEntry,
) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query_scalar!(
        "INSERT INTO usage_reports (organization_id, identifier, metric, period_start,
                                    stripe_customer_id, event_name, units, at, created_at, late)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp(), $9)
         ON CONFLICT (organization_id, identifier) DO NOTHING RETURNING identifier",
        total.organization_id,
        identifier,
        total.metric,
        total.period_start.to_sqlx() as _,
        billed.stripe_customer_id,
        entry.event_name,
        entry.units,
        entry.at.to_sqlx() as _,
        if entry.late.is_zero() {
            entry.ahead.then_some(false)
        } else {
            Some(true)
        }
    )
    .fetch_optional(&mut *conn)
    .await?;
    if inserted.is_none() {
        return Ok(false);
    }
    sqlx::query!(
        "UPDATE usage_totals SET reported = $4, reported_late = reported_late + $5
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3",
        total.organization_id,
        total.metric,
        total.period_start.to_sqlx() as _,
        entry.reported,
        entry.late
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// A report that Stripe has not confirmed.
#[derive(Debug, Clone)]
pub struct UnsentReport {
    pub organization_id: Uuid,
    pub identifier: String,
    pub metric: String,
    pub period_start: Timestamp,
    pub stripe_customer_id: String,
    pub event_name: String,
    pub units: Decimal,
    pub at: Timestamp,
    /// When Stripe may first have received it.
    pub attempted_at: Option<Timestamp>,
}

/// Lists the reports to be sent, oldest first; `organization_id` narrows it to
/// one organization.
pub async fn unsent(
    conn: &mut PgConnection,
    organization_id: Option<Uuid>,
) -> Result<Vec<UnsentReport>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, identifier, metric, period_start, stripe_customer_id, event_name,
                units, at, attempted_at
           FROM usage_reports
          WHERE sent_at IS NULL AND refused_at IS NULL
            AND ($1::uuid IS NULL OR organization_id = $1)
            -- Stripe rejects older usage. What it may have received stays for an operator.
            AND (at > now() - interval '35 days' OR attempted_at IS NOT NULL)
          ORDER BY created_at, identifier",
        organization_id
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| UnsentReport {
            organization_id: row.organization_id,
            identifier: row.identifier,
            metric: row.metric,
            period_start: row.period_start.to_jiff(),
            stripe_customer_id: row.stripe_customer_id,
            event_name: row.event_name,
            units: row.units,
            at: row.at.to_jiff(),
            attempted_at: row.attempted_at.map(|at| at.to_jiff()),
        })
        .collect())
}
