//! Decides about holds: what is held, and how each is settled once.

use std::collections::HashMap;

use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Group, Mode};
use crate::limits;
use crate::metering::ledger::holds::{Hold, HoldCommand, HoldOutcome, NewHold, Settled, Settling};
use crate::metering::ledger::queue::QueuedRequest;
use crate::metering::ledger::requests::{held_accounts, hold_ids, named_events, taken_back};
use crate::metering::ledger::store::{self, Holds};
use crate::metering::ledger::{NewEvent, QuotaDecision, Reply, UsageRejection};

/// The holds that a group is about, as they are under the lock of their accounts.
#[derive(Default)]
pub(super) struct HeldNow<'a> {
    /// Those that were read, and those that this group made or settled.
    known: Holds,
    /// Whether all of them were read that there are.
    is_read: bool,
    /// How many are open in each account in which something is to be held.
    open: HashMap<(Uuid, &'a str), u32>,
}

impl<'a> HeldNow<'a> {
    fn is_full(&self, account: (Uuid, &'a str)) -> bool {
        let open = self.open.get(&account).copied().unwrap_or_default();
        open >= limits::HOLDS
    }

    fn made(&mut self, organization_id: Uuid, metric: &'a str, hold: Hold) {
        *self.open.entry((organization_id, metric)).or_default() += 1;
        self.known.insert((organization_id, hold.id), hold);
    }

    fn settled(&mut self, organization_id: Uuid, metric: &'a str, hold: Hold) {
        if let Some(open) = self.open.get_mut(&(organization_id, metric)) {
            *open = open.saturating_sub(1);
        }
        self.known.insert((organization_id, hold.id), hold);
    }
}

impl<'a> Group<'a> {
    pub(super) fn hold(&mut self, organization_id: Uuid, id: Uuid, new: &'a NewHold) -> Reply {
        let now = self.account(organization_id, &new.metric).now;
        if let Some(stored) = self.holds.known.get(&(organization_id, id)) {
            let ttl = jiff::SignedDuration::from_secs(i64::from(new.ttl_secs));
            let same = stored.metric == new.metric
                && stored.quantity == new.quantity
                && stored.expires_at.duration_since(stored.reserved_at) == ttl
                && stored.settled.is_none()
                && stored.expires_at > now;
            if !same {
                return Reply::Rejected(UsageRejection::HoldIdReused);
            }
            let stored = Some(stored.clone());
            let again = self.account(organization_id, &new.metric).again();
            return again.map_or_else(Reply::Rejected, |decided| Reply::Held(decided, stored));
        }
        if self.holds.is_full((organization_id, &new.metric)) {
            // The very same may be one of them.
            self.denied_an_id = true;
            return Reply::Rejected(UsageRejection::TooManyHolds);
        }
        let decided = match self
            .account(organization_id, &new.metric)
            .reserve(new.quantity)
        {
            Ok(decided) => decided,
            Err(rejection) => {
                self.denied_an_id = true;
                return Reply::Rejected(rejection);
            }
        };
        if !decided.decision.allowed() {
            // The very same may be held already, by a request whose answer was lost.
            self.denied_an_id = true;
            return Reply::Held(decided, None);
        }
        let ttl = jiff::SignedDuration::from_secs(i64::from(new.ttl_secs));
        let hold = Hold {
            id,
            name: new.name.clone(),
            metric: new.metric.clone(),
            quantity: new.quantity,
            period_start: decided.period.start_secs(),
            reserved_at: now,
            expires_at: now.saturating_add(ttl).unwrap_or(now),
            settled: None,
        };
        self.writes.hold(organization_id, &hold);
        self.holds.made(organization_id, &new.metric, hold.clone());
        Reply::Held(decided, Some(hold))
    }

