//! Compares our state with Stripe's, and reports or heals the differences.
//!
//! It covers subscriptions with their items and schedules, invoices with their lines
//! and payments, charges, disputes, payment methods, checkout sessions and customers,
//! and settles open requests. Each finding has its own result:
//! one that cannot be read or healed hides no other. Stripe is never changed.

pub(super) mod compare;
mod customers;
mod documents;
mod drift;
mod kinds;
mod one;
mod open_requests;
mod payments;
mod schedules;
mod sessions;
pub(super) mod store;
mod stripe_only;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::Initiator;
use super::failure::Failure;
use super::mirror::fetch;
use crate::db::WorkerTx;
use crate::metering::reports;
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::objects::{Customer, Subscription, SubscriptionSchedule};
use crate::tenancy::organizations::sample;
use billing_domain::status::SubscriptionStatus;
pub(super) use documents::Answer;
pub use drift::{Drift, Reconciliation};
pub use kinds::DriftKind;
pub use one::{CompareError, Compared, Comparisons, Difference, Verdict};
use payments::Billed;
pub(super) use payments::{charge_event, dispute_event, refund_event};
use schedules::schedule_in;
use store::Mirrored;
use stripe_only::{named, stray};
pub(super) use stripe_only::{runs, unknown_prices};

/// What a reconciliation may change in our state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Healing {
    /// Mirror Stripe's state.
    pub apply: bool,
    /// End the subscriptions that Stripe does not have.
    pub end_missing: bool,
}

/// Both sides, as read at the beginning.
struct BothSides {
    ours: BTreeMap<String, Mirrored>,
    owners: BTreeMap<String, Mirrored>,
    organizations: BTreeSet<Uuid>,
    customers: Vec<Customer>,
}

impl BothSides {
    /// The owner of a customer in Stripe.
    fn owner(&self, customer: &str) -> Option<Uuid> {
        Some(self.owners.get(customer)?.organization_id)
    }

    /// A customer that is not known to be deleted in Stripe.
    fn existing(&self, customer: &str) -> Option<&Mirrored> {
        let owned = self.owners.get(customer)?;
        owned.row["deleted_at"].is_null().then_some(owned)
    }

    /// Whether another customer was linked to the organization of this one later.
    fn is_superseded(&self, customer: &str) -> bool {
        let linked_at = |one: &Mirrored| one.text("linked_at").to_owned();
        let Some(ours) = self.existing(customer) else {
            return false;
        };
        self.owners.iter().any(|(id, other)| {
            id != customer
                && other.organization_id == ours.organization_id
                && other.row["deleted_at"].is_null()
                && linked_at(other) > linked_at(ours)
        })
    }

    fn read_customers(&mut self, objects: &[Value], found: &mut Reconciliation) {
        for object in objects {
            match Customer::read(object, false) {
                Ok(customer) => self.customers.push(customer),
                Err(error) => {
                    let id = object["id"].as_str().unwrap_or_default();
                    if let Some(owner) = self.owner(id) {
                        found.add(DriftKind::Unreadable, owner, id, vec![error.to_string()]);
                    }
                }
            }
        }
    }
}

impl Subscriptions {
    /// Compares everything; with `apply`, mirrors Stripe's state. Objects that
    /// Stripe does not have and stray customers are left to the operator.
    /// Invoices, charges, disputes and checkout sessions are compared if they were
    /// created or refunded since `since`, or are open here. Whatever ends it early,
    /// what was found and healed until then is returned.
    pub async fn reconcile(
        &self,
        healing: Healing,
        since: Timestamp,
    ) -> (Reconciliation, Result<(), Failure>) {
        let (mut found, mut ended) = self.compared(healing, since).await;
        // What a webhook on its way explains is gone when it is compared again.
        if ended.is_ok() && !healing.apply && !found.drift.is_empty() {
            let (mut again, ended_again) = self.compared(healing, since).await;
            if ended_again.is_ok() {
                again.retain_lasting(&found);
            }
            (found, ended) = (again, ended_again);
        }
        found.conclude();
        (found, ended)
    }

