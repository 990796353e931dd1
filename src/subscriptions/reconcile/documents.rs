//! Compares invoices, with their lines and payments, and payment methods with Stripe's.
//!
//! A difference is healed through the projection, with an event made from the
//! object's current state in Stripe.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::status::InvoiceStatus;
use serde_json::{Value, json};
use uuid::Uuid;

use super::store::{self, Mirrored};
use super::{BothSides, Drift, DriftKind, Healing, Reconciliation, compare};
use crate::db::WorkerTx;
use crate::event_log::StoredEvent;
use crate::projection::{self, Batch, Context, Handled, UnknownCustomers};
use crate::stripe::account::Account;
use crate::stripe::client::{Client, ErrorKind, Response};
use crate::stripe::objects::{Invoice, InvoicePayment, PaymentMethod, Subscription};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::{StripeSnapshot, snapshot};

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
        let mirrored = store::invoices(tx.conn(), &listed, true).await?;
        let methods = store::payment_methods(tx.conn(), None).await?;
        tx.rollback().await?;
        let unlisted = self
            .open_invoices(client, &mirrored, &listed, found)
            .await?;
        for object in invoices.iter().chain(&unlisted) {
            self.invoice(client, object, both, &mirrored, healing, found)
                .await?;
        }
        self.methods(client, both, subscriptions, &methods, healing, found)
            .await
    }

    /// Compares one invoice.
    pub(super) async fn invoice(
        &self,
        client: &Client,
        object: &Value,
        both: &BothSides,
        mirrored: &BTreeMap<String, Mirrored>,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let Some(owner) = owner(object, both) else {
            return Ok(());
        };
        let Some((theirs, payments)) = whole_invoice(client, object, owner, found).await? else {
            return Ok(());
        };
        let stored = mirrored.get(&theirs.id);
        let differences = match stored {
            Some(ours) => compare::invoices(ours, &theirs, &payments),
            // Drafts are not mirrored.
            None if theirs.status == Some(InvoiceStatus::Draft) => return Ok(()),
            None => vec![format!(
                "status: none, {}",
                theirs.status.as_ref().map_or("none", InvoiceStatus::as_str)
            )],
        };
        if differences.is_empty() {
            return Ok(());
        }
        let owner = stored.map_or(owner, |ours| ours.organization_id);
        let mut drift = Drift::new(DriftKind::Invoice, owner, &theirs.id, differences);
        if healing.apply {
            let healed = self.heal_invoice(client, &theirs.id, &payments).await;
            drift.set_healed(healed)?;
        }
        add_to_missing(found, theirs.subscription_id.as_deref(), drift);
        Ok(())
    }

    /// Fetches the invoices that are open here and too old to be listed.
    async fn open_invoices(
        &self,
        client: &Client,
        mirrored: &BTreeMap<String, Mirrored>,
        listed: &[&str],
        found: &mut Reconciliation,
    ) -> Result<Vec<Value>, Failure> {
        let listed: BTreeSet<&str> = listed.iter().copied().collect();
        let mut shown = Vec::new();
        for (id, ours) in mirrored {
            if ours.text("status") != "open" || listed.contains(id.as_str()) {
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
                Err(error) => {
                    found.shown::<()>(ours.organization_id, id, Err(error))?;
                }
            }
        }
        Ok(shown)
    }

    pub(super) async fn methods(
        &self,
        client: &Client,
        both: &BothSides,
        subscriptions: &[(Uuid, Subscription)],
        mirrored: &BTreeMap<String, Mirrored>,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        // One call per customer: those that pay, and those with a payment method
        // here.
        let paying = subscriptions
            .iter()
            .map(|(_, one)| one.customer_id.as_str());
        let attached_here = |one: &&Mirrored| one.text("status") == "attached";
        let here = mirrored.values().filter(attached_here);
        let here = here.map(|one| one.text("stripe_customer_id"));
        let customers: BTreeSet<&str> = paying.chain(here).collect();
        let shown = shown_methods(client, both, customers, found).await?;
        for (owner, customer, theirs) in &shown.attached {
            let differences = match mirrored.get(&theirs.id) {
                Some(ours) => compare::payment_methods(ours, theirs),
                None => vec!["status: none, attached".to_owned()],
            };
            if differences.is_empty() {
                continue;
            }
            let mut drift = Drift::new(DriftKind::PaymentMethod, *owner, &theirs.id, differences);
            if healing.apply {
                drift.set_healed(self.heal_method(client, &theirs.id, customer).await)?;
            }
            let subscription = subscriptions.iter().map(|(_, one)| one);
            let mut subscription = subscription.filter(|one| one.customer_id == *customer);
            add_to_missing(found, subscription.next().map(|one| &*one.id), drift);
        }
        for (id, ours) in mirrored {
            let customer = ours.text("stripe_customer_id");
            let is_known = both.existing(customer).is_some() && !shown.unseen.contains(customer);
            if !attached_here(&ours) || shown.ids.contains(id) || !is_known {
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

    /// Mirrors the invoice and its payments.
    async fn heal_invoice(
        &self,
        client: &Client,
        id: &str,
        payments: &[InvoicePayment],
    ) -> Result<bool, Failure> {
        let response = client.invoice_now(id).await.map_err(Failure::Stripe)?;
        let mut healed = self
            .apply_response(client, "invoice.updated", response, json!({}))
            .await?;
        let paid = payments.iter();
        for payment in paid.filter(|payment| payment.status.as_deref() == Some("paid")) {
            let response = client.invoice_payment(&payment.id).await;
            let response = response.map_err(Failure::Stripe)?;
            healed &= self
                .apply_response(client, "invoice_payment.paid", response, json!({}))
                .await?;
        }
        Ok(healed)
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
        let shown = snapshot(client, Uuid::now_v7(), response).await;
        let shown = shown.map_err(Failure::Stripe)?;
        let answer = Answer::of(event_type, shown, previous);
        let applied = self.apply_answers(&[&answer]).await?;
        let applied = applied.into_iter().next().unwrap_or(Ok(false));
        applied.map_err(Failure::Unrecoverable)
    }

    /// Has the projection apply answers of Stripe as if they were events, in one
    /// transaction. Of each, whether it was newer than what is mirrored, or why it cannot be
    /// applied.
    pub(in crate::subscriptions) async fn apply_answers(
        &self,
        answers: &[&Answer],
    ) -> Result<Vec<Result<bool, String>>, sqlx::Error> {
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
        let events: Vec<&StoredEvent> = answers.iter().map(|answer| &answer.0).collect();
        let applied = projection::apply(tx.conn(), &context, &events, &mut batch).await?;
        let results = applied.results.iter().map(|result| match result {
            Ok(handled) => Ok(matches!(handled, Handled::Applied(_))),
            Err(error) => Err(error.to_string()),
        });
        let results: Vec<Result<bool, String>> = results.collect();
        if results.contains(&Ok(true)) {
            tx.commit().await?;
            applied.count();
        }
        Ok(results)
    }
}

/// What Stripe showed of an object, as the event that would tell of it.
pub(in crate::subscriptions) struct Answer(StoredEvent);

impl Answer {
    pub(in crate::subscriptions) fn of(
        event_type: &str,
        shown: StripeSnapshot,
        previous: Value,
    ) -> Self {
        Self(StoredEvent {
            bucket: 0,
            id: format!("request:{}", Uuid::now_v7()),
            event_type: event_type.to_owned(),
            api_version: None,
            livemode: shown.object["livemode"].as_bool().unwrap_or(false),
            account: None,
            created: shown.at,
            payload: json!({"data": {"object": shown.object, "previous_attributes": previous}})
                .to_string(),
        })
    }
}

/// The payment methods that Stripe shows.
#[derive(Default)]
struct ShownMethods<'a> {
    /// Each with its owner and customer.
    attached: Vec<(Uuid, &'a str, PaymentMethod)>,
    /// Also of those that cannot be read.
    ids: BTreeSet<String>,
    /// The customers whose methods Stripe does not show.
    unseen: BTreeSet<&'a str>,
}

async fn shown_methods<'a>(
    client: &Client,
    both: &BothSides,
    customers: BTreeSet<&'a str>,
    found: &mut Reconciliation,
) -> Result<ShownMethods<'a>, Failure> {
    let mut shown = ShownMethods::default();
    for customer in customers {
        let Some(owned) = both.existing(customer) else {
            continue;
        };
        // Its cards are not to come back.
        if owned.erased {
            continue;
        }
        let owner = owned.organization_id;
        let attached = match client.attached(customer).await {
            // A missing customer is a finding of its own.
            Err(error) if error.kind == ErrorKind::NotFound => continue,
            attached => found.shown(owner, customer, attached)?,
        };
        let Some(attached) = attached else {
            shown.unseen.insert(customer);
            continue;
        };
        for object in &attached {
            let id = object["id"].as_str().unwrap_or(customer).to_owned();
            match PaymentMethod::read(object, None) {
                Ok(theirs) => shown.attached.push((owner, customer, theirs)),
                Err(error) => {
                    let reason = vec![error.to_string()];
                    found.add(DriftKind::Unreadable, owner, &id, reason);
                }
            }
            shown.ids.insert(id);
        }
    }
    Ok(shown)
}