    /// Reads what is stored of the ids in `requests`, where they are looked up, and the uses
    /// that are to be taken back.
    pub(super) async fn look_up(
        &mut self,
        conn: &mut PgConnection,
        requests: &'a [QueuedRequest],
        mode: &Mode,
    ) -> Result<(), sqlx::Error> {
        if mode.look_up {
            let named = named_events(requests, self.settled);
            self.known = store::known(conn, &named).await?;
            let (organizations, ids) = hold_ids(requests);
            if !ids.is_empty() {
                self.holds.known = store::holds(conn, &organizations, &ids).await?;
            }
            self.holds.is_read = true;
        }
        let accounts = Vec::from_iter(held_accounts(requests));
        if !accounts.is_empty() {
            self.holds.open = store::open(conn, &accounts, limits::HOLDS).await?;
        }
        let (organizations, ids) = taken_back(requests);
        if !ids.is_empty() {
            self.takeable = store::takeable(conn, &organizations, &ids).await?;
        }
        Ok(())
    }

    pub(super) fn settle_hold(&mut self, organization_id: Uuid, settling: &'a Settling) -> Reply {
        let key = (organization_id, settling.hold.id);
        // As it was read under the lock or settled in this group, if it was.
        let mut hold = match self.holds.known.get(&key) {
            Some(hold) => hold.clone(),
            // Somebody removed it since: no attempt would find it to settle it.
            None if self.holds.is_read => return Reply::Rejected(UsageRejection::HoldGone),
            None => settling.hold.clone(),
        };
        if hold.settled.is_some() {
            return Reply::HoldSettled(Box::new(hold), None);
        }
        let now = self.account(organization_id, &settling.hold.metric).now;
        let (settled, decided) = match &settling.command {
            _ if hold.expires_at <= now => (Settled::nothing(HoldOutcome::Expired), None),
            HoldCommand::Expire => return Reply::HoldSettled(Box::new(hold), None),
            HoldCommand::Release => (Settled::nothing(HoldOutcome::Released), None),
            HoldCommand::Confirm { used, covered } => {
                match self.confirm(organization_id, &hold, used, covered) {
                    Ok(confirmed) => confirmed,
                    Err(rejection) => {
                        // It may be settled already.
                        self.denied_an_id = true;
                        return Reply::Rejected(rejection);
                    }
                }
            }
        };
        let account = self.account(organization_id, &settling.hold.metric);
        account.release(hold.period_start, hold.quantity);
        self.writes
            .settled_hold(organization_id, &hold, &settled, now);
        hold.settled = Some(settled);
        self.holds
            .settled(organization_id, &settling.hold.metric, hold.clone());
        Reply::HoldSettled(Box::new(hold), decided)
    }

    /// Counts what was used, or what was held if more is not allowed.
    fn confirm(
        &mut self,
        organization_id: Uuid,
        hold: &Hold,
        used: &'a NewEvent,
        covered: &'a NewEvent,
    ) -> Result<(Settled, Option<QuotaDecision>), UsageRejection> {
        if self.before(organization_id, used).is_some() {
            return Err(self.reused(organization_id, used));
        }
        let account = self.account(organization_id, &used.metric);
        let now = account.now;
        let confirmed = account.confirm(hold, used.quantity)?;
        let event = if confirmed.counted == used.quantity {
            used
        } else {
            covered
        };
        let start = confirmed.period.start_secs();
        self.writes.event(organization_id, event, now, start);
        self.keep(organization_id, event);
        let refusal = confirmed.decided.decision.refusal();
        let settled = Settled {
            outcome: HoldOutcome::Confirmed,
            used: used.quantity,
            counted: confirmed.counted,
            refusal: refusal
                .filter(|_| confirmed.counted < used.quantity)
                .map(str::to_owned),
        };
        Ok((settled, Some(confirmed.decided)))
    }
}

/// What is counted of a hold.
pub struct Confirmed {
    pub counted: Decimal,
    pub period: billing_domain::period::Period,
    pub decided: QuotaDecision,
}
