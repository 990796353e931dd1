//! Our state against Stripe's: what differs is told, or healed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::carry_out::seen;
use super::change::{Change, QUIET};
use super::failure::Failure;
use super::store::Mirrored;
use super::{Subscriptions, store};
use crate::db::WorkerTx;
use crate::metrics;
use crate::stripe::client::{Client, Customer, ErrorKind};
use crate::stripe::objects::Subscription;
use crate::stripe::requests;
use billing_domain::subscription::is_ended;

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// A request was left open: whether Stripe did it is not known.
    OpenRequest,
    /// Both have the subscription, and it differs.
    Differs,
    /// Stripe has a subscription of an organization's that is not mirrored.
    MissingHere,
    /// A subscription that runs here is not in Stripe.
    MissingInStripe,
    /// Stripe's customer names an organization of ours, which has another
    /// customer, or none.
    StrayCustomer,
}

impl DriftKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenRequest => "open_request",
            Self::Differs => "differs",
            Self::MissingHere => "missing_here",
            Self::MissingInStripe => "missing_in_stripe",
            Self::StrayCustomer => "stray_customer",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    pub kind: DriftKind,
    pub organization_id: Uuid,
    /// The subscription, customer or request.
    pub id: String,
    /// The fields that differ, as `field: ours, Stripe's`.
    pub differences: Vec<String>,
    pub healed: bool,
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

impl Subscriptions {
    /// Compares everything, and with `apply` brings our state to Stripe's.
    /// What Stripe does not have, and stray customers, are for people to judge.
    pub async fn reconcile(&self, apply: bool, now: Timestamp) -> Result<Reconciliation, Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let mut found = Reconciliation::default();
        self.open_requests(client, apply, now, &mut found).await?;

        // Stripe first: what is made here meanwhile is then no drift.
        let objects = client.subscriptions(None).await.map_err(Failure::Stripe)?;
        let customers = client.customers(None).await.map_err(Failure::Stripe)?;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let ours = store::mirrored(tx.conn()).await?;
        let owners = store::customers(tx.conn()).await?;
        let organizations = store::organizations(tx.conn()).await?;
        tx.rollback().await?;

        let mut met = BTreeSet::new();
        for object in &objects {
            let theirs = self.catalogue.subscription(object)?;
            met.insert(theirs.id.clone());
            let Some(organization_id) = owner(&theirs, &owners, &organizations) else {
                found.foreign += 1;
                continue;
            };
            found.compared += 1;
            let stored = ours.get(&theirs.id);
            if let Some(mut drift) = compare(organization_id, stored, &theirs) {
                drift.healed = apply && self.heal(client, &drift).await?;
                found.drift.push(drift);
            }
        }
        for (id, stored) in ours
            .iter()
            .filter(|(id, one)| !met.contains(*id) && !is_ended(&one.status))
        {
            found
                .drift
                .extend(self.unlisted(client, id, stored, apply).await?);
        }
        found
            .drift
            .extend(stray(&customers, &owners, &organizations));
        found
            .drift
            .sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        for drift in &found.drift {
            metrics::drift(drift.kind.as_str());
        }
        Ok(found)
    }

    async fn open_requests(
        &self,
        client: &Client,
        apply: bool,
        now: Timestamp,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let open = requests::open(tx.conn(), QUIET).await?;
        tx.rollback().await?;
        for request in open {
            let healed = match Change::of(&request) {
                Some(change) if apply => self.settle(client, &request, &change, now).await?,
                _ => false,
            };
            found.drift.push(Drift {
                kind: DriftKind::OpenRequest,
                organization_id: request.organization_id,
                id: request.id.to_string(),
                differences: vec![format!("{} {}", request.operation, request.subject)],
                healed,
            });
        }
        Ok(())
    }

    /// A subscription that runs here and was not listed: it is gone, or it was
    /// made meanwhile, or its customer lives on a test clock.
    async fn unlisted(
        &self,
        client: &Client,
        id: &str,
        stored: &Mirrored,
        apply: bool,
    ) -> Result<Option<Drift>, Failure> {
        let organization_id = stored.organization_id;
        match client.subscription(id).await {
            Ok(mut answer) => {
                let completed = client.fetch_missing_items(&mut answer.body).await;
                completed.map_err(Failure::Stripe)?;
                let theirs = self.catalogue.subscription(&answer.body)?;
                let Some(mut drift) = compare(organization_id, Some(stored), &theirs) else {
                    return Ok(None);
                };
                drift.healed = apply && self.heal(client, &drift).await?;
                Ok(Some(drift))
            }
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Some(Drift {
                kind: DriftKind::MissingInStripe,
                organization_id,
                id: id.to_owned(),
                differences: vec![format!("status: {}, none", stored.status)],
                healed: false,
            })),
            Err(error) => Err(Failure::Stripe(error)),
        }
    }

    /// Mirrors the subscription as Stripe shows it now.
    async fn heal(&self, client: &Client, drift: &Drift) -> Result<bool, Failure> {
        let answer = client.subscription(&drift.id).await;
        let seen = seen(client, answer.map_err(Failure::Stripe)?).await;
        let seen = seen.map_err(Failure::Stripe)?;
        self.mirror_seen(drift.organization_id, seen, None).await?;
        Ok(true)
    }
}

