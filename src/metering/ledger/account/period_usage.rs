//! Usage of a metric in one billing period, with its grace period and its alerts.

use billing_domain::grace_period::GracePeriod;
use billing_domain::period::Period;
use billing_domain::quota::{self, Decision, QuotaPolicy};
use billing_domain::usage_period;
use jiff::Timestamp;
use rust_decimal::Decimal;

/// A grace period, and how this transaction changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    pub period: GracePeriod,
    pub ended: bool,
    /// Only a mistake began it: it is not the billing period's one.
    pub void: bool,
    /// The quota that was exceeded.
    pub quota: Decimal,
    pub change: Option<GraceChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraceChange {
    Started,
    /// It had ended early, and the quota is exceeded again.
    Resumed,
    Expired,
    /// What exceeded the quota was taken back.
    TakenBack,
}

/// A level reported by an event.
#[derive(Debug, Clone)]
pub struct Level {
    pub at: Timestamp,
    pub event_id: String,
    pub quantity: Decimal,
}

/// Scheduled levels whose time has come.
#[derive(Debug, Clone)]
pub struct DueLevels {
    pub newest: Level,
    pub highest: Decimal,
}

/// Usage of the metric in one billing period.
#[derive(Debug, Clone)]
pub struct PeriodUsage {
    pub period: Period,
    pub total: Decimal,
    pub reserved: Decimal,
    pub events: i64,
    /// The newest event, by time and id.
    pub last: Option<(Timestamp, String)>,
    pub alerted: u8,
    /// What changes of plan within the period add to its quota.
    pub quota_adjustment: Decimal,
    /// Thresholds reached in this transaction.
    pub raised: Vec<u8>,
    pub grace: Option<Grace>,
    /// Levels scheduled in this transaction.
    pub pending: Vec<Level>,
    /// Whether scheduled levels took effect in this transaction.
    pub took_due: bool,
    pub changed: bool,
    /// Whether the database has a row for it.
    pub stored: bool,
    /// Whether its last usage was reported, and its invoice is made.
    pub closed: bool,
}

impl PeriodUsage {
    pub fn new(period: Period) -> Self {
        Self {
            period,
            total: Decimal::ZERO,
            reserved: Decimal::ZERO,
            events: 0,
            last: None,
            alerted: 0,
            quota_adjustment: Decimal::ZERO,
            raised: Vec::new(),
            grace: None,
            pending: Vec::new(),
            took_due: false,
            changed: false,
            stored: false,
            closed: false,
        }
    }

    /// The total including reservations.
    pub fn used(&self) -> Decimal {
        self.total + self.reserved
    }

    /// Whether what is counted or taken back now comes too late for the period's invoice.
    pub(super) fn is_invoiced(&self, now: Timestamp) -> bool {
        self.closed || now.as_second() >= self.period.end_secs() + usage_period::LATE.as_secs()
    }

    /// The policy of this period, if the account's is `policy`.
    pub fn policy(&self, policy: QuotaPolicy) -> QuotaPolicy {
        policy.adjusted(self.quota_adjustment)
    }

    /// Starts a grace period if recorded usage exceeds the quota, even where a
    /// check would not have allowed it; never in a period that has ended.
    pub(super) fn start_grace(&mut self, policy: QuotaPolicy, grace_hours: u32, now: Timestamp) {
        if self.period.end_secs() <= now.as_second() {
            return;
        }
        let policy = QuotaPolicy {
            grace_max: None,
            ..self.policy(policy)
        };
        // What is held may never be used.
        let (before, wanted) = (Decimal::ZERO, self.total);
        let decision = quota::decide(&policy, before, wanted, grace_of(self), grace_hours, now);
        self.apply_grace(decision, policy.quota);
    }

    /// Applies a decision to the grace period. One begins, or goes on, when what is counted
    /// exceeds the quota: what is held may never be used.
    pub(super) fn apply_grace(&mut self, decision: Decision, quota: Option<Decimal>) {
        let Some(quota) = quota else { return };
        if matches!(decision, Decision::InGrace { .. }) && self.total <= quota {
            return;
        }
        match (decision, &mut self.grace) {
            (
                Decision::InGrace {
                    grace,
                    starts: true,
                },
                none,
            ) => {
                *none = Some(Grace {
                    period: grace,
                    ended: false,
                    void: false,
                    quota,
                    change: Some(GraceChange::Started),
                });
            }
            (Decision::InGrace { .. }, Some(grace)) if grace.ended => {
                grace.ended = false;
                grace.change = Some(GraceChange::Resumed);
            }
            (Decision::GraceExpired { .. }, Some(grace)) if !grace.ended => {
                grace.ended = true;
                grace.change = Some(GraceChange::Expired);
            }
            _ => {}
        }
    }

    /// Ends a running grace period that the quota covers again, after a use was taken back.
    /// Sums do not fall otherwise: if the total is now within the quota that was exceeded, it
    /// would never have been, and the grace period is void.
    pub(super) fn end_covered_grace(&mut self, quota: Option<Decimal>, now: Timestamp) {
        let Some(grace) = self.grace.as_mut().filter(|grace| !grace.void) else {
            return;
        };
        let covered = quota.is_none_or(|quota| self.total <= quota);
        let void = self.total <= grace.quota;
        let ends = covered && !grace.ended && !grace.period.is_over(now);
        if ends || (covered && void) {
            grace.void = void;
            grace.ended = true;
            grace.change = Some(GraceChange::TakenBack);
        }
    }

    /// Raises alerts for thresholds that were not reached before.
    pub(super) fn raise_alerts(&mut self, quota: Option<Decimal>) {
        let reached = quota.and_then(|quota| quota::threshold_reached(self.total, quota));
        let Some(reached) = reached.filter(|reached| *reached > self.alerted) else {
            return;
        };
        let new = |threshold: &u8| *threshold > self.alerted && *threshold <= reached;
        let new = quota::ALERT_THRESHOLDS.into_iter().filter(new);
        self.raised.extend(new);
        self.alerted = reached;
    }
}

/// The grace period to decide by: none if it is void. One that ended early resumes when the quota is
/// exceeded again.
pub(super) fn grace_of(usage: &PeriodUsage) -> Option<GracePeriod> {
    let grace = usage.grace.filter(|grace| !grace.void);
    grace.map(|grace| grace.period)
}
