//! Compares charges, refunds and disputes with Stripe's.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::documents::add_to_missing;
use super::{BothSides, Drift, DriftKind, Healing, Reconciliation, compare, store};
use crate::db::WorkerTx;
use crate::stripe::client::{Client, ErrorKind, Response, StripeError};
use crate::stripe::objects::{Charge, Dispute, InvoicePayment, Refund, ShapeError, Subscription};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;

/// What Stripe billed and collected within the window.
pub struct Billed {
    pub invoices: Vec<Value>,
    charges: Vec<Value>,
    refunds: Vec<Value>,
    disputes: Vec<Value>,
    /// Older charges that were refunded or disputed since.
    older: Vec<String>,
}

impl Billed {
    pub async fn read(client: &Client, since: Timestamp) -> Result<Self, Failure> {
        let read = async {
            let invoices = client.invoices_since(since).await?;
            let charges = client.charges_since(since).await?;
            let refunds = client.refunds_since(since).await?;
            let disputes = client.disputes_since(since).await?;
            // An old charge may have been refunded or disputed recently.
            let mut known: BTreeSet<String> =
                charges.iter().filter_map(|one| text(one, "id")).collect();
            let named = refunds.iter().chain(&disputes);
            let named = named.filter_map(|object| text(object, "charge"));
            let older = named.filter(|id| known.insert(id.clone())).collect();
            Ok::<_, StripeError>(Self {
                invoices,
                charges,
                refunds,
                disputes,
                older,
            })
        };
        read.await.map_err(Failure::Stripe)
    }
}

/// The text of a field, or the id if the field is an expanded object.
fn text(object: &Value, field: &str) -> Option<String> {
    let value = &object[field];
    let text = value.as_str().or_else(|| value["id"].as_str());
    text.map(str::to_owned)
}

