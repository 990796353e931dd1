//! One organization's account of one metric: the state read from the database,
//! and the pure decisions about queued requests. No database and no clock here.

mod period_usage;

use std::collections::BTreeMap;

use billing_domain::period::Period;
use billing_domain::quota::{self, Aggregation, Decision, QuotaPolicy};
use billing_domain::usage_period::{self, CurrentSubscription, EndedSubscription};
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::UsageRejection;
use super::holds::Hold;
use super::transaction::Confirmed;
use crate::features::Values;
use period_usage::grace_of;
pub use period_usage::{DueLevels, Grace, GraceChange, Level, PeriodUsage};

/// The largest total that fits into numeric(24,4).
const MAX_TOTAL: Decimal = Decimal::from_parts(2_701_131_775, 466_537_709, 54_210, false, 4);

/// An organization's account of a metric.
#[derive(Debug, Clone)]
pub struct Account {
    pub aggregation: Aggregation,
    pub grace_hours: u32,
    /// `None` without a quota, which does not mean unlimited.
    pub policy: Option<QuotaPolicy>,
    /// The price of one unit over the quota, in the currency's major unit.
    pub overage_rate: Option<Decimal>,
    /// ISO 4217, in lower case; `None` without a plan that is known.
    pub currency: Option<String>,
    pub subscription: Option<CurrentSubscription>,
    /// The previous subscription.
    pub ended: Option<EndedSubscription>,
    /// Whether the subscription's period is invalid.
    pub unreadable: bool,
    /// The database's clock, after the account was locked.
    pub now: Timestamp,
    /// By the start of the period.
    pub periods: BTreeMap<i64, PeriodUsage>,
    /// The organization's features, if a request needs one.
    pub features: Values,
    /// The period that was open at a time: every event of a batch asks.
    open: Option<(Timestamp, Period)>,
}

/// A decision, with the usage it was based on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuotaDecision {
    pub decision: Decision,
    pub usage: Decimal,
    pub limit: Option<Decimal>,
    /// The most that may be used during grace, if the catalogue limits it.
    pub grace_max: Option<Decimal>,
    pub period: Period,
    /// Whether the usage was counted before, and is not counted again.
    pub duplicate: bool,
}

impl Account {
    /// An account before its rows are read.
    pub fn blank(aggregation: Aggregation, grace_hours: u32, now: Timestamp) -> Self {
        Self {
            aggregation,
            grace_hours,
            policy: None,
            overage_rate: None,
            currency: None,
            subscription: None,
            ended: None,
            unreadable: false,
            now,
            periods: BTreeMap::new(),
            features: Values::default(),
            open: None,
        }
    }

    fn policy(&self) -> Result<QuotaPolicy, UsageRejection> {
        self.policy.ok_or(UsageRejection::NoQuota)
    }

    fn usage_in(&mut self, period: Period) -> &mut PeriodUsage {
        let usage = self
            .periods
            .entry(period.start_secs())
            .or_insert_with(|| PeriodUsage::new(period));
        // Its end may have moved, for example by a longer trial.
        usage.period = period;
        usage
    }

    /// The period in which usage is counted. Late usage is counted where other
    /// usage of its time was counted.
    fn period_of(&mut self, occurred: Timestamp) -> Result<Period, UsageRejection> {
        if self.unreadable {
            return Err(UsageRejection::NoPeriod);
        }
        let open = self.open()?;
        let (subscription, ended) = (self.subscription.as_ref(), self.ended);
        let period = usage_period::beside(open, subscription, ended, occurred, self.now)?;
        if period.start_secs() >= open.start_secs() {
            return Ok(period);
        }
        let second = occurred.as_second();
        let counted = || self.periods.values().map(|usage| usage.period);
        let found = counted()
            .filter(|other| other.start_secs() < open.start_secs() && other.contains(second))
            .max_by_key(Period::start_secs);
        // The period before the open one may have been restarted recently.
        let before = counted().find(|other| other.end_secs() == open.start_secs());
        match (found, before) {
            (Some(found), _) => Ok(found),
            (None, Some(before)) if second < before.start_secs() => Err(UsageRejection::Closed),
            (None, _) => Ok(period),
        }
    }

    /// Counts usage that has happened, which no limit can prevent.
    pub fn count(
        &mut self,
        id: &str,
        quantity: Decimal,
        occurred: Timestamp,
    ) -> Result<Period, UsageRejection> {
        let policy = self.policy()?;
        let period = self.period_of(occurred)?;
        self.add(period, id, quantity, occurred)?;
        let (grace_hours, now) = (self.grace_hours, self.now);
        self.usage_in(period).start_grace(policy, grace_hours, now);
        Ok(period)
    }