/// By the customer, else by the metadata, as events are.
fn owner(
    theirs: &Subscription,
    owners: &BTreeMap<String, Uuid>,
    organizations: &BTreeSet<Uuid>,
) -> Option<Uuid> {
    let by_customer = owners.get(&theirs.customer_id).copied();
    by_customer.or_else(|| named(&theirs.metadata, organizations))
}

fn named(
    metadata: &serde_json::Map<String, Value>,
    organizations: &BTreeSet<Uuid>,
) -> Option<Uuid> {
    ["organization_id", "tenant_id"]
        .iter()
        .filter_map(|key| metadata.get(*key)?.as_str()?.parse().ok())
        .find(|id| organizations.contains(id))
}

fn compare(
    organization_id: Uuid,
    stored: Option<&Mirrored>,
    theirs: &Subscription,
) -> Option<Drift> {
    let Some(ours) = stored else {
        return Some(Drift {
            kind: DriftKind::MissingHere,
            organization_id,
            id: theirs.id.clone(),
            differences: vec![format!("status: none, {}", theirs.status)],
            healed: false,
        });
    };
    let mut differences = Vec::new();
    let mut field = |name: &str, ours: String, theirs: String| {
        if ours != theirs {
            differences.push(format!("{name}: {ours}, {theirs}"));
        }
    };
    let time = |time: Option<Timestamp>| time.map_or_else(|| "none".into(), |t| t.to_string());
    field("status", ours.status.clone(), theirs.status.clone());
    field(
        "cancel at period end",
        ours.cancel_at_period_end.to_string(),
        theirs.cancel_at_period_end.to_string(),
    );
    field(
        "period end",
        time(ours.period_end),
        time(theirs.current_period_end),
    );
    let prices: BTreeSet<&str> = theirs
        .items
        .iter()
        .filter_map(|item| item.price_id.as_deref())
        .collect();
    let prices: Vec<&str> = prices.into_iter().collect();
    field("prices", ours.price_ids.join(" "), prices.join(" "));
    (!differences.is_empty()).then(|| Drift {
        kind: DriftKind::Differs,
        organization_id,
        id: theirs.id.clone(),
        differences,
        healed: false,
    })
}

fn stray(
    customers: &[Customer],
    owners: &BTreeMap<String, Uuid>,
    organizations: &BTreeSet<Uuid>,
) -> impl Iterator<Item = Drift> {
    let strays = customers.iter().filter_map(|customer| {
        let organization = named(&customer.metadata, organizations)?;
        let is_known = customer.deleted || owners.contains_key(&customer.id);
        (!is_known).then_some((customer, organization))
    });
    strays.map(|(customer, organization_id)| Drift {
        kind: DriftKind::StrayCustomer,
        organization_id,
        id: customer.id.clone(),
        differences: Vec::new(),
        healed: false,
    })
}
