//! One group of requests: one transaction.

mod holds;
mod take_back;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use billing_domain::grace_period::EndReason;

use super::account::{Account, GraceChange, PeriodUsage, QuotaDecision};
use super::queue::QueuedRequest;
use super::requests::{Key, Settled, featured, keys, settled_events};
use super::store::{self, ReservationRow, Taken, Writes};
use super::{Item, NewEvent, Op, Question, Reply, Reservation, Rules, UsageRejection};
use crate::audit::{self, Actor, Appended, LockedChains, NewEntry};
use crate::telemetry::metrics;
pub use holds::Confirmed;
use holds::HeldNow;

/// What an attempt does beyond what most groups need.
#[derive(Debug, Clone, Default)]
pub struct Mode {
    /// Look for the events' ids before deciding.
    look_up: bool,
    /// Lock the audit chains of these first, which comes before every other
    /// lock.
    with_audit: BTreeSet<Uuid>,
    /// Wait for accounts that another session holds.
    waits: bool,
    /// The group may have been committed by an attempt whose answer was lost.
    may_be_committed: bool,
}

impl Mode {
    pub fn of(waits: bool) -> Self {
        Self {
            waits,
            ..Self::default()
        }
    }

    /// What was committed is found by its ids, those that only we know included.
    pub fn follows_a_lost_answer(&mut self) {
        self.look_up = true;
        self.may_be_committed = true;
    }
}

pub enum Attempt {
    Done(Vec<Reply>),
    /// Nothing was changed; these accounts are held by another session.
    Held(BTreeSet<Key>),
    /// Nothing was changed; the group needs more than was done.
    Again(Mode),
}

/// Counts `requests` in a transaction of its own, which it leaves open only when
/// it fails.
pub async fn attempt(
    conn: &mut PgConnection,
    rules: &Rules,
    requests: &[QueuedRequest],
    mode: &Mode,
) -> Result<Attempt, sqlx::Error> {
    conn.execute("BEGIN").await?;
    let keys = keys(requests);
    let chains = match lock(conn, &keys, mode).await? {
        Ok(chains) => chains,
        Err(held) => {
            conn.execute("ROLLBACK").await?;
            return Ok(Attempt::Held(held));
        }
    };
    let held = take_reservations(conn, requests, mode.may_be_committed).await?;
    let featured = featured(requests, &keys);
    let accounts =
        store::read_featured(conn, &keys, &featured, &rules.catalogue, rules.grace_hours).await?;
    let settled = settled_events(requests);
    let names = keys.iter().map(|(id, metric)| (*id, metric.as_str()));
    let mut group = Group {
        accounts: names.zip(accounts).collect(),
        held,
        holds: HeldNow::default(),
        takeable: HashMap::new(),
        entries: Vec::new(),
        settled: &settled,
        known: HashMap::new(),
        new: HashMap::new(),
        writes: Writes::default(),
        denied_an_id: false,
    };
    group.look_up(conn, requests, mode).await?;
    let replies: Vec<Reply> = requests
        .iter()
        .map(|request| group.reply(request))
        .collect();
    // What was admitted before is not denied when it comes again.
    if group.denied_an_id && !mode.look_up {
        conn.execute("ROLLBACK").await?;
        return Ok(Attempt::Again(Mode {
            look_up: true,
            ..mode.clone()
        }));
    }
    group.note_changes();
    let mut entries = group.audit_entries();
    entries.append(&mut group.entries);
    let mut audited = mode.with_audit.clone();
    audited.extend(entries.iter().map(|entry| entry.organization_id));
    if audited.len() > mode.with_audit.len() {
        conn.execute("ROLLBACK").await?;
        return Ok(Attempt::Again(Mode {
            with_audit: audited,
            ..mode.clone()
        }));
    }
    if !store::write(conn, &group.writes).await? {
        // An id is already stored, or a hold settled. The next attempt looks up which.
        conn.execute("ROLLBACK").await?;
        return Ok(Attempt::Again(Mode {
            look_up: true,
            ..mode.clone()
        }));
    }
    let appended = match &chains {
        Some(chains) => audit::append(conn, chains, &entries).await?,
        None => Appended::default(),
    };
    conn.execute("COMMIT").await?;
    appended.count();
    group.count_metrics();
    Ok(Attempt::Done(replies))
}

