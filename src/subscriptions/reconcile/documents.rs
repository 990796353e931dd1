//! Compares invoices and payment methods with Stripe's.
//!
//! A difference is healed through the projection, with an event made from the
//! object's current state in Stripe.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use super::store::{self, MirroredInvoice, MirroredMethod};
use super::{BothSides, Drift, DriftKind, Healing, Reconciliation, compare};
use crate::db::WorkerTx;
use crate::event_log::StoredEvent;
use crate::projection::{self, Batch, Context, Handled, UnknownCustomers};
use crate::stripe::account::Account;
use crate::stripe::client::{Client, ErrorKind, Response};
use crate::stripe::objects::{Invoice, PaymentMethod, Subscription};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::snapshot;

impl Subscriptions {
    pub(super) async fn documents(
        &self,
        client: &Client,
        both: &BothSides,
        subscriptions: &[(Uuid, Subscription)],
        invoices: &[Value],
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let listed: Vec<&str> = invoices
            .iter()
            .filter_map(|one| one["id"].as_str())
            .collect();
        let mirrored = store::invoices(tx.conn(), &listed).await?;
        let methods = store::payment_methods(tx.conn()).await?;
        tx.rollback().await?;
        let unlisted = self
            .open_invoices(client, &mirrored, &listed, found)
            .await?;
        for object in invoices.iter().chain(&unlisted) {
            let Some((owner, theirs)) = read_invoice(object, both, found) else {
                continue;
            };
            let stored = mirrored.get(&theirs.id);
            let differences = match stored {
                Some(ours) => compare::invoices(ours, &theirs),
                // Drafts are not mirrored.
                None if theirs.status.as_deref() == Some("draft") => continue,
                None => vec![format!(
                    "status: none, {}",
                    theirs.status.as_deref().unwrap_or("none")
                )],
            };
            if differences.is_empty() {
                continue;
            }
            let owner = stored.map_or(owner, |ours| ours.organization_id);
            let mut drift = Drift::new(DriftKind::Invoice, owner, &theirs.id, differences);
            if healing.apply {
                drift.set_healed(self.heal_invoice(client, &theirs.id).await)?;
            }
            add_to_missing(found, theirs.subscription_id.as_deref(), drift);
        }
        self.methods(client, both, subscriptions, &methods, healing, found)
            .await
    }

    /// Fetches the invoices that are open here and too old to be listed.
    async fn open_invoices(
        &self,
        client: &Client,
        mirrored: &BTreeMap<String, MirroredInvoice>,
        listed: &[&str],
        found: &mut Reconciliation,
    ) -> Result<Vec<Value>, Failure> {
        let listed: BTreeSet<&str> = listed.iter().copied().collect();
        let mut shown = Vec::new();
        for (id, ours) in mirrored {
            if ours.status.as_deref() != Some("open") || listed.contains(id.as_str()) {
                continue;
            }
            match client.invoice_now(id).await {
                Ok(response) => shown.push(response.body),
                Err(error) if error.kind == ErrorKind::NotFound => {
                    let differences = vec!["status: open, none".to_owned()];
                    let kind = DriftKind::Invoice;
                    let mut drift = Drift::new(kind, ours.organization_id, id, differences);
                    drift.fix = "check that the key belongs to the right account; Stripe has no such invoice";
                    found.drift.push(drift);
                }
                Err(error) => return Err(Failure::Stripe(error)),
            }
        }
        Ok(shown)
    }

