//! SQL that reads accounts: quota, subscriptions, periods, grace and scheduled
//! levels in one query.

use billing_domain::allowance;
use billing_domain::grace_period::GracePeriod;
use billing_domain::period::{Cadence, Period, PeriodError};
use billing_domain::quota::{OverLimit, QuotaPolicy};
use billing_domain::usage_period::{CurrentSubscription, EndedSubscription};
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::Value;
use sqlx::PgConnection;

use super::{AccountKey, columns, position, unreadable};
use crate::catalogue::{Aggregation, Catalogue, Plan, stored_ceiling};
use crate::features;
use crate::metering::ledger::account::{Account, DueLevels, Grace, Level, PeriodUsage};

/// A row of `read`'s query: an account with one of its periods.
struct AccountRow {
    n: i64,
    now: jiff_sqlx::Timestamp,
    quota: Option<Decimal>,
    over_limit: Option<String>,
    overridden: bool,
    overage_rate: Option<Decimal>,
    quota_tier: Option<String>,
    currency: Option<String>,
    plan_interval: Option<String>,
    grace_max: Option<String>,
    current_start: Option<jiff_sqlx::Timestamp>,
    current_end: Option<jiff_sqlx::Timestamp>,
    usage_start: Option<jiff_sqlx::Timestamp>,
    usage_end: Option<jiff_sqlx::Timestamp>,
    anchor: Option<jiff_sqlx::Timestamp>,
    created: Option<jiff_sqlx::Timestamp>,
    ends: Option<jiff_sqlx::Timestamp>,
    on_trial: Option<bool>,
    chargeable: Option<bool>,
    past_start: Option<jiff_sqlx::Timestamp>,
    past_end: Option<jiff_sqlx::Timestamp>,
    past_anchor: Option<jiff_sqlx::Timestamp>,
    period_start: Option<jiff_sqlx::Timestamp>,
    period_end: Option<jiff_sqlx::Timestamp>,
    total: Option<Decimal>,
    reserved: Option<Decimal>,
    events: Option<i64>,
    last_at: Option<jiff_sqlx::Timestamp>,
    last_event_id: Option<String>,
    alerted: Option<i16>,
    quota_adjustment: Option<Decimal>,
    grace_start: Option<jiff_sqlx::Timestamp>,
    grace_expires: Option<jiff_sqlx::Timestamp>,
    grace_ended: bool,
    grace_void: bool,
    grace_quota: Option<Decimal>,
    closed: bool,
    due_at: Option<jiff_sqlx::Timestamp>,
    due_id: Option<String>,
    due_quantity: Option<Decimal>,
    due_highest: Option<Decimal>,
    features: Option<Value>,
}

/// Reads the accounts of `keys`, in their order. Periods that ended too long ago
/// for late usage are left out.
pub async fn read(
    conn: &mut PgConnection,
    keys: &[AccountKey],
    catalogue: &Catalogue,
    grace_hours: u32,
) -> Result<Vec<Account>, sqlx::Error> {
    let none = vec![false; keys.len()];
    read_featured(conn, keys, &none, catalogue, grace_hours).await
}

/// The same, with the organizations' features of those accounts that are
/// `featured`.
pub async fn read_featured(
    conn: &mut PgConnection,
    keys: &[AccountKey],
    featured: &[bool],
    catalogue: &Catalogue,
    grace_hours: u32,
) -> Result<Vec<Account>, sqlx::Error> {
    let rows = account_rows(conn, keys, featured).await?;
    let blank = |metric: &str, now: Timestamp| {
        // For a metric that left the catalogue, only reservations are released.
        let aggregation = catalogue
            .metric(metric)
            .map_or(Aggregation::Sum, |metric| metric.aggregation);
        Account::blank(aggregation, grace_hours, now)
    };
    let mut accounts: Vec<Option<Account>> = keys.iter().map(|_| None).collect();
    for mut row in rows {
        let n = position(row.n)?;
        let (Some(slot), Some((_, metric))) = (accounts.get_mut(n), keys.get(n)) else {
            return Err(unreadable("an account was read that was not requested"));
        };
        let account = slot.get_or_insert_with(|| blank(metric, row.now.to_jiff()));
        row.read_terms(account, catalogue, metric);
        if let Some(features) = row.features.take() {
            account.features = features::values_of(features)?;
        }
        row.read_period(account)?;
    }
    let accounts = accounts.into_iter();
    accounts
        .map(|account| account.ok_or_else(|| unreadable("an account was not read")))
        .collect()
}

