//! What is owed is paid with the card that is chosen: open invoices of subscriptions that
//! are past due or unpaid, and the first one of a trial that paused for want of a card.

use serde_json::{Value, json};

use crate::stripe::client::{Client, ErrorKind, Params, StripeError};
use crate::stripe::requests::Request;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::fetch;

/// What has been paid, and what a bank has refused.
#[derive(Debug, Default)]
pub struct Owed {
    paid: Vec<String>,
    refused: Vec<String>,
    /// The subscriptions concerned.
    subscriptions: Vec<String>,
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

/// Pays what the subscriptions among `all` owe. Each payment has a key of its own, so that
/// whoever goes on after a crash pays nothing twice.
pub async fn pay(client: &Client, request: &Request, all: &[Value]) -> Result<Owed, StripeError> {
    let mut owed = Owed::default();
    for subscription in all {
        let id = subscription["id"].as_str().unwrap_or_default();
        match subscription["status"].as_str() {
            Some("past_due" | "unpaid") => {
                pay_invoices(client, request, id, &mut owed).await?;
            }
            Some("paused") => resume(client, request, id, &mut owed).await?,
            _ => continue,
        }
        owed.subscriptions.push(id.to_owned());
    }
    Ok(owed)
}

/// The oldest first: of several, Stripe looks at the newest.
async fn pay_invoices(
    client: &Client,
    request: &Request,
    subscription: &str,
    owed: &mut Owed,
) -> Result<(), StripeError> {
    let open = client.open_invoices(subscription).await?;
    let charged = |one: &&Value| one["collection_method"] != "send_invoice";
    for invoice in open.iter().rev().filter(charged) {
        let id = invoice["id"].as_str().unwrap_or_default();
        let key = request.key_of(&format!("pay-{id}"));
        let paid = client.pay_invoice(id, &key).await.map(drop);
        match outcome(paid)? {
            Outcome::Paid => owed.paid.push(id.to_owned()),
            Outcome::Refused => owed.refused.push(id.to_owned()),
            Outcome::Gone => {}
        }
    }
    Ok(())
}

async fn resume(
    client: &Client,
    request: &Request,
    subscription: &str,
    owed: &mut Owed,
) -> Result<(), StripeError> {
    let params = Params::new().set("billing_cycle_anchor", "now");
    let key = request.key_of(&format!("resume-{subscription}"));
    let resumed = client.resume_subscription(subscription, &params, &key);
    match outcome(resumed.await.map(drop))? {
        Outcome::Refused => owed.refused.push(subscription.to_owned()),
        Outcome::Paid | Outcome::Gone => {}
    }
    Ok(())
}

impl Subscriptions {
    /// Mirrors the subscriptions concerned at once, so that who has paid has access. Where
    /// that fails, the webhooks tell it.
    pub(super) async fn show_paid(&self, client: &Client, request: &Request, owed: &Owed) {
        for id in &owed.subscriptions {
            let shown = async {
                let snapshot = fetch(client, id).await.map_err(Failure::Stripe)?;
                self.mirror_snapshot(request.organization_id, snapshot, None)
                    .await
            };
            if let Err(failure) = shown.await {
                tracing::warn!(
                    organization_id = %request.organization_id, subscription_id = id, %failure,
                    "A subscription whose invoices were paid could not be mirrored"
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
