//! One organization's use of one metric: what was read of it, and the pure
//! decisions about what is queued.

use std::collections::BTreeMap;

use billing_domain::grace_period::GracePeriod;
use billing_domain::period::Period;
use billing_domain::quota::{self, Aggregation, Decision, Limit};
use billing_domain::usage_period::{self, NotCounted, Past, Subscribed};
use jiff::Timestamp;
use rust_decimal::Decimal;

/// What a total holds at most: numeric(24,4).
const MOST: Decimal = Decimal::from_parts(2_701_131_775, 466_537_709, 54_210, false, 4);

/// Why something was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it occurred more than five minutes in the future; check the sender's clock")]
    Ahead,
    #[error("it occurred in a billing period that is closed; it cannot be counted any more")]
    Closed,
    #[error("the total of the period would have more than 20 digits before the point")]
    TotalTooLarge,
    /// Absent is never unlimited.
    #[error("the organization has no quota for this metric; an operator must set one")]
    NoQuota,
    #[error("this id came before, with another content")]
    IdReused,
    #[error("the billing period cannot be told")]
    NoPeriod,
}

impl From<NotCounted> for Refusal {
    fn from(reason: NotCounted) -> Self {
        match reason {
            NotCounted::Closed => Self::Closed,
            NotCounted::Ahead => Self::Ahead,
            NotCounted::Period(_) => Self::NoPeriod,
        }
    }
}

/// The grace period of a tally, and what became of it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    pub period: GracePeriod,
    pub ended: bool,
    pub change: Option<GraceChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraceChange {
    Started,
    /// It had ended before its time, and the quota is exceeded again.
    Resumed,
    Expired,
}

/// A level that an event tells of.
#[derive(Debug, Clone)]
pub struct Level {
    pub at: Timestamp,
    pub event_id: String,
    pub quantity: Decimal,
}

/// Levels that were dated ahead, and whose time has come.
#[derive(Debug, Clone)]
pub struct Due {
    pub newest: Level,
    pub highest: Decimal,
}

/// What a billing period has of the metric.
#[derive(Debug, Clone)]
pub struct Tally {
    pub period: Period,
    pub total: Decimal,
    pub reserved: Decimal,
    pub events: i64,
    /// The newest event, by time and id.
    pub last: Option<(Timestamp, String)>,
    pub alerted: u8,
    /// Thresholds that were reached here.
    pub raised: Vec<u8>,
    pub grace: Option<Grace>,
    /// Levels that are dated ahead, and noted here.
    pub pending: Vec<Level>,
    /// Levels that were dated ahead were taken, since their time has come.
    pub took_due: bool,
    pub changed: bool,
    /// Whether the database has it.
    pub stored: bool,
}

impl Tally {
    pub fn new(period: Period) -> Self {
        Self {
            period,
            total: Decimal::ZERO,
            reserved: Decimal::ZERO,
            events: 0,
            last: None,
            alerted: 0,
            raised: Vec::new(),
            grace: None,
            pending: Vec::new(),
            took_due: false,
            changed: false,
            stored: false,
        }
    }

    /// With what is held for calls under way.
    pub fn used(&self) -> Decimal {
        self.total + self.reserved
    }
}

/// An organization's use of a metric.
#[derive(Debug, Clone)]
pub struct Account {
    pub aggregation: Aggregation,
    pub grace_hours: u32,
    /// None: there is no quota, which is not unlimited.
    pub limit: Option<Limit>,
    /// For one unit over the quota, in the currency's major unit.
    pub overage_rate: Option<Decimal>,
    pub subscribed: Option<Subscribed>,
    /// The subscription before it, or before now.
    pub past: Option<Past>,
    /// Its subscription has no period that is one.
    pub unreadable: bool,
    /// The database's clock, after the account was locked.
    pub now: Timestamp,
    /// By the start of the period.
    pub tallies: BTreeMap<i64, Tally>,
}

/// What an answer tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    pub decision: Decision,
    pub usage: Decimal,
    pub limit: Option<Decimal>,
    /// What grace lets be used at most, where the catalogue says so.
    pub grace_max: Option<Decimal>,
    pub period: Period,
    /// The use was counted before, and is not counted again.
    pub duplicate: bool,
}

impl Account {
    fn limit(&self) -> Result<Limit, Refusal> {
        self.limit.ok_or(Refusal::NoQuota)
    }

