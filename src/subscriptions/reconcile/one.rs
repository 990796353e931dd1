//! One organization compared with Stripe, while an operator looks at it: the comparisons of a
//! reconciliation, of what is the organization's. Nothing is healed.
//!
//! Stripe is asked a bounded number of things: of the three newest customers, each with its
//! subscriptions, payment methods and newest invoices. Few comparisons run at a time, and one
//! that was just made is shown again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{BothSides, Drift, DriftKind, Healing, Reconciliation, store};
use crate::db::WorkerTx;
use crate::stripe::client::{AccountList, Client};
use crate::stripe::objects::Subscription;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;

/// The newest customers that are looked at.
const CUSTOMERS: i64 = 3;
/// How many comparisons run at a time.
const AT_ONCE: usize = 2;
/// How long one may take, waiting for its turn included.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a comparison is shown again.
const FRESH: SignedDuration = SignedDuration::from_secs(30);
/// How many are remembered.
const REMEMBERED: usize = 256;

/// How an organization's state here and in Stripe go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    InSync,
    /// Something differs that changes neither plan nor what is charged, or could not be read.
    Warning,
    Mismatch,
}

/// A difference between our state and Stripe's.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DriftDifference)]
pub struct Difference {
    /// Such as `differs` or `missing_here`.
    pub kind: &'static str,
    /// The subscription, customer, invoice or payment method.
    #[schema(example = "sub_1")]
    pub id: String,
    pub is_mismatch: bool,
    pub fields: Vec<FieldDifference>,
    /// The operator's next step.
    pub fix: &'static str,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DriftField)]
pub struct FieldDifference {
    #[schema(example = "status")]
    pub field: String,
    /// Ours, and Stripe's; a reason stands alone.
    #[schema(example = "active, past_due")]
    pub values: String,
}

/// An organization compared with Stripe.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ComparedOrganization)]
pub struct Compared {
    #[schema(inline)]
    pub verdict: Verdict,
    pub compared_at: Timestamp,
    /// How many subscriptions of Stripe's were compared.
    pub subscriptions: usize,
    pub differences: Vec<Difference>,
}

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("there is no such organization")]
    NoOrganization,
    #[error("no STRIPE_SECRET_KEY is configured: there is nothing to compare with")]
    NotConfigured,
    #[error("Stripe took too long, or many compare at once; try again")]
    TooSlow,
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// What bounds comparisons.
pub struct Comparisons {
    running: Semaphore,
    known: Mutex<HashMap<Uuid, Arc<Compared>>>,
}

impl Default for Comparisons {
    fn default() -> Self {
        Self {
            running: Semaphore::new(AT_ONCE),
            known: Mutex::default(),
        }
    }
}

impl Comparisons {
    fn known(&self, organization_id: Uuid, now: Timestamp) -> Option<Arc<Compared>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let compared = known.get(&organization_id)?;
        let age = now.duration_since(compared.compared_at);
        (age < FRESH).then(|| compared.clone())
    }

    fn remember(&self, organization_id: Uuid, compared: &Arc<Compared>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(organization_id, compared.clone());
    }
}

impl Subscriptions {
    /// Whether Stripe can be asked.
    pub fn asks_stripe(&self) -> bool {
        self.stripe.is_some()
    }

    /// Compares one organization with Stripe.
    pub async fn compare_one(&self, organization_id: Uuid) -> Result<Arc<Compared>, CompareError> {
        let client = self.stripe.as_ref().ok_or(CompareError::NotConfigured)?;
        let comparing = self.compare_in_turn(client, organization_id);
        let compared = tokio::time::timeout(PATIENCE, comparing).await;
        compared.unwrap_or(Err(CompareError::TooSlow))
    }