    async fn compared(
        &self,
        healing: Healing,
        since: Timestamp,
    ) -> (Reconciliation, Result<(), Failure>) {
        let mut found = Reconciliation::default();
        let ended = self.compare_all(healing, since, &mut found).await;
        found.complete = ended.is_ok();
        (found, ended)
    }

    async fn compare_all(
        &self,
        healing: Healing,
        since: Timestamp,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        self.settle_open_requests(client, healing.apply, found)
            .await?;

        // Stripe is read first, so that changes made here meanwhile are no drift.
        let objects = client.listed_subscriptions().await;
        let objects = objects.map_err(Failure::Stripe)?;
        let billed = Billed::read(client, since).await?;
        let customers = client.listed_customers().await.map_err(Failure::Stripe)?;
        let shown = objects.iter();
        let shown = shown.filter_map(|object| Subscription::read(object).ok());
        let shown: Vec<Subscription> = shown.collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        self.catalogue.recall(tx.conn(), &shown).await?;
        let mut both = BothSides {
            ours: store::subscriptions(tx.conn(), None).await?,
            owners: store::customers(tx.conn(), None).await?,
            organizations: store::organizations(tx.conn()).await?,
            customers: Vec::new(),
        };
        let sessions = store::checkout_sessions(tx.conn(), since).await?;
        tx.rollback().await?;
        // Sample data was never in Stripe.
        both.ours.retain(|_, one| one.organization_id != sample::ID);
        both.owners
            .retain(|_, one| one.organization_id != sample::ID);
        both.read_customers(&customers, found);

        let running = self
            .subscriptions(client, &both, objects, healing, found)
            .await?;
        self.customers(client, &both, healing, found).await?;
        let invoices = &billed.invoices;
        self.documents(client, &both, &running, invoices, healing, found)
            .await?;
        self.payments(client, &both, &running, billed, healing, found)
            .await?;
        self.checkout_sessions(client, &sessions, healing, found)
            .await?;
        found.drift.extend(stray(&both));
        let unbilled = reports::unbilled(&self.pool, &self.catalogue, Timestamp::now()).await?;
        found.drift.extend(unbilled.iter().map(usage::drift));
        Ok(())
    }

