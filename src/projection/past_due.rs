//! What a subscription grants while it is past due: `[recovery] past_due_access`. It is
//! decided here alone; plan, quotas, features and state follow from the plan that is
//! assigned.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::past_due::Access;
use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::invoice::Payment;
use super::store;
use super::subscription::{self, Change, Known, StoredSubscription};
use super::types::Effects;
use super::versions::Mirrored as _;
use super::versions::merge::ObjectKey;
use crate::audit::{Actor, LockedChains, NewEntry};
use crate::catalogue::Catalogue;
use crate::metering::grace;
use crate::stripe::objects::Subscription;

/// The audit actions of access that ends, and that is back.
pub const ACTIONS: [&str; 2] = ["subscription_access_ended", "subscription_access_restored"];

/// The access by each subscription, after a batch.
pub struct Accesses {
    statuses: BTreeMap<ObjectKey, SubscriptionStatus>,
    /// Of those that are past due.
    past_due: BTreeMap<ObjectKey, Access>,
}

/// A subscription after the batch.
struct After<'a> {
    status: &'a SubscriptionStatus,
    at: Timestamp,
    period_start: Option<Timestamp>,
}

impl Accesses {
    pub async fn read(
        conn: &mut PgConnection,
        catalogue: &Catalogue,
        stored: &BTreeMap<ObjectKey, StoredSubscription>,
        changes: &[Change],
        late: &[(ObjectKey, SubscriptionStatus)],
        payments: &BTreeMap<ObjectKey, Payment>,
    ) -> Result<Self, sqlx::Error> {
        let after = after(stored, changes, late);
        let is_past_due = |one: &After<'_>| *one.status == SubscriptionStatus::PastDue;
        let due = after.iter().filter(|(_, one)| is_past_due(one));
        let organizations: BTreeSet<Uuid> = due.clone().map(|(key, _)| key.0).collect();
        let failed = match organizations.is_empty() {
            true => BTreeMap::new(),
            false => store::past_due::since(conn, &Vec::from_iter(organizations)).await?,
        };
        let now = Timestamp::now();
        let past_due = due.map(|(key, one)| {
            // Without the invoice, it is the renewal's.
            let since = failed.get(key).copied().or(one.period_start);
            // A test clock may be ahead: what it has reported has happened.
            let paid_at = payments.get(key).map(|payment| payment.last_event_at);
            let now = now.max(one.at).max(paid_at.unwrap_or(now));
            let access = Access::of(catalogue.past_due_access(), one.status, since, now);
            (key.clone(), access)
        });
        let past_due = past_due.collect();
        let statuses = after.into_iter();
        let statuses = statuses.map(|(key, one)| (key, one.status.clone()));
        Ok(Self {
            statuses: statuses.collect(),
            past_due,
        })
    }

    pub fn of(&self, key: &ObjectKey) -> Access {
        self.past_due.get(key).copied().unwrap_or_default()
    }

    /// Those that differ from what is stored.
    pub fn changed(
        &self,
        stored: &BTreeMap<ObjectKey, StoredSubscription>,
        changes: &[Change],
    ) -> Vec<(ObjectKey, Access)> {
        let keys = keys(stored, changes).into_iter();
        keys.filter(|key| was(stored, key) != self.of(key))
            .map(|key| (key.clone(), self.of(&key)))
            .collect()
    }

    /// Those that end, and those that are back.
    pub fn flips(
        &self,
        stored: &BTreeMap<ObjectKey, StoredSubscription>,
        changes: &[Change],
    ) -> Flips {
        let changed = self.changed(stored, changes).into_iter();
        let flips = changed.filter(|(key, access)| was(stored, key).ended != access.ended);
        let flips = flips.map(|(key, access)| {
            let status = self.statuses.get(&key).cloned();
            let grants = status.is_some_and(|status| access.grants_plan(&status));
            Flip {
                key,
                access,
                grants,
            }
        });
        Flips(flips.collect())
    }
}

fn was(stored: &BTreeMap<ObjectKey, StoredSubscription>, key: &ObjectKey) -> Access {
    stored.get(key).map(|row| row.access).unwrap_or_default()
}

fn keys(
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
    changes: &[Change],
) -> BTreeSet<ObjectKey> {
    let changed = changes.iter().map(|change| {
        let (organization, id) = change.key();
        (organization, id.to_owned())
    });
    stored.keys().cloned().chain(changed).collect()
}