/// Locks the chains that are needed, and the accounts; or says which accounts
/// cannot be counted in now.
async fn lock(
    conn: &mut PgConnection,
    keys: &[Key],
    mode: &Mode,
) -> Result<Result<Option<LockedChains>, BTreeSet<Key>>, sqlx::Error> {
    let audited: Vec<Uuid> = mode.with_audit.iter().copied().collect();
    let mut chains = None;
    if mode.waits {
        if !audited.is_empty() {
            chains = Some(audit::lock_chains(conn, &audited).await?);
        }
        store::lock(conn, keys).await?;
        return Ok(Ok(chains));
    }
    if !audited.is_empty() {
        let (locked, free) = audit::lock_free_chains(conn, &audited).await?;
        let is_held = |key: &&Key| mode.with_audit.contains(&key.0) && !free.contains(&key.0);
        let held: BTreeSet<Key> = keys.iter().filter(is_held).cloned().collect();
        if !held.is_empty() {
            return Ok(Err(held));
        }
        chains = Some(locked);
    }
    let held = store::lock_free(conn, keys).await?;
    if held.is_empty() {
        Ok(Ok(chains))
    } else {
        Ok(Err(held.into_iter().collect()))
    }
}

/// Takes the reservations that are settled, and those that this very group may have made.
async fn take_reservations(
    conn: &mut PgConnection,
    requests: &[QueuedRequest],
    made: bool,
) -> Result<HashMap<Uuid, ReservationRow>, sqlx::Error> {
    let settled = requests.iter().filter_map(|request| match &request.op {
        Op::Settle { reservation, .. } => Some((request.organization_id, reservation.id)),
        Op::Reserve { id, .. } if made => Some((request.organization_id, *id)),
        _ => None,
    });
    let (organizations, ids): (Vec<Uuid>, Vec<Uuid>) = settled.unzip();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    store::take_reservations(conn, &organizations, &ids).await
}