    /// Compares subscriptions, and returns those that Stripe has with their owners.
    async fn subscriptions(
        &self,
        client: &Client,
        both: &BothSides,
        mut objects: Vec<Value>,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<Vec<(Uuid, Subscription)>, Failure> {
        let mut known = Vec::new();
        let mut listed = BTreeSet::new();
        for object in &mut objects {
            let id = object["id"].as_str().unwrap_or_default().to_owned();
            listed.insert(id.clone());
            let Some(organization_id) = owner(object, &id, both) else {
                found.foreign += 1;
                continue;
            };
            let completed = client.fetch_missing_items(object).await;
            if found.shown(organization_id, &id, completed)?.is_none() {
                continue;
            }
            let theirs = match self.catalogue.subscription(object) {
                Ok(theirs) => theirs,
                Err(error) => {
                    let reason = vec![error.to_string()];
                    found.add(DriftKind::Unreadable, organization_id, id, reason);
                    continue;
                }
            };
            found.compared += 1;
            match schedule_in(client, organization_id, object).await? {
                Ok(schedule) => {
                    let theirs_now = (&theirs, schedule.as_ref());
                    self.compare(client, both, organization_id, theirs_now, healing, found)
                        .await?;
                }
                Err(unreadable) => found.drift.push(unreadable),
            }
            known.push((organization_id, theirs));
        }
        let unlisted = both
            .ours
            .iter()
            .filter(|(id, _)| !listed.contains(*id))
            .filter(|(_, one)| !SubscriptionStatus::from(one.text("stripe_status")).is_ended());
        for (id, stored) in unlisted {
            let theirs = self.unlisted(client, id, stored, healing, found).await?;
            known.extend(theirs.map(|theirs| (stored.organization_id, theirs)));
        }
        found
            .drift
            .extend(stripe_only::of_subscriptions(&self.catalogue, &known));
        Ok(known)
    }

    async fn compare(
        &self,
        client: &Client,
        both: &BothSides,
        organization_id: Uuid,
        (theirs, schedule): (&Subscription, Option<&SubscriptionSchedule>),
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let mut drift = match both.ours.get(&theirs.id) {
            None => Drift::new(
                DriftKind::MissingHere,
                organization_id,
                &theirs.id,
                vec![format!("status: none, {}", theirs.status)],
            ),
            Some(ours) => {
                let differences = compare::subscriptions(ours, theirs, schedule);
                if differences.is_empty() {
                    return Ok(());
                }
                Drift::new(DriftKind::Differs, organization_id, &theirs.id, differences)
            }
        };
        if healing.apply {
            let healed = self.heal(client, organization_id, &theirs.id).await;
            drift.set_healed(healed)?;
        }
        found.drift.push(drift);
        Ok(())
    }

    /// Compares a running subscription that Stripe did not list: it is gone, was
    /// created meanwhile, or its customer is on a test clock.
    async fn unlisted(
        &self,
        client: &Client,
        id: &str,
        stored: &Mirrored,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<Option<Subscription>, Failure> {
        let organization_id = stored.organization_id;
        let mut response = client.subscription(id).await;
        if let Ok(response) = &mut response {
            let completed = client.fetch_missing_items(&mut response.body).await;
            if found.shown(organization_id, id, completed)?.is_none() {
                return Ok(None);
            }
        }
        let drift = match response {
            Ok(mut response) => match self.catalogue.subscription(&response.body) {
                Ok(theirs) => {
                    let body = &mut response.body;
                    let schedule = match schedule_in(client, organization_id, body).await? {
                        Ok(schedule) => schedule,
                        Err(unreadable) => {
                            found.drift.push(unreadable);
                            return Ok(Some(theirs));
                        }
                    };
                    let differences = compare::subscriptions(stored, &theirs, schedule.as_ref());
                    if !differences.is_empty() {
                        let mut drift =
                            Drift::new(DriftKind::Differs, organization_id, id, differences);
                        if healing.apply {
                            drift.set_healed(self.heal(client, organization_id, id).await)?;
                        }
                        found.drift.push(drift);
                    }
                    return Ok(Some(theirs));
                }
                Err(error) => Drift::new(
                    DriftKind::Unreadable,
                    organization_id,
                    id,
                    vec![error.to_string()],
                ),
            },
            Err(error) if error.kind == ErrorKind::NotFound => {
                let differences = vec![format!("status: {}, none", stored.text("stripe_status"))];
                let kind = DriftKind::MissingInStripe;
                let mut drift = Drift::new(kind, organization_id, id, differences);
                if healing.apply && healing.end_missing {
                    let initiator = Initiator::system();
                    let ended = self.end_missing(organization_id, id, &initiator).await;
                    drift.set_healed(ended.map(|()| true))?;
                }
                drift
            }
            Err(error) => {
                found.shown::<()>(organization_id, id, Err(error))?;
                return Ok(None);
            }
        };
        found.drift.push(drift);
        Ok(None)
    }

    /// Mirrors the subscription's current state in Stripe.
    async fn heal(
        &self,
        client: &Client,
        organization_id: Uuid,
        id: &str,
    ) -> Result<bool, Failure> {
        let snapshot = fetch(client, id).await.map_err(Failure::Stripe)?;
        self.mirror_snapshot(organization_id, snapshot, None)
            .await?;
        Ok(true)
    }
}

/// The owner by customer, otherwise by metadata, as for events, or as we have it.
fn owner(theirs: &Value, id: &str, both: &BothSides) -> Option<Uuid> {
    let customer = &theirs["customer"];
    let customer = customer.as_str().or_else(|| customer["id"].as_str());
    let by_metadata = || named(theirs["metadata"].as_object()?, &both.organizations);
    let mirrored = || Some(both.ours.get(id)?.organization_id);
    customer
        .and_then(|customer| both.owner(customer))
        .or_else(by_metadata)
        .or_else(mirrored)
}