    /// Applies a period's scheduled levels whose time has come.
    pub fn apply_due(&mut self, period_start: i64, due: DueLevels) {
        let Some(usage) = self.periods.get_mut(&period_start) else {
            return;
        };
        let newest = (due.newest.at, due.newest.event_id);
        if usage.last.as_ref().is_none_or(|last| *last < newest) {
            usage.last = Some(newest);
            if self.aggregation == Aggregation::Last {
                usage.total = due.newest.quantity;
            }
        }
        if self.aggregation == Aggregation::Max {
            usage.total = usage.total.max(due.highest);
        }
        (usage.took_due, usage.changed) = (true, true);
        if let Some(policy) = self.policy {
            usage.raise_alerts(usage.policy(policy).quota);
            usage.start_grace(policy, self.grace_hours, self.now);
        }
    }

    /// Counts usage in a reservation's period, even if that is over by now.
    pub fn count_in(
        &mut self,
        period_start: i64,
        id: &str,
        quantity: Decimal,
        occurred: Timestamp,
    ) -> Result<Period, UsageRejection> {
        match self.periods.get(&period_start).map(|usage| usage.period) {
            Some(period) => {
                self.add(period, id, quantity, occurred)?;
                let (policy, grace_hours, now) = (self.policy()?, self.grace_hours, self.now);
                self.usage_in(period).start_grace(policy, grace_hours, now);
                Ok(period)
            }
            None => self.count(id, quantity, occurred),
        }
    }

    fn add(
        &mut self,
        period: Period,
        id: &str,
        quantity: Decimal,
        occurred: Timestamp,
    ) -> Result<(), UsageRejection> {
        let (aggregation, now) = (self.aggregation, self.now);
        let policy = self.policy()?;
        let usage = self.usage_in(period);
        let quota = usage.policy(policy).quota;
        if aggregation != Aggregation::Sum && occurred > now {
            // The current level holds until then.
            usage.pending.push(Level {
                at: occurred,
                event_id: id.to_owned(),
                quantity,
            });
            usage.events += 1;
            usage.changed = true;
            return Ok(());
        }
        // What has no time of its own is said after all that was said before.
        let is_now = occurred == now;
        let last = usage.last.as_ref().map(|(at, id)| (*at, id.as_str()));
        let is_newest = is_now || last.is_none_or(|last| last < (occurred, id));
        let total = match aggregation {
            Aggregation::Last if !is_newest => Some(usage.total),
            other => other.with(usage.total, quantity),
        };
        usage.total = total
            .filter(|total| *total <= MAX_TOTAL)
            .ok_or(UsageRejection::TotalTooLarge)?;
        usage.events += 1;
        if is_newest {
            let last = usage.last.get_or_insert_default();
            last.0 = occurred.max(if is_now { last.0 } else { occurred });
            id.clone_into(&mut last.1);
        }
        usage.changed = true;
        usage.raise_alerts(quota);
        if is_now && aggregation == Aggregation::Last {
            // Events keep their order by their times.
            let moment = SignedDuration::from_micros(1);
            self.now = now.checked_add(moment).unwrap_or(now);
        }
        Ok(())
    }

    /// Decides about usage now, and counts it with `consume` if it is allowed.
    pub fn check(
        &mut self,
        id: &str,
        quantity: Decimal,
        consume: bool,
    ) -> Result<QuotaDecision, UsageRejection> {
        let policy = self.policy()?;
        let (grace_hours, now, aggregation) = (self.grace_hours, self.now, self.aggregation);
        let period = self.open()?;
        let usage = self.usage_in(period);
        let policy = usage.policy(policy);
        let used = usage.used();
        let wanted = aggregation
            .with(usage.total, quantity)
            .and_then(|total| total.checked_add(usage.reserved))
            .filter(|wanted| *wanted <= MAX_TOTAL)
            .ok_or(UsageRejection::TotalTooLarge)?;
        let decision = quota::decide(&policy, used, wanted, grace_of(usage), grace_hours, now);
        if consume && decision.allowed() {
            self.add(period, id, quantity, now)?;
        }
        // Without consumption no grace period starts, but an expired one ends.
        if consume || matches!(decision, Decision::GraceExpired { .. }) {
            self.usage_in(period).apply_grace(decision, policy.quota);
        }
        Ok(self.decided(period, decision, policy))
    }

    /// Decides about usage now, and reserves it if it is allowed.
    pub fn reserve(&mut self, quantity: Decimal) -> Result<QuotaDecision, UsageRejection> {
        let policy = self.policy()?;
        let (grace_hours, now) = (self.grace_hours, self.now);
        let period = self.open()?;
        let usage = self.usage_in(period);
        let policy = usage.policy(policy);
        let used = usage.used();
        let wanted = used
            .checked_add(quantity)
            .filter(|wanted| *wanted <= MAX_TOTAL)
            .ok_or(UsageRejection::TotalTooLarge)?;
        let decision = quota::decide(&policy, used, wanted, grace_of(usage), grace_hours, now);
        usage.apply_grace(decision, policy.quota);
        if decision.allowed() {
            usage.reserved += quantity;
            usage.changed = true;
        }
        Ok(self.decided(period, decision, policy))
    }