/// Whatever Stripe has no more is not there to be compared.
fn unless_gone(response: Result<Response, StripeError>) -> Result<Option<Value>, StripeError> {
    match response {
        Ok(response) => Ok(Some(response.body)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The invoices that payment intents and charges paid. A charge itself does not say
/// since 2025-03-31.basil.
fn paid(invoices: &[Value]) -> BTreeMap<String, String> {
    let mut paid = BTreeMap::new();
    for invoice in invoices {
        let payments = invoice["payments"]["data"].as_array().into_iter().flatten();
        let payments = payments.filter(|payment| payment["status"] == "paid");
        for payment in payments.filter_map(|payment| InvoicePayment::read(payment).ok()) {
            let by = [payment.payment_intent_id, payment.charge_id];
            let by = by.into_iter().flatten();
            paid.extend(by.map(|id| (id, payment.invoice_id.clone())));
        }
    }
    paid
}

/// The context of the comparison.
struct Comparing<'a> {
    client: &'a Client,
    both: &'a BothSides,
    subscriptions: &'a [(Uuid, Subscription)],
    healing: Healing,
}

impl Subscriptions {
    pub(super) async fn payments(
        &self,
        client: &Client,
        both: &BothSides,
        subscriptions: &[(Uuid, Subscription)],
        billed: Billed,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let comparing = Comparing {
            client,
            both,
            subscriptions,
            healing,
        };
        let paid = paid(&billed.invoices);
        let mut charges = billed.charges;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let known = store::charges(tx.conn(), &billed.older).await?;
        tx.rollback().await?;
        for id in &billed.older {
            // Of one that is not known here, only the charge says whose it is.
            let owner = known
                .get(id)
                .map_or(Uuid::nil(), |ours| ours.organization_id);
            let response = unless_gone(client.charge(id).await);
            charges.extend(found.shown(owner, id, response)?.flatten());
        }
        let owners = self.charges(&comparing, &charges, &paid, found).await?;
        self.refunds(&comparing, &billed.refunds, &owners, found)
            .await?;
        self.disputes(&comparing, billed.disputes, &owners, found)
            .await
    }

    /// Returns the owners of the charges.
    async fn charges(
        &self,
        comparing: &Comparing<'_>,
        charges: &[Value],
        paid: &BTreeMap<String, String>,
        found: &mut Reconciliation,
    ) -> Result<BTreeMap<String, Uuid>, Failure> {
        let ids: Vec<String> = charges.iter().filter_map(|one| text(one, "id")).collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let mirrored = store::charges(tx.conn(), &ids).await?;
        tx.rollback().await?;
        let mut owners = BTreeMap::new();
        for object in charges {
            let Some(customer) = text(object, "customer") else {
                continue;
            };
            let Some(owner) = comparing.both.owner(&customer) else {
                continue;
            };
            let Some(mut theirs) = readable(Charge::read(object), object, owner, found) else {
                continue;
            };
            let by = [theirs.payment_intent_id.as_ref(), Some(&theirs.id)];
            let invoice = by.into_iter().flatten().find_map(|id| paid.get(id));
            theirs.invoice_id = invoice.cloned().or(theirs.invoice_id);
            owners.insert(theirs.id.clone(), owner);
            let differences = match mirrored.get(&theirs.id) {
                Some(ours) => compare::charges(ours, &theirs),
                // No event has been sent for it yet.
                None if theirs.status == "pending" => continue,
                None => vec![format!("status: none, {}", theirs.status)],
            };
            if differences.is_empty() {
                continue;
            }
            let mut drift = Drift::new(DriftKind::Charge, owner, &theirs.id, differences);
            if comparing.healing.apply {
                let healed = self.heal_charge(comparing.client, &theirs.id).await;
                drift.set_healed(healed)?;
            }
            let missing = comparing.missing_of(&customer, found);
            add_to_missing(found, missing.as_deref(), drift);
        }
        Ok(owners)
    }

    /// One that is not mirrored is in what its charge says, unless it has failed.
    async fn refunds(
        &self,
        comparing: &Comparing<'_>,
        refunds: &[Value],
        owners: &BTreeMap<String, Uuid>,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let ids: Vec<String> = refunds.iter().filter_map(|one| text(one, "id")).collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let mirrored = store::refunds(tx.conn(), &ids).await?;
        tx.rollback().await?;
        for object in refunds {
            let of_charge = text(object, "charge").and_then(|id| owners.get(&id).copied());
            let Some(owner) = of_charge else {
                continue;
            };
            let Some(theirs) = readable(Refund::read(object), object, owner, found) else {
                continue;
            };
            let differences = match mirrored.get(&theirs.id) {
                Some(ours) => compare::refunds(ours, &theirs),
                None if theirs.is_returned() => vec![format!("status: none, {}", theirs.status)],
                None => continue,
            };
            if differences.is_empty() {
                continue;
            }
            let mut drift = Drift::new(DriftKind::Refund, owner, &theirs.id, differences);
            if comparing.healing.apply {
                drift.set_healed(self.heal_refund(comparing.client, &theirs.id).await)?;
            }
            found.drift.push(drift);
        }
        Ok(())
    }

    async fn disputes(
        &self,
        comparing: &Comparing<'_>,
        mut disputes: Vec<Value>,
        owners: &BTreeMap<String, Uuid>,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let ids: Vec<String> = disputes.iter().filter_map(|one| text(one, "id")).collect();
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let mirrored = store::disputes(tx.conn(), &ids, true).await?;
        tx.rollback().await?;
        // A bank may take months to decide, so older disputes are fetched too.
        for id in mirrored.keys().filter(|id| !ids.contains(id)) {
            let response = unless_gone(comparing.client.dispute(id).await);
            let owner = mirrored[id].organization_id;
            disputes.extend(found.shown(owner, id, response)?.flatten());
        }
        for object in &disputes {
            let known = text(object, "id").and_then(|id| mirrored.get(&id));
            let of_charge = text(object, "charge").and_then(|id| owners.get(&id).copied());
            let Some(owner) = known.map(|ours| ours.organization_id).or(of_charge) else {
                continue;
            };
            let Some(theirs) = readable(Dispute::read(object), object, owner, found) else {
                continue;
            };
            let differences = match known {
                Some(ours) => compare::disputes(ours, &theirs),
                None => vec![format!("status: none, {}", theirs.status)],
            };
            if differences.is_empty() {
                continue;
            }
            let mut drift = Drift::new(DriftKind::Dispute, owner, &theirs.id, differences);
            if comparing.healing.apply {
                drift.set_healed(self.heal_dispute(comparing.client, &theirs).await)?;
            }
            found.drift.push(drift);
        }
        Ok(())
    }

    async fn heal_charge(&self, client: &Client, id: &str) -> Result<bool, Failure> {
        let response = client.charge(id).await.map_err(Failure::Stripe)?;
        let event_type = charge_event(&response.body);
        self.apply_response(client, event_type, response, json!({}))
            .await
    }

    async fn heal_refund(&self, client: &Client, id: &str) -> Result<bool, Failure> {
        let response = client.refund(id).await.map_err(Failure::Stripe)?;
        let event_type = refund_event(&response.body);
        self.apply_response(client, event_type, response, json!({}))
            .await
    }

    async fn heal_dispute(&self, client: &Client, dispute: &Dispute) -> Result<bool, Failure> {
        let response = client.dispute(&dispute.id).await.map_err(Failure::Stripe)?;
        let event_type = dispute_event(dispute);
        self.apply_response(client, event_type, response, json!({}))
            .await
    }
}

/// The event that tells of a charge as it is.
pub fn charge_event(charge: &Value) -> &'static str {
    let refunded = charge["amount_refunded"].as_i64();
    match charge["status"].as_str() {
        _ if refunded.is_some_and(|amount| amount > 0) => "charge.refunded",
        Some("failed") => "charge.failed",
        _ => "charge.succeeded",
    }
}

/// The same for a refund.
pub fn refund_event(refund: &Value) -> &'static str {
    match refund["status"] == "failed" {
        true => "refund.failed",
        false => "refund.updated",
    }
}

/// The same for a dispute.
pub fn dispute_event(dispute: &Dispute) -> &'static str {
    match dispute.is_closed() {
        true => "charge.dispute.closed",
        false => "charge.dispute.created",
    }
}

impl Comparing<'_> {
    /// The customer's subscription that was found to be missing here.
    fn missing_of(&self, customer: &str, found: &Reconciliation) -> Option<String> {
        let of_customer = self.subscriptions.iter().map(|(_, one)| one);
        let mut missing = of_customer.filter(|one| {
            one.customer_id == customer
                && found
                    .drift
                    .iter()
                    .any(|drift| drift.kind == DriftKind::MissingHere && drift.id == one.id)
        });
        missing.next().map(|one| one.id.clone())
    }
}

fn readable<T>(
    read: Result<T, ShapeError>,
    object: &Value,
    owner: Uuid,
    found: &mut Reconciliation,
) -> Option<T> {
    match read {
        Ok(theirs) => Some(theirs),
        Err(error) => {
            let id = text(object, "id").unwrap_or_else(|| "no id".to_owned());
            let kind = DriftKind::Unreadable;
            found
                .drift
                .push(Drift::new(kind, owner, id, vec![error.to_string()]));
            None
        }
    }
}
