//! Our state against Stripe's: what differs is told, or healed.
//!
//! Subscriptions with their items, invoices, payment methods and customers are
//! compared, and what was left open is settled. Each finding has a result of
//! its own: one that cannot be read or healed hides no other.

mod compare;
mod customers;
mod documents;
mod left_open;
mod payments;
mod store;
mod usage;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::Subscriptions;
use super::change::execute::seen;
use super::change::record::Asker;
use super::change::recover::ends_the_round;
use super::failure::Failure;
use crate::db::WorkerTx;
use crate::metering::reports;
use crate::stripe::client::{Client, Customer, ErrorKind};
use crate::stripe::objects::Subscription;
use crate::telemetry::metrics;
use crate::tenancy::organizations::sample;
use billing_domain::subscription::is_ended;
use payments::Billed;
use store::{MirroredSubscription, Owned};
use verdicts::{named, stray};

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// A request was left open: whether Stripe did it is not known.
    OpenRequest,
    /// Recovery gave a request up: whether Stripe did it is not known.
    AbandonedRequest,
    /// Both have the subscription, and it differs.
    Differs,
    /// Stripe has a subscription of an organization's that is not mirrored.
    MissingHere,
    /// A subscription that runs here is not in Stripe.
    MissingInStripe,
    /// Stripe's customer names an organization of ours, which has another
    /// customer, or none.
    StrayCustomer,
    /// An organization's customer was deleted in Stripe.
    CustomerDeleted,
    /// Stripe never had an organization's customer, as far as the key can see.
    CustomerMissing,
    /// An organization pays for several subscriptions.
    TwoSubscriptions,
    /// A subscription is paid for, and the catalogue knows no plan of it.
    UnknownPrice,
    /// An invoice is not as in Stripe, or not here.
    Invoice,
    /// A payment method is not as in Stripe, or not here.
    PaymentMethod,
    /// A charge, or what was refunded of it, is not as in Stripe, or not here.
    Charge,
    /// A dispute is not as in Stripe, or not here.
    Dispute,
    /// An object of Stripe's cannot be read.
    Unreadable,
    /// Usage that was promised to be billed, and is billed by nothing.
    UnbilledUsage,
}

impl DriftKind {
    pub const ALL: [Self; 16] = [
        Self::OpenRequest,
        Self::AbandonedRequest,
        Self::Differs,
        Self::MissingHere,
        Self::MissingInStripe,
        Self::StrayCustomer,
        Self::CustomerDeleted,
        Self::CustomerMissing,
        Self::TwoSubscriptions,
        Self::UnknownPrice,
        Self::Invoice,
        Self::PaymentMethod,
        Self::Charge,
        Self::Dispute,
        Self::Unreadable,
        Self::UnbilledUsage,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenRequest => "open_request",
            Self::AbandonedRequest => "abandoned_request",
            Self::Differs => "differs",
            Self::MissingHere => "missing_here",
            Self::MissingInStripe => "missing_in_stripe",
            Self::StrayCustomer => "stray_customer",
            Self::CustomerDeleted => "customer_deleted",
            Self::CustomerMissing => "customer_missing",
            Self::TwoSubscriptions => "two_subscriptions",
            Self::UnknownPrice => "unknown_price",
            Self::Invoice => "invoice",
            Self::PaymentMethod => "payment_method",
            Self::Charge => "charge",
            Self::Dispute => "dispute",
            Self::Unreadable => "unreadable",
            Self::UnbilledUsage => "unbilled_usage",
        }
    }

    /// What to do about it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::OpenRequest
            | Self::Differs
            | Self::MissingHere
            | Self::CustomerDeleted
            | Self::Invoice
            | Self::PaymentMethod
            | Self::Charge
            | Self::Dispute => "run `subscriptions reconcile --apply`",
            Self::AbandonedRequest => {
                "mend what it names, then run `subscriptions reconcile --apply`"
            }
            Self::MissingInStripe => {
                "is the key another account's? Else `subscriptions reconcile --apply --end-missing` ends it here"
            }
            Self::StrayCustomer => {
                "run `organizations link-customer`, or delete the customer in Stripe"
            }
            Self::CustomerMissing => {
                "is the key another account's? Else run `organizations link-customer`"
            }
            Self::TwoSubscriptions => {
                "end the one that is too many in Stripe, and refund it if need be"
            }
            Self::UnknownPrice => {
                "add the price to PLANS_FILE (stripe_price_ids), restart, then run `subscriptions reconcile --apply`"
            }
            Self::UnbilledUsage => "docs/runbook.md, UsageUnbilled, says what to do",
            Self::Unreadable => "see the reason; an upgrade of this program may read it",
        }
    }
}

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
    /// What to do about it.
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

/// What a comparison found.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconciliation {
    /// Subscriptions of Stripe's that were compared.
    pub compared: usize,
    /// Those of customers that no organization has.
    pub foreign: usize,
    pub drift: Vec<Drift>,
}

impl Reconciliation {
    pub fn healed(&self) -> usize {
        self.drift.iter().filter(|drift| drift.healed).count()
    }
}

/// What a reconciliation may do about what it finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Healing {
    /// Bring our state to Stripe's.
    pub apply: bool,
    /// End subscriptions here that Stripe does not have.
    pub end_missing: bool,
}

