//! What is owed is paid with the card that is chosen: open invoices of subscriptions that
//! are past due or unpaid, and the first one of a trial that paused for want of a card.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::stripe::client::{Client, ErrorKind, Params, StripeError};
use crate::stripe::requests::{self, Request};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::fetch;

/// Where a request keeps what is to be paid, by subscription.
const NOTED: &str = "owed";

/// What has been paid, and what a bank has refused.
#[derive(Debug, Default)]
pub struct Owed {
    paid: Vec<String>,
    refused: Vec<String>,
    /// The subscriptions that owed something.
    subscriptions: BTreeSet<String>,
    /// Those that are to be mirrored.
    concerned: BTreeSet<String>,
}

impl Owed {
    pub fn shown(&self) -> Option<Value> {
        let any = !self.subscriptions.is_empty();
        any.then(|| {
            json!({
                "paid": self.paid,
                "refused": self.refused,
                "subscriptions": self.subscriptions,
            })
        })
    }

    pub const fn has_paid(&self) -> bool {
        !self.paid.is_empty()
    }

    /// Lets a subscription that was changed be mirrored.
    pub fn concerns(&mut self, subscription: &Value) {
        self.concerned.extend(id_of(subscription));
    }

    fn owes(&mut self, subscription: &str) {
        self.subscriptions.insert(subscription.to_owned());
        self.concerned.insert(subscription.to_owned());
    }
}

fn id_of(object: &Value) -> Option<String> {
    object["id"].as_str().map(str::to_owned)
}

/// How Stripe answered.
enum Outcome {
    Paid,
    Refused,
    /// There was nothing to pay any more.
    Gone,
}

fn outcome(called: Result<(), StripeError>) -> Result<Outcome, StripeError> {
    match called {
        Ok(()) => Ok(Outcome::Paid),
        Err(error) => match error.kind {
            ErrorKind::Card | ErrorKind::AuthenticationRequired => Ok(Outcome::Refused),
            ErrorKind::InvalidRequest | ErrorKind::NotFound => Ok(Outcome::Gone),
            _ => Err(error),
        },
    }
}

/// The open invoices of subscriptions, each oldest first: of several, Stripe looks at the
/// newest.
type Debts = BTreeMap<String, Vec<String>>;

async fn open_debts(client: &Client, all: &[Value]) -> Result<Debts, StripeError> {
    let mut debts = Debts::new();
    for subscription in all {
        let late = matches!(subscription["status"].as_str(), Some("past_due" | "unpaid"));
        let Some(id) = id_of(subscription).filter(|_| late) else {
            continue;
        };
        let open = client.open_invoices(&id).await?;
        let charged = |one: &&Value| one["collection_method"] != "send_invoice";
        let invoices = open.iter().rev().filter(charged).filter_map(id_of);
        debts.insert(id, invoices.collect());
    }
    Ok(debts)
}

impl Subscriptions {
    /// Pays what the subscriptions among `all` owe. Each payment has a key of its own, so
    /// that whoever goes on after a crash pays nothing twice; what is to be paid is noted
    /// first, so that they know what was.
    pub(super) async fn pay_owed(
        &self,
        client: &Client,
        request: &Request,
        (all, method): (&[Value], &str),
        owed: &mut Owed,
    ) -> Result<(), Failure> {
        let debts = open_debts(client, all).await.map_err(Failure::Stripe)?;
        if debts.values().any(|invoices| !invoices.is_empty()) {
            let mut noted = noted(request)?;
            for (subscription, invoices) in &debts {
                let known = noted.entry(subscription.clone()).or_default();
                known.extend(invoices.iter().cloned());
                known.sort_unstable();
                known.dedup();
            }
            requests::note(&self.pool, request, &json!({NOTED: noted})).await?;
        }
        for (subscription, invoices) in &debts {
            owed.owes(subscription);
            for invoice in invoices {
                let key = request.key_of(&format!("charge-{invoice}"));
                let paid = client.pay_invoice(invoice, method, &key).await;
                match outcome(paid.map(drop)).map_err(Failure::Stripe)? {
                    Outcome::Paid => owed.paid.push(invoice.clone()),
                    Outcome::Refused => owed.refused.push(invoice.clone()),
                    Outcome::Gone => {}
                }
            }
        }
        let paused = all.iter().filter(|one| one["status"] == "paused");
        for id in paused.filter_map(id_of) {
            owed.owes(&id);
            let resumed = resume(client, request, &id).await;
            if let Outcome::Refused = resumed.map_err(Failure::Stripe)? {
                owed.refused.push(id);
            }
        }
        Ok(())
    }

    /// Finds what was paid of what was noted, before an answer was lost: it is not open any
    /// more.
    pub(super) async fn paid_before(
        &self,
        client: &Client,
        request: &Request,
        owed: &mut Owed,
    ) -> Result<(), Failure> {
        for (subscription, invoices) in noted(request)? {
            for invoice in invoices {
                let shown = match client.invoice_now(&invoice).await {
                    Ok(shown) => shown.body,
                    Err(error) if error.kind == ErrorKind::NotFound => continue,
                    Err(error) => return Err(Failure::Stripe(error)),
                };
                if shown["status"] == "paid" {
                    owed.paid.push(invoice);
                }
            }
            owed.owes(&subscription);
        }
        Ok(())
    }
}

fn noted(request: &Request) -> Result<Debts, Failure> {
    match &request.context[NOTED] {
        Value::Null => Ok(Debts::new()),
        noted => serde_json::from_value(noted.clone())
            .map_err(|_| Failure::Unexpected("what a request was to pay cannot be read")),
    }
}

async fn resume(
    client: &Client,
    request: &Request,
    subscription: &str,
) -> Result<Outcome, StripeError> {
    let params = Params::new().set("billing_cycle_anchor", "now");
    let key = request.key_of(&format!("resume-{subscription}"));
    let resumed = client.resume_subscription(subscription, &params, &key);
    outcome(resumed.await.map(drop))
}

impl Subscriptions {
    /// Mirrors the subscriptions concerned at once, so that who has paid has access. Where
    /// that fails, the webhooks tell it.
    pub(super) async fn show_paid(&self, client: &Client, request: &Request, owed: &Owed) {
        for id in &owed.concerned {
            let shown = async {
                let snapshot = fetch(client, id).await.map_err(Failure::Stripe)?;
                self.mirror_snapshot(request.organization_id, snapshot, None)
                    .await
            };
            if let Err(failure) = shown.await {
                tracing::warn!(
                    organization_id = %request.organization_id, subscription_id = id, %failure,
                    "A subscription that is charged to another card could not be mirrored"
                );
            }
        }
    }

    /// Mirrors the subscription as it is in Stripe: what was paid before an answer was lost
    /// is not owed any more, and shows in nothing else.
    pub(super) async fn show_paid_before(&self, client: &Client, request: &Request) {
        let organization_id = request.organization_id;
        if let Err(failure) = self.refresh_from_stripe(client, organization_id).await {
            tracing::warn!(
                %organization_id, %failure,
                "A subscription whose card was changed could not be mirrored"
            );
        }
    }
}
