//! What was billed and paid, and with what.

use std::collections::BTreeSet;

use billing_domain::status::InvoiceStatus;
use futures_util::StreamExt as _;
use serde_json::Value;

use super::mirrored::{PAYMENT, Shown};
use super::scan::customer_of;
use super::{Work, store};
use crate::db::WorkerTx;
use crate::stripe::client::{AccountList, Client, ErrorKind, Page, StripeError};
use crate::stripe::objects::{
    Charge, Dispute, Invoice, InvoicePayment, PaymentMethod, Refund, ShapeError,
};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::reconcile::{
    charge_event, compare, dispute_event, refund_event, store as ours,
};

/// Customers at once whose payment methods are asked for.
const CUSTOMERS: i64 = 100;
/// Calls that are under way side by side; the client's pace says how fast they begin.
const SIDE_BY_SIDE: usize = 8;

impl Work<'_> {
    /// Stripe lists payment methods by customer only.
    pub(super) async fn payment_methods(&mut self) -> Result<Option<String>, Failure> {
        let after = self.import.cursor.as_deref();
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let customers = store::customers_after(tx.conn(), after, CUSTOMERS).await?;
        let ids: Vec<&str> = customers.iter().map(|(id, _)| id.as_str()).collect();
        let mirrored = ours::payment_methods(tx.conn(), Some(&ids)).await?;
        tx.rollback().await?;
        let client = self.client;
        let asking = ids
            .iter()
            .map(|customer| async move { (*customer, attached(client, customer).await) });
        let answers: Vec<_> = futures_util::stream::iter(asking)
            .buffered(SIDE_BY_SIDE)
            .collect()
            .await;
        let (mut seen, mut at, mut shown) = (0, None, Vec::new());
        for (customer, answer) in answers {
            let attached = match answer {
                Ok(page) => {
                    // The first answer's: whatever is newer stands.
                    at = at.into_iter().chain(page.at).min();
                    page.objects
                }
                // `reconcile` tells of customers that are gone.
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => {
                    self.failed(customer, customer, Failure::Stripe(error))?;
                    continue;
                }
            };
            seen += attached.len();
            for object in attached {
                let id = object["id"].as_str().unwrap_or_default();
                let Some(theirs) = self.readable(PaymentMethod::read(&object, None), &object)
                else {
                    continue;
                };
                let same = mirrored.get(id);
                let same =
                    same.is_some_and(|ours| compare::payment_methods(ours, &theirs).is_empty());
                if !same {
                    shown.push(Shown::of("payment_method.attached", object));
                }
            }
        }
        let written = self.apply(at, shown).await?;
        self.count("payment_methods", seen, written);
        let last = customers.last().map(|(id, _)| id.clone());
        Ok(last.filter(|_| customers.len() as i64 == CUSTOMERS))
    }

    pub(super) async fn invoices(
        &mut self,
        list: AccountList<'_>,
    ) -> Result<Option<String>, Failure> {
        let page = self.read(list).await?;
        let owned = self.owned(&page.objects).await?;
        let ids = ids_of(&owned);
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let mirrored = ours::invoices(tx.conn(), &ids, false).await?;
        tx.rollback().await?;
        let mut shown = Vec::new();
        for object in owned {
            let Some(object) = self.whole_invoice(object).await? else {
                continue;
            };
            let payments = object["payments"]["data"].as_array().into_iter().flatten();
            let paid: Vec<&Value> = payments.filter(|one| one["status"] == "paid").collect();
            let read: Result<Vec<_>, _> =
                paid.iter().map(|one| InvoicePayment::read(one)).collect();
            let Some(payments) = self.readable(read, &object) else {
                continue;
            };
            let Some(theirs) = self.readable(Invoice::read(&object), &object) else {
                continue;
            };
            let other = match mirrored.get(&theirs.id) {
                Some(ours) => !compare::invoices(ours, &theirs, &payments).is_empty(),
                // Drafts are not mirrored.
                None => theirs.status != Some(InvoiceStatus::Draft),
            };
            if other {
                let paid = paid.into_iter().cloned();
                let paid: Vec<Shown> = paid.map(|payment| Shown::of(PAYMENT, payment)).collect();
                shown.push(Shown::of("invoice.updated", object));
                shown.extend(paid);
            }
        }
        let written = self.apply(page.at, shown).await?;
        self.count(self.import.phase.as_str(), page.objects.len(), written);
        Ok(page.next)
    }

    /// An invoice with all of its lines.
    async fn whole_invoice(&mut self, object: &Value) -> Result<Option<Value>, Failure> {
        if object["lines"]["has_more"] != true {
            return Ok(Some(object.clone()));
        }
        let id = object["id"].as_str().unwrap_or_default();
        match self.client.invoice_now(id).await {
            Ok(response) => Ok(Some(response.body)),
            Err(error) => {
                let customer = customer_of(object).unwrap_or_default();
                self.failed(customer, id, Failure::Stripe(error))?;
                Ok(None)
            }
        }
    }

    pub(super) async fn charges(&mut self) -> Result<Option<String>, Failure> {
        let page = self
            .read(AccountList::Charges(self.import.terms.since))
            .await?;
        let owned = self.owned(&page.objects).await?;
        let ids: Vec<String> = ids_of(&owned).into_iter().map(str::to_owned).collect();
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let mirrored = ours::charges(tx.conn(), &ids).await?;
        tx.rollback().await?;
        let mut shown = Vec::new();
        for object in owned {
            let Some(theirs) = self.readable(Charge::read(object), object) else {
                continue;
            };
            let other = match mirrored.get(&theirs.id) {
                Some(ours) => !compare::charges(ours, &theirs).is_empty(),
                // No event has been sent for it yet.
                None => theirs.status != "pending",
            };
            if other {
                shown.push(Shown::of(charge_event(object), object.clone()));
            }
        }
        let written = self.apply(page.at, shown).await?;
        self.count("charges", page.objects.len(), written);
        Ok(page.next)
    }

    pub(super) async fn refunds(&mut self) -> Result<Option<String>, Failure> {
        let page = self
            .read(AccountList::Refunds(self.import.terms.since))
            .await?;
        let owned = self.of_charges(&page.objects).await?;
        let ids: Vec<String> = ids_of(&owned).into_iter().map(str::to_owned).collect();
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let mirrored = ours::refunds(tx.conn(), &ids).await?;
        tx.rollback().await?;
        let mut shown = Vec::new();
        for object in owned {
            let Some(theirs) = self.readable(Refund::read(object), object) else {
                continue;
            };
            let other = match mirrored.get(&theirs.id) {
                Some(ours) => !compare::refunds(ours, &theirs).is_empty(),
                None => true,
            };
            if other {
                shown.push(Shown::of(refund_event(object), object.clone()));
            }
        }
        let written = self.apply(page.at, shown).await?;
        self.count("refunds", page.objects.len(), written);
        Ok(page.next)
    }

    pub(super) async fn disputes(&mut self) -> Result<Option<String>, Failure> {
        let page = self
            .read(AccountList::Disputes(self.import.terms.since))
            .await?;
        let owned = self.of_charges(&page.objects).await?;
        let ids: Vec<String> = ids_of(&owned).into_iter().map(str::to_owned).collect();
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let mirrored = ours::disputes(tx.conn(), &ids, false).await?;
        tx.rollback().await?;
        let mut shown = Vec::new();
        for object in owned {
            let Some(theirs) = self.readable(Dispute::read(object), object) else {
                continue;
            };
            let same = mirrored.get(&theirs.id);
            if !same.is_some_and(|ours| compare::disputes(ours, &theirs).is_empty()) {
                shown.push(Shown::of(dispute_event(&theirs), object.clone()));
            }
        }
        let written = self.apply(page.at, shown).await?;
        self.count("disputes", page.objects.len(), written);
        Ok(page.next)
    }

    /// Those of customers of organizations.
    async fn owned<'o>(&self, objects: &'o [Value]) -> Result<Vec<&'o Value>, Failure> {
        let owners = self.owners(objects).await?;
        let known = |object: &&Value| customer_of(object).is_some_and(|id| owners.contains_key(id));
        Ok(objects.iter().filter(known).collect())
    }

    /// Those of charges that are mirrored. Older charges are brought first.
    async fn of_charges<'o>(&mut self, objects: &'o [Value]) -> Result<Vec<&'o Value>, Failure> {
        let charges: BTreeSet<String> = objects.iter().filter_map(charge_of).collect();
        let charges = Vec::from_iter(charges);
        let mut tx = WorkerTx::begin(&self.subscriptions.pool).await?;
        let mut known: BTreeSet<String> = ours::charges(tx.conn(), &charges)
            .await?
            .into_keys()
            .collect();
        tx.rollback().await?;
        let missing = charges.iter().filter(|id| !known.contains(*id));
        for id in missing.cloned().collect::<Vec<_>>() {
            let response = match self.client.charge(&id).await {
                Ok(response) => response,
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => {
                    self.failed("", &id, Failure::Stripe(error))?;
                    continue;
                }
            };
            let object = [response.body];
            if !self.owned(&object).await?.is_empty() {
                let [object] = object;
                let event = charge_event(&object);
                self.apply(response.date, vec![Shown::of(event, object)])
                    .await?;
                known.insert(id);
            }
        }
        let is_known = |object: &&Value| charge_of(object).is_some_and(|id| known.contains(&id));
        Ok(objects.iter().filter(is_known).collect())
    }

    fn readable<T>(&mut self, read: Result<T, ShapeError>, object: &Value) -> Option<T> {
        match read {
            Ok(theirs) => Some(theirs),
            Err(error) => {
                let customer = customer_of(object).unwrap_or_default().to_owned();
                let id = object["id"].as_str().unwrap_or_default();
                self.find_failed(&customer, format!("{id}: {error}"));
                None
            }
        }
    }
}

/// All payment methods of a customer, as of the first answer.
async fn attached(client: &Client, customer: &str) -> Result<Page, StripeError> {
    let list = AccountList::PaymentMethods(customer);
    let mut all = client.page(list, None).await?;
    while let Some(next) = all.next.take() {
        let page = client.page(list, Some(&next)).await?;
        all.objects.extend(page.objects);
        all.next = page.next;
    }
    Ok(all)
}

fn ids_of<'o>(objects: &[&'o Value]) -> Vec<&'o str> {
    objects
        .iter()
        .filter_map(|one| one["id"].as_str())
        .collect()
}

/// The charge of a refund or dispute, which may be expanded.
fn charge_of(object: &Value) -> Option<String> {
    let charge = &object["charge"];
    let id = charge.as_str().or_else(|| charge["id"].as_str());
    id.map(str::to_owned)
}