    /// Decides how much of `used` is counted when a hold is confirmed: what the hold covers
    /// always, the rest as a check would decide. The caller releases the hold itself.
    pub fn confirm(&mut self, hold: &Hold, used: Decimal) -> Result<Confirmed, UsageRejection> {
        let policy = self.policy()?;
        let (grace_hours, now) = (self.grace_hours, self.now);
        let held_in = self.periods.get(&hold.period_start);
        let period = match held_in.filter(|usage| !usage.is_invoiced(now)) {
            Some(usage) => usage.period,
            // What an invoiced period counts is billed to nobody.
            None => self.open()?,
        };
        let held_here = if period.start_secs() == hold.period_start {
            hold.quantity
        } else {
            Decimal::ZERO
        };
        let usage = self.usage_in(period);
        let policy = usage.policy(policy);
        // With the hold, wherever it is: it was admitted.
        let covered = usage.used() - held_here + hold.quantity;
        let wanted = (usage.used() - held_here)
            .checked_add(used)
            .filter(|wanted| *wanted <= MAX_TOTAL)
            .ok_or(UsageRejection::TotalTooLarge)?;
        let decision = if used <= hold.quantity {
            Decision::Within
        } else {
            quota::decide(&policy, covered, wanted, grace_of(usage), grace_hours, now)
        };
        let counted = if decision.allowed() {
            used
        } else {
            hold.quantity
        };
        self.add(period, &hold.name, counted, now)?;
        let whole = self.policy()?;
        self.usage_in(period).start_grace(whole, grace_hours, now);
        if period.end_secs() > now.as_second() && !decision.allowed() {
            self.usage_in(period).apply_grace(decision, policy.quota);
        }
        let mut decided = self.decided(period, decision, policy);
        decided.usage -= held_here;
        Ok(Confirmed {
            counted,
            period,
            decided,
        })
    }

    /// The total of a period, as text.
    pub fn total_in(&self, period_start: i64) -> Option<String> {
        let usage = self.periods.get(&period_start)?;
        Some(usage.total.normalize().to_string())
    }

    /// Takes a use out of its period, while that is open. A grace period that it caused,
    /// and that nothing else needs, ends.
    pub fn take_back(
        &mut self,
        period_start: i64,
        quantity: Decimal,
    ) -> Result<(), UsageRejection> {
        let policy = self.policy()?;
        let now = self.now;
        let usage = self.periods.get_mut(&period_start);
        let usage = usage.ok_or(UsageRejection::Invoiced)?;
        if usage.is_invoiced(now) || usage.total < quantity {
            return Err(UsageRejection::Invoiced);
        }
        usage.total -= quantity;
        usage.changed = true;
        let quota = usage.policy(policy).quota;
        usage.end_covered_grace(quota, now);
        Ok(())
    }

    /// Releases a reservation.
    pub fn release(&mut self, period_start: i64, quantity: Decimal) {
        if let Some(usage) = self.periods.get_mut(&period_start) {
            usage.reserved = (usage.reserved - quantity).max(Decimal::ZERO);
            usage.changed = true;
        }
    }

    /// The reply for usage that was counted before.
    pub fn again(&mut self) -> Result<QuotaDecision, UsageRejection> {
        let policy = self.policy()?;
        let (grace_hours, now) = (self.grace_hours, self.now);
        let period = self.open()?;
        let usage = self.usage_in(period);
        let policy = usage.policy(policy);
        let used = usage.used();
        let decision = quota::decide(
            &policy,
            Decimal::ZERO,
            used,
            grace_of(usage),
            grace_hours,
            now,
        );
        let decision = match decision {
            Decision::GraceExhausted { grace: Some(grace) } => Decision::InGrace {
                grace,
                starts: false,
            },
            Decision::InGrace { starts: true, .. }
            | Decision::Exceeded
            | Decision::GraceExpired { .. }
            | Decision::GraceExhausted { grace: None } => Decision::Within,
            other => other,
        };
        Ok(QuotaDecision {
            duplicate: true,
            ..self.decided(period, decision, policy)
        })
    }

    /// The current billing period.
    pub fn current(&self) -> Result<Period, UsageRejection> {
        self.period_at(self.now)
    }

    /// The same, computed once.
    fn open(&mut self) -> Result<Period, UsageRejection> {
        match self.open {
            Some((at, period)) if at == self.now => Ok(period),
            _ => {
                let period = self.current()?;
                self.open = Some((self.now, period));
                Ok(period)
            }
        }
    }

    /// The billing period at `at`, by the subscriptions as they are now.
    pub fn period_at(&self, at: Timestamp) -> Result<Period, UsageRejection> {
        if self.unreadable {
            return Err(UsageRejection::NoPeriod);
        }
        usage_period::current(self.subscription.as_ref(), self.ended, at)
            .map_err(|_| UsageRejection::NoPeriod)
    }

    fn decided(
        &mut self,
        period: Period,
        decision: Decision,
        policy: QuotaPolicy,
    ) -> QuotaDecision {
        QuotaDecision {
            decision,
            usage: self.usage_in(period).used(),
            limit: policy.quota,
            grace_max: policy.grace_max,
            period,
            duplicate: false,
        }
    }
}

#[cfg(test)]
mod tests;
