//! Compares our state with Stripe's, and reports or heals the differences.
//!
//! It covers subscriptions with their items, invoices, payments, payment methods
//! and customers, and settles open requests. Each finding has its own result:
//! one that cannot be read or healed hides no other. Stripe is never changed.

mod compare;
mod customers;
mod documents;
mod kinds;
mod open_requests;
mod payments;
mod store;
mod stripe_only;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::Initiator;
use super::change::recover::stops_round;
use super::failure::Failure;
use super::mirror::snapshot;
use crate::db::WorkerTx;
use crate::metering::reports;
use crate::stripe::client::{Client, Customer, ErrorKind};
use crate::stripe::objects::{Subscription, SubscriptionSchedule};
use crate::telemetry::metrics;
use crate::tenancy::organizations::sample;
use billing_domain::subscription::is_ended;
pub use kinds::DriftKind;
use payments::Billed;
use store::{CustomerOwner, MirroredSubscription};
use stripe_only::{named, stray};

/// One difference.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    pub kind: DriftKind,
    pub organization_id: Uuid,
    /// The subscription, customer, invoice, payment method or request.
    pub id: String,
    /// The fields that differ, as `field: ours, Stripe's`.
    pub differences: Vec<String>,
    pub healed: bool,
    /// The operator's next step.
    pub fix: &'static str,
}

impl Drift {
    fn new(
        kind: DriftKind,
        organization_id: Uuid,
        id: impl Into<String>,
        differences: Vec<String>,
    ) -> Self {
        Self {
            kind,
            organization_id,
            id: id.into(),
            differences,
            healed: false,
            fix: kind.fix(),
        }
    }
}

/// The result of a reconciliation.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconciliation {
    /// The number of Stripe's subscriptions that were compared.
    pub compared: usize,
    /// The number of Stripe's subscriptions that belong to no organization.
    pub foreign: usize,
    pub drift: Vec<Drift>,
}

impl Reconciliation {
    pub fn healed(&self) -> usize {
        self.drift.iter().filter(|drift| drift.healed).count()
    }
}

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
    ours: BTreeMap<String, MirroredSubscription>,
    owners: BTreeMap<String, CustomerOwner>,
    organizations: BTreeSet<Uuid>,
    customers: Vec<Customer>,
}

impl Subscriptions {
    /// Compares everything; with `apply`, mirrors Stripe's state. Objects that
    /// Stripe does not have and stray customers are left to the operator.
    /// Invoices, charges and disputes are compared if they were created or
    /// refunded since `since`, or are open here.
    pub async fn reconcile(
        &self,
        healing: Healing,
        since: Timestamp,
    ) -> Result<Reconciliation, Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let mut found = Reconciliation::default();
        self.settle_open_requests(client, healing.apply, &mut found)
            .await?;

        // Stripe is read first, so that changes made here meanwhile are no drift.
        let objects = client.subscriptions(None).await.map_err(Failure::Stripe)?;
        let billed = Billed::read(client, since).await?;
        let customers = client.customers(None).await.map_err(Failure::Stripe)?;
        let shown = objects.iter();
        let shown = shown.filter_map(|object| Subscription::read(object).ok());
        let shown: Vec<Subscription> = shown.collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        self.catalogue.recall(tx.conn(), &shown).await?;
        let mut both = BothSides {
            ours: store::subscriptions(tx.conn()).await?,
            owners: store::customers(tx.conn()).await?,
            organizations: store::organizations(tx.conn()).await?,
            customers,
        };
        tx.rollback().await?;
        // Sample data was never in Stripe.
        both.ours.retain(|_, one| one.organization_id != sample::ID);
        both.owners
            .retain(|_, one| one.organization_id != sample::ID);