fn owner(invoice: &Value, both: &BothSides) -> Option<Uuid> {
    let customer = &invoice["customer"];
    both.owner(customer.as_str().or_else(|| customer["id"].as_str())?)
}

/// An invoice with all of its lines, and its payments.
async fn whole_invoice(
    client: &Client,
    object: &Value,
    owner: Uuid,
    found: &mut Reconciliation,
) -> Result<Option<(Invoice, Vec<InvoicePayment>)>, Failure> {
    let id = object["id"].as_str().unwrap_or_default();
    let fetched = if object["lines"]["has_more"] == true {
        let response = client.invoice_now(id).await;
        let Some(response) = found.shown(owner, id, response)? else {
            return Ok(None);
        };
        Some(response.body)
    } else {
        None
    };
    let payments = object["payments"]["data"].as_array().into_iter().flatten();
    let payments: Result<Vec<InvoicePayment>, _> = payments.map(InvoicePayment::read).collect();
    match (Invoice::read(fetched.as_ref().unwrap_or(object)), payments) {
        (Ok(invoice), Ok(payments)) => Ok(Some((invoice, payments))),
        (Err(error), _) | (_, Err(error)) => {
            found.add(DriftKind::Unreadable, owner, id, vec![error.to_string()]);
            Ok(None)
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