    fn tally(&mut self, period: Period) -> &mut Tally {
        let tally = self
            .tallies
            .entry(period.start_secs())
            .or_insert_with(|| Tally::new(period));
        // It may end at another time than was planned: a longer trial, say.
        tally.period = period;
        tally
    }

    /// The period that a use counts in. What comes late counts where others of
    /// its time were counted.
    fn period_of(&self, occurred: Timestamp) -> Result<Period, Refusal> {
        if self.unreadable {
            return Err(Refusal::NoPeriod);
        }
        let period = usage_period::of(self.subscribed.as_ref(), self.past, occurred, self.now)?;
        let open = self.current()?;
        if period.start_secs() >= open.start_secs() {
            return Ok(period);
        }
        let second = occurred.as_second();
        let counted = || self.tallies.values().map(|tally| tally.period);
        let found = counted()
            .filter(|other| other.start_secs() < open.start_secs() && other.contains(second))
            .max_by_key(Period::start_secs);
        // A period that began anew lately ended before the one that is open now.
        let before = counted().find(|other| other.end_secs() == open.start_secs());
        match (found, before) {
            (Some(found), _) => Ok(found),
            (None, Some(before)) if second < before.start_secs() => Err(Refusal::Closed),
            (None, _) => Ok(period),
        }
    }

    /// Counts a use that has happened: it is over no limit.
    pub fn count(
        &mut self,
        id: &str,
        quantity: Decimal,
        occurred: Timestamp,
    ) -> Result<Period, Refusal> {
        let limit = self.limit()?;
        let period = self.period_of(occurred)?;
        self.add(period, id, quantity, occurred)?;
        let (grace_hours, now) = (self.grace_hours, self.now);
        self.tally(period).cross(limit, grace_hours, now);
        Ok(period)
    }

    /// Takes the levels of a period that were dated ahead, now that their time
    /// has come.
    pub fn take(&mut self, period_start: i64, due: Due) {
        let Some(tally) = self.tallies.get_mut(&period_start) else {
            return;
        };
        let place = (due.newest.at, due.newest.event_id);
        if tally.last.as_ref().is_none_or(|last| *last < place) {
            tally.last = Some(place);
            if self.aggregation == Aggregation::Last {
                tally.total = due.newest.quantity;
            }
        }
        if self.aggregation == Aggregation::Max {
            tally.total = tally.total.max(due.highest);
        }
        (tally.took_due, tally.changed) = (true, true);
        if let Some(limit) = self.limit {
            tally.watch(limit.quota);
            tally.cross(limit, self.grace_hours, self.now);
        }
    }

    /// Counts a use of a reservation's period, whatever that is by now.
    pub fn count_in(
        &mut self,
        period_start: i64,
        id: &str,
        quantity: Decimal,
        occurred: Timestamp,
    ) -> Result<Period, Refusal> {
        match self.tallies.get(&period_start).map(|tally| tally.period) {
            Some(period) => self.add(period, id, quantity, occurred).map(|()| period),
            None => self.count(id, quantity, occurred),
        }
    }

    fn add(
        &mut self,
        period: Period,
        id: &str,
        quantity: Decimal,
        occurred: Timestamp,
    ) -> Result<(), Refusal> {
        let (aggregation, now) = (self.aggregation, self.now);
        let quota = self.limit()?.quota;
        let tally = self.tally(period);
        if aggregation != Aggregation::Sum && occurred > now {
            // Until then the level is what it is.
            tally.pending.push(Level {
                at: occurred,
                event_id: id.to_owned(),
                quantity,
            });
            tally.events += 1;
            tally.changed = true;
            return Ok(());
        }
        let place = (occurred, id.to_owned());
        let newest = tally.last.as_ref().is_none_or(|last| *last < place);
        let total = match aggregation {
            Aggregation::Last if !newest => Some(tally.total),
            other => other.with(tally.total, quantity),
        };
        tally.total = total
            .filter(|total| *total <= MOST)
            .ok_or(Refusal::TotalTooLarge)?;
        tally.events += 1;
        if newest {
            tally.last = Some(place);
        }
        tally.changed = true;
        tally.watch(quota);
        Ok(())
    }