        let running = self
            .subscriptions(client, &both, objects, healing, &mut found)
            .await?;
        self.customers(client, &both, healing, &mut found).await?;
        self.documents(
            client,
            &both,
            &running,
            &billed.invoices,
            healing,
            &mut found,
        )
        .await?;
        self.payments(client, &both, &running, billed, healing, &mut found)
            .await?;
        found.drift.extend(stray(&both));
        let unbilled = reports::unbilled(&self.pool, &self.catalogue, Timestamp::now()).await?;
        found.drift.extend(unbilled.iter().map(usage::drift));
        found
            .drift
            .sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        for drift in &found.drift {
            metrics::drift(drift.kind.as_str());
        }
        Ok(found)
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
            client
                .fetch_missing_items(object)
                .await
                .map_err(Failure::Stripe)?;
            let Some((theirs, organization_id)) = self.owned(object, both, found) else {
                continue;
            };
            listed.insert(theirs.id.clone());
            found.compared += 1;
            let schedule = schedule_in(client, object).await?;
            let theirs_now = (&theirs, schedule.as_ref());
            self.compare(client, both, organization_id, theirs_now, healing, found)
                .await?;
            known.push((organization_id, theirs));
        }
        let unlisted = both
            .ours
            .iter()
            .filter(|(id, one)| !listed.contains(*id) && !is_ended(&one.status));
        for (id, stored) in unlisted {
            let theirs = self.unlisted(client, id, stored, healing, found).await?;
            known.extend(theirs.map(|theirs| (stored.organization_id, theirs)));
        }
        found
            .drift
            .extend(stripe_only::of_subscriptions(&self.catalogue, &known));
        Ok(known)
    }

    /// A subscription in Stripe with the organization that it belongs to.
    fn owned(
        &self,
        object: &Value,
        both: &BothSides,
        found: &mut Reconciliation,
    ) -> Option<(Subscription, Uuid)> {
        let theirs = match self.catalogue.subscription(object) {
            Ok(theirs) => theirs,
            Err(error) => {
                let id = object["id"].as_str().unwrap_or_default();
                let customer = object["customer"].as_str().unwrap_or_default();
                let owner = both.owners.get(customer).map(|owned| owned.organization_id);
                let owner = owner.or_else(|| Some(both.ours.get(id)?.organization_id));
                match owner {
                    Some(owner) => found.drift.push(Drift::new(
                        DriftKind::Unreadable,
                        owner,
                        id,
                        vec![error.to_string()],
                    )),
                    None => found.foreign += 1,
                }
                return None;
            }
        };
        match owner(&theirs, both) {
            Some(organization_id) => Some((theirs, organization_id)),
            None => {
                found.foreign += 1;
                None
            }
        }
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
        stored: &MirroredSubscription,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<Option<Subscription>, Failure> {
        let organization_id = stored.organization_id;
        let mut response = client.subscription(id).await;
        if let Ok(response) = &mut response {
            let completed = client.fetch_missing_items(&mut response.body).await;
            completed.map_err(Failure::Stripe)?;
        }
        let drift = match response {
            Ok(mut response) => match self.catalogue.subscription(&response.body) {
                Ok(theirs) => {
                    let schedule = schedule_in(client, &mut response.body).await?;
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
                let differences = vec![format!("status: {}, none", stored.status)];
                let kind = DriftKind::MissingInStripe;
                let mut drift = Drift::new(kind, organization_id, id, differences);
                if healing.apply && healing.end_missing {
                    let initiator = Initiator::system();
                    let ended = self.end_missing(organization_id, id, &initiator).await;
                    drift.set_healed(ended.map(|()| true))?;
                }
                drift
            }
            Err(error) => return Err(Failure::Stripe(error)),
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
        let response = client.subscription(id).await;
        let snapshot = snapshot(client, response.map_err(Failure::Stripe)?).await;
        let snapshot = snapshot.map_err(Failure::Stripe)?;
        self.mirror_snapshot(organization_id, snapshot, None)
            .await?;
        Ok(true)
    }
}

impl Drift {
    /// Records the result of healing. A failure is added to the differences and
    /// ends the reconciliation only if nothing else can be healed now.
    fn set_healed(&mut self, healed: Result<bool, Failure>) -> Result<(), Failure> {
        match healed {
            Ok(healed) => self.healed = healed,
            Err(failure) if stops_round(&failure) => return Err(failure),
            Err(failure) => {
                tracing::warn!(
                    organization_id = %self.organization_id, kind = self.kind.as_str(), id = self.id,
                    %failure, "A difference could not be healed"
                );
                self.differences.push(format!("not healed: {failure}"));
            }
        }
        Ok(())
    }
}

/// The schedule that drives a subscription. One that cannot be read is as none.
async fn schedule_in(
    client: &Client,
    subscription: &mut Value,
) -> Result<Option<SubscriptionSchedule>, Failure> {
    let fetched = client.fetch_schedule(subscription).await;
    fetched.map_err(Failure::Stripe)?;
    let schedule = &subscription["schedule"];
    Ok(SubscriptionSchedule::read(schedule).ok())
}

/// The owner by customer, otherwise by metadata, as for events.
fn owner(theirs: &Subscription, both: &BothSides) -> Option<Uuid> {
    let by_customer = both.owners.get(&theirs.customer_id);
    by_customer
        .map(|owned| owned.organization_id)
        .or_else(|| named(&theirs.metadata, &both.organizations))
}