/// `OFFSET 0` keeps a subquery separate, so that its rows are found by their key
/// even under a plan made while the table was empty.
#[expect(clippy::too_many_lines, reason = "it is one query")]
async fn account_rows(
    conn: &mut PgConnection,
    keys: &[AccountKey],
    featured: &[bool],
) -> Result<Vec<AccountRow>, sqlx::Error> {
    let (organizations, metrics) = columns(keys);
    sqlx::query_as!(
        AccountRow,
        r#"SELECT k.n AS "n!", statement_timestamp() AS "now!",
                  q.admitted_quota AS quota, q.admitted_over_limit AS over_limit,
                  q.over_limit_override IS NOT NULL AS "overridden!", q.overage_rate,
                  q.plan_tier AS "quota_tier?", q.currency AS "currency?", q.plan_interval AS "plan_interval?",
                  q.grace_max AS "grace_max?", s.current_period_start AS "current_start?",
                  s.current_period_end AS "current_end?", s.usage_period_start AS "usage_start?",
                  s.usage_period_end AS "usage_end?", s.billing_cycle_anchor AS "anchor?",
                  s.stripe_created_at AS "created?", s.ends AS "ends?",
                  s.on_trial AS "on_trial?",
                  -- Only trials ask whether there is a way to charge.
                  CASE WHEN s.on_trial THEN s.pays OR EXISTS (
                    SELECT FROM billing_payment_methods m
                     WHERE m.organization_id = k.organization_id AND m.status = 'attached')
                  END AS "chargeable?",
                  p.current_period_start AS "past_start?", p.ended_at AS "past_end?",
                  p.anchor AS "past_anchor?",
                  t.period_start AS "period_start?", t.period_end AS "period_end?",
                  t.total AS "total?", t.reserved AS "reserved?", t.events AS "events?",
                  t.last_at AS "last_at?", t.last_event_id AS "last_event_id?",
                  t.alerted AS "alerted?", t.quota_adjustment AS "quota_adjustment?",
                  g.started_at AS "grace_start?", g.expires_at AS "grace_expires?",
                  g.ended_at IS NOT NULL AS "grace_ended!",
                  coalesce(g.ended_at = g.started_at, false) AS "grace_void!", g.quota AS "grace_quota?",
                  t.closed_at IS NOT NULL AS "closed!",
                  d.occurred_at AS "due_at?", d.event_id AS "due_id?",
                  d.quantity AS "due_quantity?", d.highest AS "due_highest?",
                  f.features AS "features?"
             FROM unnest($1::uuid[], $2::text[], $3::boolean[])
                  WITH ORDINALITY AS k(organization_id, metric, featured, n)
             LEFT JOIN effective_usage_quotas q
               ON q.organization_id = k.organization_id AND q.metric = k.metric
             LEFT JOIN LATERAL (
               SELECT s.current_period_start, s.current_period_end, s.usage_period_start,
                      s.usage_period_end, s.billing_cycle_anchor, s.stripe_created_at,
                      CASE WHEN s.cancel_at_period_end THEN s.current_period_end
                           ELSE s.cancel_at END AS ends,
                      s.status = 'trialing' AS on_trial,
                      s.default_payment_method_id IS NOT NULL
                        OR s.collection_method IS NOT DISTINCT FROM 'send_invoice' AS pays
                 FROM billing_subscriptions s
                WHERE s.organization_id = k.organization_id
                  AND s.status IN ('active', 'trialing', 'past_due')
                  AND s.access_ended_at IS NULL
                ORDER BY s.plan_tier IS NOT DISTINCT FROM q.plan_tier DESC,
                         s.stripe_created_at DESC NULLS LAST, s.stripe_subscription_id DESC
                LIMIT 1) s ON true
             LEFT JOIN LATERAL (
               -- The subscription that ended last. Not one that was never active, nor one
               -- beside another that has not ended. If it ended as a period began, its last
               -- period is the one before.
               SELECT CASE WHEN p.ended_at > coalesce(p.usage_period_start, p.current_period_start)
                           THEN coalesce(p.usage_period_start, p.current_period_start)
                           ELSE coalesce(
                             (SELECT max(c.period_start) FROM usage_totals c
                               WHERE c.organization_id = k.organization_id
                                 AND c.metric = k.metric AND c.period_end = p.ended_at),
                             greatest(p.stripe_created_at, p.ended_at - interval '1 month'))
                      END AS current_period_start,
                      -- Where usage counts by the month.
                      CASE WHEN p.usage_period_start IS NOT NULL THEN p.billing_cycle_anchor END
                        AS anchor,
                      p.ended_at
                 FROM billing_subscriptions p
                WHERE p.organization_id = k.organization_id AND p.status = 'canceled'
                  AND p.ended_at > coalesce(p.stripe_created_at, p.current_period_start)
                  AND NOT EXISTS (SELECT FROM billing_subscriptions o
                                   WHERE o.organization_id = k.organization_id
                                     AND (o.status IN ('unpaid', 'paused')
                                          OR o.access_ended_at IS NOT NULL
                                          OR (o.status IN ('active', 'trialing', 'past_due')
                                              AND o.stripe_created_at < p.ended_at)))
                ORDER BY p.ended_at DESC LIMIT 1) p ON true
             LEFT JOIN LATERAL (
               SELECT t.* FROM usage_totals t
                WHERE t.organization_id = k.organization_id AND t.metric = k.metric
                  AND (t.period_end > statement_timestamp() - interval '2 hours'
                       OR t.period_start = coalesce(s.usage_period_start,
                                                    s.current_period_start))
               OFFSET 0) t ON true
             LEFT JOIN LATERAL (
               SELECT g.started_at, g.expires_at, g.ended_at, g.quota
                 FROM grace_periods g
                WHERE g.organization_id = t.organization_id AND g.metric = t.metric
                  AND g.period_start = t.period_start
               OFFSET 0) g ON true
             LEFT JOIN LATERAL (
               SELECT p.occurred_at, p.event_id, p.quantity, max(p.quantity) OVER () AS highest
                 FROM usage_pending_levels p
                WHERE p.organization_id = t.organization_id AND p.metric = t.metric
                  AND p.period_start = t.period_start AND p.occurred_at <= statement_timestamp()
                ORDER BY p.occurred_at DESC, p.event_id DESC LIMIT 1) d ON true
             LEFT JOIN LATERAL (
               SELECT jsonb_agg(jsonb_build_array(h.feature, h.overridden, h.value)) AS features
                 FROM (SELECT e.feature, false AS overridden, e.value FROM organization_features e
                        WHERE e.organization_id = k.organization_id
                       UNION ALL
                       SELECT o.feature, true, o.value FROM feature_overrides o
                        WHERE o.organization_id = k.organization_id
                          AND (o.expires_at IS NULL OR o.expires_at > statement_timestamp())) h
                WHERE k.featured) f ON k.featured"#,
        &organizations,
        &metrics as &[&str],
        featured
    )
    .fetch_all(conn)
    .await
}