fn after<'a>(
    stored: &'a BTreeMap<ObjectKey, StoredSubscription>,
    changes: &'a [Change],
    late: &'a [(ObjectKey, SubscriptionStatus)],
) -> BTreeMap<ObjectKey, After<'a>> {
    let of_row = |(key, row): (&ObjectKey, &'a StoredSubscription)| {
        let after = After {
            status: &row.status,
            at: row.version.last_event_at,
            period_start: row.period.0,
        };
        (key.clone(), after)
    };
    let mut after: BTreeMap<ObjectKey, After<'a>> = stored.iter().map(of_row).collect();
    for (key, status) in late {
        after
            .entry(key.clone())
            .and_modify(|one| one.status = status);
    }
    for change in changes {
        let (organization, id) = change.key();
        let changed = After {
            status: &change.status,
            at: change.merged.version.last_event_at,
            period_start: change.merged.snapshot.current_period_start,
        };
        after.insert((organization, id.to_owned()), changed);
    }
    after
}

/// A subscription whose access ends or is back.
struct Flip {
    key: ObjectKey,
    access: Access,
    grants: bool,
}

pub struct Flips(Vec<Flip>);

impl Flips {
    pub fn entries(&self, actor: Actor) -> Vec<NewEntry> {
        // Of one that grants nothing now, its status says so.
        let told = self
            .0
            .iter()
            .filter(|flip| flip.access.ended || flip.grants);
        let entries = told.map(|flip| {
            let ended = flip.access.ended;
            NewEntry {
                organization_id: flip.key.0,
                action: match ended {
                    true => ACTIONS[0],
                    false => ACTIONS[1],
                },
                actor,
                resource_type: Subscription::RESOURCE,
                resource_id: flip.key.1.clone(),
                before: Some(json!({"accessEnded": !ended})),
                after: Some(json!({"accessEnded": ended})),
                client: None,
                reason: None,
                metadata: json!({
                    "pastDueSince": flip.access.past_due_since,
                    "accessEndsAt": flip.access.ends_at,
                }),
            }
        });
        entries.collect()
    }

    /// With the organizations whose usage may count in another period.
    pub fn with_moved(&self, moved: Vec<Uuid>) -> Vec<Uuid> {
        let flipped = self.0.iter().map(|flip| flip.key.0);
        let all: BTreeSet<Uuid> = moved.into_iter().chain(flipped).collect();
        all.into_iter().collect()
    }

    /// With the organizations whose subscription continues.
    pub fn with_resumed(&self, resumed: Vec<Uuid>) -> Vec<Uuid> {
        let back = self.0.iter().filter(|flip| flip.grants);
        resumed
            .into_iter()
            .chain(back.map(|flip| flip.key.0))
            .collect()
    }
}

/// The outcome of a review.
pub struct Reviewed {
    pub entries: Vec<NewEntry>,
    /// Grace periods that ended.
    pub graces: Vec<grace::Ended>,
    /// Subscriptions whose access ended, or is back.
    pub flipped: usize,
}

/// Decides anew what `organizations`, whose audit chains are locked, may do while they are
/// past due: time has passed, or the policy is another.
pub async fn review(
    conn: &mut PgConnection,
    _locked: &LockedChains,
    catalogue: &Catalogue,
    organizations: &[Uuid],
) -> Result<Reviewed, sqlx::Error> {
    let mut effects = Effects::of(Actor::System);
    if organizations.is_empty() {
        return Ok(Reviewed::of(effects));
    }
    let known = Known {
        stored: store::subscriptions::load(conn, organizations).await?,
        payments: store::subscriptions::payments(conn, organizations).await?,
        tiers: BTreeMap::new(),
        told: Vec::new(),
    };
    let none = Vec::new();
    subscription::write(conn, catalogue, organizations, known, none, &mut effects).await?;
    Ok(Reviewed::of(effects))
}

impl Reviewed {
    fn of(effects: Effects) -> Self {
        let flips = effects.entries.iter();
        let flips = flips.filter(|entry| ACTIONS.contains(&entry.action));
        Self {
            flipped: flips.count(),
            entries: effects.entries,
            graces: effects.graces,
        }
    }
}