    async fn compare_in_turn(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<Arc<Compared>, CompareError> {
        let bounds = &self.comparisons;
        let _turn = bounds.running.acquire().await;
        if let Some(known) = bounds.known(organization_id, Timestamp::now()) {
            return Ok(known);
        }
        let mut found = self.compare_once(client, organization_id).await?;
        if !found.drift.is_empty() {
            // What a webhook on its way explains is gone when it is compared again.
            let mut again = self.compare_once(client, organization_id).await?;
            again.retain_lasting(&found);
            found = again;
        }
        let compared = Arc::new(Compared::of(&found, Timestamp::now()));
        bounds.remember(organization_id, &compared);
        Ok(compared)
    }

    async fn compare_once(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<Reconciliation, Failure> {
        let (mut found, healing) = (Reconciliation::default(), Healing::default());
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let named = store::of_organization(tx.conn(), organization_id, CUSTOMERS).await?;
        tx.commit().await?;
        // Stripe is read first, so that changes made here meanwhile are no drift.
        let (mut objects, mut invoices) = (Vec::new(), Vec::new());
        for customer in &named.customers {
            // One that is missing is a finding of the customers.
            let listed = client.subscriptions(Some(customer)).await;
            let listed = found.shown(organization_id, customer, listed)?;
            objects.extend(listed.into_iter().flatten());
            let page = client.page(AccountList::InvoicesOf(customer), None).await;
            let page = found.shown(organization_id, customer, page)?;
            invoices.extend(page.into_iter().flat_map(|page| page.objects));
        }
        let both = self.both_sides(organization_id, &named, &objects).await?;
        let running = self
            .subscriptions(client, &both, objects, healing, &mut found)
            .await?;
        self.customers(client, &both, healing, &mut found).await?;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let ids: Vec<&str> = invoices
            .iter()
            .filter_map(|one| one["id"].as_str())
            .collect();
        let mirrored = store::invoices(tx.conn(), &ids, false).await?;
        let customers: Vec<&str> = named.customers.iter().map(String::as_str).collect();
        let methods = store::payment_methods(tx.conn(), Some(&customers)).await?;
        tx.commit().await?;
        for object in &invoices {
            self.invoice(client, object, &both, &mirrored, healing, &mut found)
                .await?;
        }
        self.methods(client, &both, &running, &methods, healing, &mut found)
            .await?;
        found.complete = true;
        Ok(found)
    }

    async fn both_sides(
        &self,
        organization_id: Uuid,
        named: &store::Named,
        objects: &[Value],
    ) -> Result<BothSides, Failure> {
        let shown = objects.iter();
        let shown = shown.filter_map(|object| Subscription::read(object).ok());
        let shown: Vec<Subscription> = shown.collect();
        // Of what Stripe shows, ours is looked up as well: the names are bounded, and were read
        // before.
        let named_here = named.subscriptions.iter().map(String::as_str);
        let ids: Vec<&str> = named_here
            .chain(shown.iter().map(|one| one.id.as_str()))
            .collect();
        let customers: Vec<&str> = named.customers.iter().map(String::as_str).collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        self.catalogue.recall(tx.conn(), &shown).await?;
        let both = BothSides {
            ours: store::subscriptions(tx.conn(), Some(&ids)).await?,
            owners: store::customers(tx.conn(), Some(&customers)).await?,
            organizations: BTreeSet::from([organization_id]),
            customers: Vec::new(),
        };
        tx.commit().await?;
        Ok(both)
    }
}

impl Compared {
    fn of(found: &Reconciliation, now: Timestamp) -> Self {
        let differences: Vec<Difference> = found.drift.iter().map(Difference::of).collect();
        let verdict = match differences.iter().any(|one| one.is_mismatch) {
            _ if differences.is_empty() => Verdict::InSync,
            true => Verdict::Mismatch,
            false => Verdict::Warning,
        };
        Self {
            verdict,
            compared_at: now,
            subscriptions: found.compared,
            differences,
        }
    }
}

impl Difference {
    fn of(drift: &Drift) -> Self {
        let fields = drift.differences.iter().map(|difference| {
            let (field, values) = difference.split_once(": ").unwrap_or(("", difference));
            FieldDifference {
                field: field.to_owned(),
                values: values.to_owned(),
            }
        });
        Self {
            kind: drift.kind.as_str(),
            id: drift.id.clone(),
            is_mismatch: is_mismatch(drift.kind),
            fields: fields.collect(),
            fix: drift.fix,
        }
    }
}

/// Whether the plan, or what is charged, is another one here than in Stripe.
fn is_mismatch(kind: DriftKind) -> bool {
    match kind {
        DriftKind::Differs
        | DriftKind::MissingHere
        | DriftKind::MissingInStripe
        | DriftKind::CustomerDeleted
        | DriftKind::CustomerMissing
        | DriftKind::StrayCustomer
        | DriftKind::TwoSubscriptions
        | DriftKind::TwoMeteredItems
        | DriftKind::UnknownPrice
        | DriftKind::Invoice
        | DriftKind::UnbilledUsage => true,
        DriftKind::OpenRequest
        | DriftKind::AbandonedRequest
        | DriftKind::Customer
        | DriftKind::PaymentMethod
        | DriftKind::Charge
        | DriftKind::Refund
        | DriftKind::Dispute
        | DriftKind::CheckoutSession
        | DriftKind::Unreadable => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(kinds: &[DriftKind]) -> Verdict {
        let mut found = Reconciliation::default();
        for kind in kinds {
            let differences = vec!["status: active, past_due".to_owned()];
            found.add(*kind, Uuid::nil(), "sub_1", differences);
        }
        let compared = Compared::of(&found, Timestamp::UNIX_EPOCH);
        for difference in &compared.differences {
            let field = &difference.fields[0];
            let shown = (&*field.field, &*field.values);
            assert_eq!(shown, ("status", "active, past_due"));
        }
        compared.verdict
    }

    #[test]
    fn the_worst_difference_decides() {
        assert_eq!(judged(&[]), Verdict::InSync);
        assert_eq!(judged(&[DriftKind::PaymentMethod]), Verdict::Warning);
        let both = [DriftKind::PaymentMethod, DriftKind::Differs];
        assert_eq!(judged(&both), Verdict::Mismatch);
    }
}