impl AccountRow {
    /// Reads the quota and the subscriptions, which every row of an account has.
    fn read_terms(&self, account: &mut Account, catalogue: &Catalogue, metric: &str) {
        let over_limit = self.over_limit.as_deref().and_then(OverLimit::named);
        let over_limit = over_limit.map(|over_limit| self.in_trial(over_limit, catalogue));
        account.policy = over_limit.map(|over_limit| QuotaPolicy {
            quota: self.quota,
            over_limit,
            grace_max: (over_limit == OverLimit::Grace)
                .then(|| self.grace_max(catalogue, metric))
                .flatten(),
        });
        let billed = account.policy.is_some_and(|policy| {
            policy.over_limit == OverLimit::Overage && policy.quota.is_some()
        });
        // Stripe does not charge the usage of a trial.
        let billed = billed && self.on_trial != Some(true);
        account.overage_rate = self.overage_rate.filter(|_| billed);
        account.currency = self.currency(catalogue);
        let subscription = self.subscription(catalogue).transpose();
        // An invalid period fails this account only, not the whole group.
        account.unreadable = subscription.is_err();
        account.subscription = subscription.unwrap_or_default();
        account.ended = self.past_start.zip(self.past_end).map(|(start, end)| {
            let (start_secs, end_secs) = (start.to_jiff().as_second(), end.to_jiff().as_second());
            let anchor = self.past_anchor.map(|anchor| anchor.to_jiff().as_second());
            let last = |anchor| allowance::last_month(anchor, start_secs, end_secs).ok();
            EndedSubscription {
                start_secs: anchor.and_then(last).unwrap_or(start_secs),
                end_secs,
            }
        });
    }