/// A group while it is decided. It copies nothing of its requests: a batch has
/// a thousand events.
struct Group<'a> {
    accounts: BTreeMap<(Uuid, &'a str), Account>,
    /// The reservations that were taken.
    held: HashMap<Uuid, ReservationRow>,
    settled: &'a Settled,
    holds: HeldNow<'a>,
    /// Uses that are to be taken back.
    takeable: HashMap<(Uuid, &'a str), Taken>,
    /// What is entered in the audit log besides graces.
    entries: Vec<NewEntry>,
    /// Ids that were there, and the events of the group with the same content.
    known: store::Known<'a>,
    /// Ids that came in this group.
    new: HashMap<(Uuid, &'a str), &'a NewEvent>,
    writes: Writes<'a>,
    denied_an_id: bool,
}

impl<'a> Group<'a> {
    fn account(&mut self, organization_id: Uuid, metric: &'a str) -> &mut Account {
        self.accounts
            .get_mut(&(organization_id, metric))
            .expect("every key of the group was read")
    }

    fn reply(&mut self, request: &'a QueuedRequest) -> Reply {
        let organization_id = request.organization_id;
        match &request.op {
            Op::Record(events) => {
                let record = |event| self.record(organization_id, event);
                Reply::Recorded(events.iter().map(record).collect())
            }
            Op::Check(question) => self.answer(organization_id, question),
            Op::Reserve {
                id,
                metric,
                quantity,
                ttl_secs,
            } => self.reserve(organization_id, *id, metric, *quantity, *ttl_secs),
            // It was done when the account was read.
            Op::TakeDue { .. } => Reply::Settled,
            Op::Settle { reservation, used } => self.settle(reservation, *used),
            Op::Hold { id, hold } => self.hold(organization_id, *id, hold),
            Op::SettleHold(settling) => self.settle_hold(organization_id, settling),
            Op::TakeBack(asked) => self.take_back(organization_id, asked),
        }
    }

    /// Whether the id came before, and with the same content.
    fn before(&self, organization_id: Uuid, event: &'a NewEvent) -> Option<bool> {
        let id = (organization_id, event.id.as_str());
        match self.new.get(&id) {
            Some(first) => Some(*first == event),
            None => self.known.get(&id).map(|known| known.same.contains(&event)),
        }
    }

    /// Why an id that came before with another content cannot be used.
    fn reused(&self, organization_id: Uuid, event: &NewEvent) -> UsageRejection {
        let known = self.known.get(&(organization_id, event.id.as_str()));
        match known {
            Some(known) if known.taken_back => UsageRejection::TakenBack,
            _ => UsageRejection::IdReused,
        }
    }

    fn record(&mut self, organization_id: Uuid, event: &'a NewEvent) -> Item {
        match self.before(organization_id, event) {
            Some(true) => return Item::Duplicate,
            Some(false) => return Item::Rejected(self.reused(organization_id, event)),
            None => {}
        }
        let account = self.account(organization_id, &event.metric);
        let now = account.now;
        let occurred = event.occurred_at.unwrap_or(now);
        match account.count(&event.id, event.quantity, occurred) {
            Ok(period) => {
                self.writes
                    .event(organization_id, event, now, period.start_secs());
                self.keep(organization_id, event);
                Item::Recorded
            }
            Err(rejection) => {
                self.denied_an_id = true;
                Item::Rejected(rejection)
            }
        }
    }

    fn keep(&mut self, organization_id: Uuid, event: &'a NewEvent) {
        self.new.insert((organization_id, &event.id), event);
    }

    /// A use that needs a feature which its organization does not have is neither
    /// decided about nor counted.
    fn answer(&mut self, organization_id: Uuid, question: &'a Question) -> Reply {
        let Some(needed) = &question.needs else {
            return self.check(organization_id, question);
        };
        let account = self.account(organization_id, &question.event.metric);
        let Some(value) = account.features.grant(needed) else {
            return Reply::Rejected(UsageRejection::FeatureNotIncluded);
        };
        match self.check(organization_id, question) {
            Reply::Decided(decided) => Reply::Granted(decided, value),
            other => other,
        }
    }

    fn check(&mut self, organization_id: Uuid, question: &'a Question) -> Reply {
        let Question {
            event,
            consume,
            named,
            ..
        } = question;
        let (consume, named) = (*consume, *named);
        if consume {
            match self.before(organization_id, event) {
                Some(true) => {
                    let again = self.account(organization_id, &event.metric).again();
                    let counted = again.map(|decided| QuotaDecision {
                        duplicate: named,
                        ..decided
                    });
                    return counted.map_or_else(Reply::Rejected, Reply::Decided);
                }
                Some(false) => return Reply::Rejected(self.reused(organization_id, event)),
                None => {}
            }
        }
        let account = self.account(organization_id, &event.metric);
        let now = account.now;
        let decided = match account.check(&event.id, event.quantity, consume) {
            Ok(decided) => decided,
            Err(rejection) => {
                self.denied_an_id |= consume && named;
                return Reply::Rejected(rejection);
            }
        };
        let allowed = decided.decision.allowed();
        if consume && allowed {
            let start = decided.period.start_secs();
            self.writes.event(organization_id, event, now, start);
            self.keep(organization_id, event);
        }
        self.denied_an_id |= consume && named && !allowed;
        Reply::Decided(decided)
    }

    fn reserve(
        &mut self,
        organization_id: Uuid,
        id: Uuid,
        metric: &'a str,
        quantity: Decimal,
        ttl_secs: u32,
    ) -> Reply {
        let made = self.held.remove(&id);
        let account = self.account(organization_id, metric);
        let now = account.now;
        if let Some(made) = made {
            account.release(made.period_start, made.quantity);
        }
        match account.reserve(quantity) {
            Ok(decided) => {
                if decided.decision.allowed() {
                    let held = ReservationRow {
                        period_start: decided.period.start_secs(),
                        quantity,
                        reserved_at: now,
                    };
                    self.writes
                        .reservation(organization_id, id, metric, held, ttl_secs);
                }
                Reply::Decided(decided)
            }
            Err(rejection) => Reply::Rejected(rejection),
        }
    }

    fn settle(&mut self, reservation: &Reservation, used: bool) -> Reply {
        let organization_id = reservation.organization_id;
        let settled = self.settled;
        let event = &settled[&reservation.id];
        let held = self.held.remove(&reservation.id);
        let counted = self.before(organization_id, event).is_some();
        let account = self.account(organization_id, &event.metric);
        let now = account.now;
        if let Some(held) = &held {
            account.release(held.period_start, held.quantity);
        }
        if !used || counted {
            return Reply::Settled;
        }
        // One that expired was used all the same.
        let (start, occurred) = held.map_or((i64::MIN, now), |held| {
            (held.period_start, held.reserved_at)
        });
        match account.count_in(start, &event.id, event.quantity, occurred) {
            Ok(period) => {
                self.writes
                    .event(organization_id, event, now, period.start_secs());
                self.keep(organization_id, event);
                Reply::Settled
            }
            Err(rejection) => {
                self.denied_an_id = true;
                Reply::Rejected(rejection)
            }
        }
    }

    /// What is to be written of the accounts.
    fn note_changes(&mut self) {
        for ((organization_id, metric), account) in &self.accounts {
            for usage in account.periods.values() {
                self.writes.period(*organization_id, metric, usage, account);
            }
        }
    }

    fn graces(
        &self,
    ) -> impl Iterator<Item = (&(Uuid, &'a str), &Account, &PeriodUsage, GraceChange)> {
        self.accounts.iter().flat_map(|(key, account)| {
            account
                .periods
                .values()
                .filter_map(move |usage| Some((key, account, usage, usage.grace?.change?)))
        })
    }

    fn audit_entries(&self) -> Vec<NewEntry> {
        let entry = |((organization_id, metric), account, usage, change): (
            &(Uuid, &str),
            &Account,
            &PeriodUsage,
            GraceChange,
        )| {
            let grace = usage.grace?;
            let (action, reason) = match change {
                GraceChange::Started | GraceChange::Resumed => ("grace_period_started", None),
                GraceChange::Expired => ("grace_period_ended", Some(EndReason::Expired)),
                GraceChange::TakenBack => ("grace_period_ended", Some(EndReason::QuotaRaised)),
            };
            Some(NewEntry {
                organization_id: *organization_id,
                action,
                actor: Actor::System,
                resource_type: "grace_period",
                resource_id: (*metric).to_owned(),
                before: None,
                after: Some(grace_state(account, usage, grace.period, reason)),
                metadata: json!({}),
                client: None,
                reason: None,
            })
        };
        self.graces().filter_map(entry).collect()
    }

    fn count_metrics(&self) {
        for (_, _, _, change) in self.graces() {
            if change == GraceChange::Expired {
                metrics::grace_ended(EndReason::Expired);
            }
        }
    }
}

fn grace_state(
    account: &Account,
    usage: &PeriodUsage,
    grace: billing_domain::grace_period::GracePeriod,
    reason: Option<EndReason>,
) -> Value {
    let policy = account.policy.map(|policy| usage.policy(policy));
    let quota = policy.and_then(|policy| policy.quota);
    json!({
        "usage": usage.used().normalize().to_string(),
        "quota": quota.map(|quota| quota.normalize().to_string()),
        "startedAt": grace.started_at,
        "expiresAt": grace.expires_at,
        "endReason": reason.map(EndReason::as_str),
    })
}