    /// Decides about a use of now, and counts it if it is `consume`d.
    pub fn check(
        &mut self,
        id: &str,
        quantity: Decimal,
        consume: bool,
    ) -> Result<Standing, Refusal> {
        let limit = self.limit()?;
        let (grace_hours, now, aggregation) = (self.grace_hours, self.now, self.aggregation);
        let period = self.current()?;
        let tally = self.tally(period);
        let used = tally.used();
        let wanted = aggregation
            .with(tally.total, quantity)
            .and_then(|total| total.checked_add(tally.reserved))
            .filter(|wanted| *wanted <= MOST)
            .ok_or(Refusal::TotalTooLarge)?;
        let decision = quota::decide(&limit, used, wanted, running(tally), grace_hours, now);
        // A question starts no grace period, but tells of the one it would.
        if consume || matches!(decision, Decision::GraceExpired { .. }) {
            tally.follow(decision);
        }
        if consume && decision.allowed() {
            self.add(period, id, quantity, now)?;
        }
        Ok(self.standing(period, decision, limit))
    }

    /// Holds a use of now for a call.
    pub fn reserve(&mut self, quantity: Decimal) -> Result<Standing, Refusal> {
        let limit = self.limit()?;
        let (grace_hours, now) = (self.grace_hours, self.now);
        let period = self.current()?;
        let tally = self.tally(period);
        let used = tally.used();
        let wanted = used
            .checked_add(quantity)
            .filter(|wanted| *wanted <= MOST)
            .ok_or(Refusal::TotalTooLarge)?;
        let decision = quota::decide(&limit, used, wanted, running(tally), grace_hours, now);
        tally.follow(decision);
        if decision.allowed() {
            tally.reserved += quantity;
            tally.changed = true;
        }
        Ok(self.standing(period, decision, limit))
    }

    /// Lets a reservation go.
    pub fn release(&mut self, period_start: i64, quantity: Decimal) {
        if let Some(tally) = self.tallies.get_mut(&period_start) {
            tally.reserved = (tally.reserved - quantity).max(Decimal::ZERO);
            tally.changed = true;
        }
    }

    /// What an answer tells of a use that was counted before.
    pub fn again(&mut self) -> Result<Standing, Refusal> {
        let limit = self.limit()?;
        let (grace_hours, now) = (self.grace_hours, self.now);
        let period = self.current()?;
        let tally = self.tally(period);
        let used = tally.used();
        let decision = quota::decide(
            &limit,
            Decimal::ZERO,
            used,
            running(tally),
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
        Ok(Standing {
            duplicate: true,
            ..self.standing(period, decision, limit)
        })
    }

    /// The billing period that it is now.
    pub fn current(&self) -> Result<Period, Refusal> {
        self.period_at(self.now)
    }

    /// The billing period of an instant, as the subscriptions are now.
    pub fn period_at(&self, at: Timestamp) -> Result<Period, Refusal> {
        if self.unreadable {
            return Err(Refusal::NoPeriod);
        }
        usage_period::current(self.subscribed.as_ref(), self.past, at)
            .map_err(|_| Refusal::NoPeriod)
    }

    fn standing(&mut self, period: Period, decision: Decision, limit: Limit) -> Standing {
        Standing {
            decision,
            usage: self.tally(period).used(),
            limit: limit.quota,
            grace_max: limit.grace_max,
            period,
            duplicate: false,
        }
    }
}

/// The grace period that counts: one that ended before its time goes on when
/// the quota is exceeded again.
fn running(tally: &Tally) -> Option<GracePeriod> {
    tally.grace.map(|grace| grace.period)
}

impl Tally {
    /// What has happened is over no limit, but starts grace where it crosses the
    /// quota: not in a period that ended, and also where it would not have been
    /// allowed.
    fn cross(&mut self, limit: Limit, grace_hours: u32, now: Timestamp) {
        if self.period.end_secs() <= now.as_second() {
            return;
        }
        let limit = Limit {
            grace_max: None,
            ..limit
        };
        let (before, wanted) = (Decimal::ZERO, self.used());
        let decision = quota::decide(&limit, before, wanted, running(self), grace_hours, now);
        self.follow(decision);
    }

    /// Notes what a decision says of the grace period.
    fn follow(&mut self, decision: Decision) {
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

    /// Raises the alerts of thresholds that were not reached before.
    fn watch(&mut self, quota: Option<Decimal>) {
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

#[cfg(test)]
mod tests;