    /// The subscription that the organization has now, with the period in which usage
    /// counts.
    fn subscription(
        &self,
        catalogue: &Catalogue,
    ) -> Option<Result<CurrentSubscription, PeriodError>> {
        let secs = |at: Option<jiff_sqlx::Timestamp>| at.map(|at| at.to_jiff().as_second());
        let period = |start: jiff_sqlx::Timestamp, end: jiff_sqlx::Timestamp| {
            Period::new(start.to_jiff(), end.to_jiff())
        };
        let (start, end) = self.current_start.zip(self.current_end)?;
        let paid = period(start, end).map(|period| CurrentSubscription {
            period,
            anchor_secs: secs(self.anchor).unwrap_or(period.start_secs()),
            cadence: self.cadence(catalogue),
            created_secs: secs(self.created).unwrap_or(period.start_secs()),
            ends_secs: secs(self.ends),
        });
        Some(match self.usage_start.zip(self.usage_end) {
            None => paid,
            Some((start, end)) => period(start, end).and_then(|month| paid?.by_month(month)),
        })
    }

    /// What happens over the quota while a trial has no way to charge: overage would
    /// never be paid. What an operator set holds.
    fn in_trial(&self, over_limit: OverLimit, catalogue: &Catalogue) -> OverLimit {
        let unpaid = self.on_trial == Some(true) && self.chargeable != Some(true);
        if over_limit != OverLimit::Overage || self.overridden || !unpaid {
            return over_limit;
        }
        let tier = self.quota_tier.as_deref().unwrap_or_default();
        catalogue.trial_over_limit(tier)
    }

    /// The plan as it is sold now, for a quota that does not have its terms yet: they
    /// are added soon after an upgrade of this service.
    fn plan<'c>(&self, catalogue: &'c Catalogue) -> Option<&'c Plan> {
        let tier = self
            .quota_tier
            .as_deref()
            .filter(|_| self.currency.is_none())?;
        catalogue.plan(tier)
    }

    fn currency(&self, catalogue: &Catalogue) -> Option<String> {
        let sold = || Some(self.plan(catalogue)?.price.currency.clone());
        self.currency.clone().or_else(sold)
    }

    /// The cadence at which the plan is charged.
    fn cadence(&self, catalogue: &Catalogue) -> Cadence {
        match (self.plan_interval.as_deref(), self.plan(catalogue)) {
            (Some("year"), _) => Cadence::YEARLY,
            (None, Some(plan)) => plan.price.interval.cadence(),
            _ => Cadence::MONTHLY,
        }
    }

    /// The most that may be used during grace, given the quota in force: as the plan
    /// says, or else the metric.
    fn grace_max(&self, catalogue: &Catalogue, metric: &str) -> Option<Decimal> {
        let of_plan = match self.plan(catalogue) {
            Some(plan) => plan.quotas.get(metric).and_then(|quota| quota.grace_max),
            None => self.grace_max.as_deref().and_then(stored_ceiling),
        };
        let ceiling = of_plan.or_else(|| catalogue.metric(metric)?.grace_max)?;
        self.quota.map(|quota| ceiling.over(quota))
    }

    /// Reads the row's period, if it has one.
    fn read_period(self, account: &mut Account) -> Result<(), sqlx::Error> {
        let (Some(start), Some(end)) = (self.period_start, self.period_end) else {
            return Ok(());
        };
        // A skipped period would be counted from zero and overwritten.
        let period = Period::new(start.to_jiff(), end.to_jiff())
            .map_err(|_| unreadable("a total's period is invalid"))?;
        let grace = self.grace_start.zip(self.grace_expires);
        let last = self.last_at.zip(self.last_event_id);
        let missing = || unreadable("a total is missing");
        let usage = PeriodUsage {
            total: self.total.ok_or_else(missing)?,
            reserved: self.reserved.ok_or_else(missing)?,
            events: self.events.ok_or_else(missing)?,
            last: last.map(|(at, id)| (at.to_jiff(), id)),
            alerted: self
                .alerted
                .and_then(|percent| percent.try_into().ok())
                .ok_or_else(|| unreadable("a total's alert threshold is invalid"))?,
            quota_adjustment: self.quota_adjustment.ok_or_else(missing)?,
            grace: grace.map(|(started_at, expires_at)| Grace {
                period: GracePeriod {
                    started_at: started_at.to_jiff(),
                    expires_at: expires_at.to_jiff(),
                },
                ended: self.grace_ended,
                void: self.grace_void,
                quota: self.grace_quota.unwrap_or_default(),
                change: None,
            }),
            stored: true,
            closed: self.closed,
            ..PeriodUsage::new(period)
        };
        account.periods.insert(period.start_secs(), usage);
        let due = (self.due_at.zip(self.due_id)).zip(self.due_quantity.zip(self.due_highest));
        if let Some(((at, event_id), (quantity, highest))) = due {
            let newest = Level {
                at: at.to_jiff(),
                event_id,
                quantity,
            };
            account.apply_due(period.start_secs(), DueLevels { newest, highest });
        }
        Ok(())
    }
}