    async fn methods(
        &self,
        client: &Client,
        both: &BothSides,
        subscriptions: &[(Uuid, Subscription)],
        mirrored: &BTreeMap<String, MirroredMethod>,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        // One call per customer: those that pay, and those with a payment method
        // here.
        let paying = subscriptions
            .iter()
            .map(|(_, one)| one.customer_id.as_str());
        let shown = mirrored.values().filter(|one| one.status == "attached");
        let shown = shown.filter_map(|one| one.customer_id.as_deref());
        let customers: BTreeSet<&str> = paying.chain(shown).collect();
        let mut met = BTreeSet::new();
        for customer in customers {
            let Some(owned) = both.owners.get(customer).filter(|owned| !owned.deleted) else {
                continue;
            };
            let attached = match client.attached(customer).await {
                Ok(attached) => attached,
                // A missing customer is a finding of its own.
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => return Err(Failure::Stripe(error)),
            };
            for object in &attached {
                let Ok(theirs) = PaymentMethod::read(object, None) else {
                    continue;
                };
                met.insert(theirs.id.clone());
                let differences = match mirrored.get(&theirs.id) {
                    Some(ours) => compare::payment_methods(ours, &theirs),
                    None => vec!["status: none, attached".to_owned()],
                };
                if differences.is_empty() {
                    continue;
                }
                let kind = DriftKind::PaymentMethod;
                let mut drift = Drift::new(kind, owned.organization_id, &theirs.id, differences);
                if healing.apply {
                    drift.set_healed(self.heal_method(client, &theirs.id, customer).await)?;
                }
                let subscription = subscriptions.iter().map(|(_, one)| one);
                let mut subscription = subscription.filter(|one| one.customer_id == customer);
                add_to_missing(found, subscription.next().map(|one| &*one.id), drift);
            }
        }
        for (id, ours) in mirrored {
            let Some(customer) = ours.customer_id.as_deref() else {
                continue;
            };
            let is_known = both.owners.get(customer).is_some_and(|one| !one.deleted);
            if ours.status != "attached" || met.contains(id) || !is_known {
                continue;
            }
            let differences = vec!["status: attached, detached".to_owned()];
            let kind = DriftKind::PaymentMethod;
            let mut drift = Drift::new(kind, ours.organization_id, id, differences);
            if healing.apply {
                drift.set_healed(self.heal_method(client, id, customer).await)?;
            }
            found.drift.push(drift);
        }
        Ok(())
    }

    async fn heal_invoice(&self, client: &Client, id: &str) -> Result<bool, Failure> {
        let response = client.invoice_now(id).await.map_err(Failure::Stripe)?;
        self.apply_response(client, "invoice.updated", response, json!({}))
            .await
    }

    async fn heal_method(
        &self,
        client: &Client,
        id: &str,
        customer: &str,
    ) -> Result<bool, Failure> {
        let response = client.payment_method(id).await.map_err(Failure::Stripe)?;
        if response.body["customer"].is_null() {
            let before = json!({"customer": customer});
            return self
                .apply_response(client, "payment_method.detached", response, before)
                .await;
        }
        self.apply_response(client, "payment_method.attached", response, json!({}))
            .await
    }

    /// Has the projection apply Stripe's response as if it were an event.
    pub(super) async fn apply_response(
        &self,
        client: &Client,
        event_type: &str,
        response: Response,
        previous: Value,
    ) -> Result<bool, Failure> {
        let snapshot = snapshot(client, response).await.map_err(Failure::Stripe)?;
        let event = StoredEvent {
            bucket: 0,
            id: format!("request:{}", Uuid::now_v7()),
            event_type: event_type.to_owned(),
            api_version: None,
            livemode: snapshot.object["livemode"].as_bool().unwrap_or(false),
            account: None,
            created: snapshot.at,
            payload: json!({"data": {"object": snapshot.object, "previous_attributes": previous}})
                .to_string(),
        };
        let context = Context {
            catalogue: &self.catalogue,
            key_is_live: None,
            unknown_customers: UnknownCustomers::default(),
            account: Account::NotAsked,
        };
        let mut batch = Batch {
            wait: true,
            ..Batch::default()
        };
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let applied = projection::apply(tx.conn(), &context, &[&event], &mut batch).await?;
        match applied.results.first() {
            Some(Ok(Handled::Applied(_))) => {
                tx.commit().await?;
                applied.count();
                Ok(true)
            }
            Some(Err(error)) => Err(Failure::Unrecoverable(error.to_string())),
            _ => Ok(false),
        }
    }
}

fn read_invoice(
    object: &Value,
    both: &BothSides,
    found: &mut Reconciliation,
) -> Option<(Uuid, Invoice)> {
    let customer = object["customer"]
        .as_str()
        .or_else(|| object["customer"]["id"].as_str())?;
    let owner = both.owners.get(customer)?.organization_id;
    match Invoice::read(object) {
        Ok(invoice) => Some((owner, invoice)),
        Err(error) => {
            let id = object["id"].as_str().unwrap_or_default();
            let kind = DriftKind::Unreadable;
            found
                .drift
                .push(Drift::new(kind, owner, id, vec![error.to_string()]));
            None
        }
    }
}

/// Adds `drift` to the finding of its missing subscription, if there is one.
pub(super) fn add_to_missing(found: &mut Reconciliation, subscription: Option<&str>, drift: Drift) {
    let missing = found
        .drift
        .iter_mut()
        .find(|one| one.kind == DriftKind::MissingHere && subscription == Some(one.id.as_str()));
    match missing {
        Some(missing) => {
            missing.healed &= drift.healed;
            let each = drift.differences.iter();
            let each = each.map(|difference| format!("{} {difference}", drift.id));
            missing.differences.extend(each);
        }
        None => found.drift.push(drift),
    }
}