/// What Stripe and we have, read at the beginning.
struct Both {
    ours: BTreeMap<String, MirroredSubscription>,
    owners: BTreeMap<String, Owned>,
    organizations: BTreeSet<Uuid>,
    customers: Vec<Customer>,
}

impl Subscriptions {
    /// Compares everything, and with `apply` brings our state to Stripe's.
    /// What Stripe does not have, and stray customers, are for people to judge.
    /// Invoices, charges and disputes are those that were made since `since`,
    /// those that are open here, and those of which something was refunded since.
    pub async fn reconcile(
        &self,
        healing: Healing,
        since: Timestamp,
    ) -> Result<Reconciliation, Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let mut found = Reconciliation::default();
        self.left_open(client, healing.apply, &mut found).await?;

        // Stripe first: what is made here meanwhile is then no drift.
        let mut objects = client.subscriptions(None).await.map_err(Failure::Stripe)?;
        let billed = Billed::read(client, since).await?;
        let customers = client.customers(None).await.map_err(Failure::Stripe)?;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let mut both = Both {
            ours: store::subscriptions(tx.conn()).await?,
            owners: store::customers(tx.conn()).await?,
            organizations: store::organizations(tx.conn()).await?,
            customers,
        };
        tx.rollback().await?;
        // What samples are about was never in Stripe.
        both.ours.retain(|_, one| one.organization_id != sample::ID);
        both.owners
            .retain(|_, one| one.organization_id != sample::ID);

        let mut running = Vec::new();
        let mut met = BTreeSet::new();
        for object in &mut objects {
            client
                .fetch_missing_items(object)
                .await
                .map_err(Failure::Stripe)?;
            let (theirs, organization_id) = match self.owned(object, &both, &mut found) {
                Some(owned) => owned,
                None => continue,
            };
            met.insert(theirs.id.clone());
            found.compared += 1;
            self.compare(client, &both, organization_id, &theirs, healing, &mut found)
                .await?;
            running.push((organization_id, theirs));
        }
        for (id, stored) in both
            .ours
            .iter()
            .filter(|(id, one)| !met.contains(*id) && !is_ended(&one.status))
        {
            let theirs = self
                .unlisted(client, id, stored, healing, &mut found)
                .await?;
            running.extend(theirs.map(|theirs| (stored.organization_id, theirs)));
        }
        found
            .drift
            .extend(verdicts::of_subscriptions(&self.catalogue, &running));
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

    /// A subscription of Stripe's that is an organization's.
    fn owned(
        &self,
        object: &serde_json::Value,
        both: &Both,
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
        both: &Both,
        organization_id: Uuid,
        theirs: &Subscription,
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
                let differences = compare::subscriptions(ours, theirs);
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

    /// A subscription that runs here and was not listed: it is gone, or it was
    /// made meanwhile, or its customer lives on a test clock.
    async fn unlisted(
        &self,
        client: &Client,
        id: &str,
        stored: &MirroredSubscription,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<Option<Subscription>, Failure> {
        let organization_id = stored.organization_id;
        let mut answer = client.subscription(id).await;
        if let Ok(answer) = &mut answer {
            let completed = client.fetch_missing_items(&mut answer.body).await;
            completed.map_err(Failure::Stripe)?;
        }
        let drift = match answer {
            Ok(answer) => match self.catalogue.subscription(&answer.body) {
                Ok(theirs) => {
                    let differences = compare::subscriptions(stored, &theirs);
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
                    let asker = Asker::system();
                    let ended = self.end_missing(organization_id, id, &asker).await;
                    drift.set_healed(ended.map(|()| true))?;
                }
                drift
            }
            Err(error) => return Err(Failure::Stripe(error)),
        };
        found.drift.push(drift);
        Ok(None)
    }

    /// Mirrors the subscription as Stripe shows it now.
    async fn heal(
        &self,
        client: &Client,
        organization_id: Uuid,
        id: &str,
    ) -> Result<bool, Failure> {
        let answer = client.subscription(id).await;
        let seen = seen(client, answer.map_err(Failure::Stripe)?).await;
        let seen = seen.map_err(Failure::Stripe)?;
        self.mirror_seen(organization_id, seen, None).await?;
        Ok(true)
    }
}

impl Drift {
    /// What came of healing it. What cannot be healed says why, and is no end of
    /// the reconciliation, unless nothing can be healed now.
    fn set_healed(&mut self, healed: Result<bool, Failure>) -> Result<(), Failure> {
        match healed {
            Ok(healed) => self.healed = healed,
            Err(failure) if ends_the_round(&failure) => return Err(failure),
            Err(failure) => {
                tracing::warn!(
                    organization_id = %self.organization_id, kind = self.kind.as_str(), id = self.id,
                    %failure, "a difference could not be healed"
                );
                self.differences.push(format!("not healed: {failure}"));
            }
        }
        Ok(())
    }
}

/// By the customer, else by the metadata, as events are.
fn owner(theirs: &Subscription, both: &Both) -> Option<Uuid> {
    let by_customer = both.owners.get(&theirs.customer_id);
    by_customer
        .map(|owned| owned.organization_id)
        .or_else(|| named(&theirs.metadata, &both.organizations))
}
