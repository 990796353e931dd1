//! The invoice of a change that waits for its payer: whether the change may wait for it, and
//! how it is made void. Stripe voids no invoice that is paid, so it is made void before
//! anything is taken away.

use serde_json::Value;
use uuid::Uuid;

use billing_domain::status::SubscriptionStatus;

use super::record::{ChangeKind, ChangeRecord};
use super::saga::Requester;
use crate::stripe::client::{Client, ErrorKind, Params, Response, StripeError};
use crate::stripe::requests::Request;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::awaited::{AwaitedChange, awaited_change_id, find_invoice};
use crate::subscriptions::command::{ChangeRejection, StripeAction};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::{StripePresence, StripeSnapshot, fetch};
use crate::subscriptions::state::SubscriptionState;

/// How a change deals with payments that wait.
pub struct Payment {
    /// Whether it may wait for its payer.
    pub may_wait: bool,
    /// The invoice that nobody is to pay once it is made.
    pub voids: Option<String>,
}

enum Voided {
    Invoice(String),
    Nothing,
    /// It is not open any more: decide again.
    Gone,
}

fn has_ended(subscription: &Value) -> bool {
    let status = subscription["status"].as_str();
    status.is_some_and(|status| SubscriptionStatus::from(status).is_ended())
}

/// Whether a subscription that was to end has ended with the invoice that was made void.
pub fn ended_unpaid(subscription: &Value, change: &ChangeRecord) -> bool {
    change.kind == ChangeKind::EndNow && change.voids.is_some() && has_ended(subscription)
}

async fn void(client: &Client, invoice: &str, key: &str) -> Result<(), StripeError> {
    match client.void_invoice(invoice, key).await {
        Err(error) if error.kind == ErrorKind::InvalidRequest => {
            let now = client.invoice_to_confirm(invoice).await?.body;
            match now["status"] == "void" {
                true => Ok(()),
                false => Err(error),
            }
        }
        made => made.map(drop),
    }
}

/// Voids the invoice that a subscription waits for, and ends the subscription. One that is
/// paid is not ended: what was paid for decides anew.
pub async fn end(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<Response, StripeError> {
    let id = request.target_id.as_deref().unwrap_or_default();
    if let Some(invoice) = change.voids.as_deref() {
        void(client, invoice, &request.key_of("void")).await?;
        // With its first invoice, Stripe has ended it.
        let now = client.subscription(id).await?;
        if has_ended(&now.body) {
            return Ok(now);
        }
    }
    let key = request.key();
    client.cancel_subscription(id, &request.params, &key).await
}

/// Voids the invoice that a change calls off. Returns the subscription.
pub async fn withdraw(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<Response, StripeError> {
    let invoice = change.voids.as_deref().unwrap_or_default();
    void(client, invoice, &request.key()).await?;
    let id = request.target_id.as_deref().unwrap_or_default();
    let made = client.subscription(id).await;
    made.map_err(StripeError::after_acting)
}

/// The subscription, if the invoice of the change that is called off is void.
pub async fn find_withdrawn(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<Option<StripeSnapshot>, StripeError> {
    let (Some(invoice), Some(id)) = (&change.voids, &request.target_id) else {
        return Ok(None);
    };
    let invoice = client.invoice_to_confirm(invoice).await?.body;
    match invoice["status"] == "void" {
        true => fetch(client, id).await.map(Some),
        false => Ok(None),
    }
}

/// Why a change that Stripe lets wait must not: its invoice comes to another amount than was
/// shown, or the card was declined when it was asked once more. Then nothing of it is left.
pub async fn refused(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
    made: &Value,
) -> Result<Option<Failure>, StripeError> {
    let is_first = change.kind == ChangeKind::Create && made["status"] == "incomplete";
    let waits = awaited_change_id(made) == Some(&*change.id.to_string());
    let Some(id) = made["id"].as_str().filter(|_| is_first || waits) else {
        return Ok(None);
    };
    // One that is not open was paid meanwhile, or is void.
    let Some(invoice) = find_invoice(client, id, is_first).await? else {
        return Ok(None);
    };
    let failure = match costs_as_shown(change, &invoice) {
        false => Failure::Stale("Stripe's invoice comes to another amount than was shown"),
        true => match declined(client, &invoice).await? {
            Some(error) => Failure::Stripe(error),
            None => return Ok(None),
        },
    };
    let void_id = invoice["id"].as_str().unwrap_or_default();
    void(client, void_id, &request.key_of("void")).await?;
    if is_first && !has_ended(&client.subscription(id).await?.body) {
        let key = request.key_of("end");
        client.cancel_subscription(id, &Params::new(), &key).await?;
    }
    Ok(Some(failure))
}

fn costs_as_shown(change: &ChangeRecord, invoice: &Value) -> bool {
    let shown = &change.command["preview"];
    shown.is_null()
        || (shown["dueNowAmount"] == invoice["total"] && shown["currency"] == invoice["currency"])
}

/// The payment of an invoice that is to be confirmed.
async fn intent_of(client: &Client, invoice: &Value) -> Result<Value, StripeError> {
    let secret = invoice["confirmation_secret"]["client_secret"].as_str();
    match secret.and_then(|secret| secret.split_once("_secret_")) {
        Some((intent, _)) => Ok(client.payment_intent(intent).await?.body),
        None => Ok(Value::Null),
    }
}

async fn declined(client: &Client, invoice: &Value) -> Result<Option<StripeError>, StripeError> {
    let intent = intent_of(client, invoice).await?;
    Ok(match intent["status"] == "requires_payment_method" {
        true => StripeError::of_declined(&intent["last_payment_error"]),
        false => None,
    })
}

impl Subscriptions {
    /// How `action` deals with payments that wait; `None` if what it was decided by is out
    /// of date.
    pub(super) async fn payment(
        &self,
        client: &Client,
        requester: &Requester,
        state: &SubscriptionState,
        action: &StripeAction<'_>,
        promotion_code: Option<&str>,
    ) -> Result<Option<Payment>, Failure> {
        let organization_id = requester.organization_id;
        let voided = self.find_voided(client, organization_id, state, action);
        let voids = match voided.await? {
            Voided::Gone => return Ok(None),
            Voided::Nothing => None,
            Voided::Invoice(id) => Some(id),
        };
        let may_wait = requester.payer_acts
            && promotion_code.is_none()
            && self.may_wait(client, organization_id, action).await?;
        Ok(Some(Payment { may_wait, voids }))
    }

    /// The open invoice that is void once `action` is taken, as Stripe has it now.
    async fn find_voided(
        &self,
        client: &Client,
        organization_id: Uuid,
        state: &SubscriptionState,
        action: &StripeAction<'_>,
    ) -> Result<Voided, Failure> {
        let (StripeAction::Withdraw { subscription, .. }
        | StripeAction::EndNow { subscription, .. }) = action
        else {
            return Ok(Voided::Nothing);
        };
        let Some(awaited) = &subscription.awaited else {
            return Ok(Voided::Nothing);
        };
        let found = find_invoice(client, &subscription.id, awaited.is_first).await;
        if let Some(invoice) = found.map_err(Failure::Stripe)? {
            let intent = intent_of(client, &invoice).await;
            if intent.map_err(Failure::Stripe)?["status"] == "processing" {
                return Err(ChangeRejection::PaymentProcessing.into());
            }
            let id = invoice["id"].as_str().unwrap_or_default();
            return Ok(Voided::Invoice(id.to_owned()));
        }
        // It may be paid, and its webhook under way.
        let withdraws = matches!(action, StripeAction::Withdraw { .. });
        match self.refresh_from_stripe(client, organization_id).await? {
            StripePresence::Missing(id) if withdraws => {
                return Err(Failure::SubscriptionMissing(id));
            }
            StripePresence::Missing(_) => return Ok(Voided::Nothing),
            StripePresence::Present => {}
        }
        let now = self.state(organization_id).await?;
        let id = |one: &AwaitedChange| (one.change_id.clone(), one.is_first);
        match now.awaited().map(id) == state.awaited().map(id) {
            false => Ok(Voided::Gone),
            true if withdraws => Err(ChangeRejection::NothingPending.into()),
            // Stripe may be about to begin what was just paid.
            true if awaited.is_first => Err(Failure::Busy),
            true => Ok(Voided::Nothing),
        }
    }

    /// Whether a change without a promotion code, which Stripe would redeem at once, may wait
    /// for its payer. Stripe puts usage that is due on the invoice that waits, and drops it
    /// with that: beside such usage, a change is paid at once, or not made.
    async fn may_wait(
        &self,
        client: &Client,
        organization_id: Uuid,
        action: &StripeAction<'_>,
    ) -> Result<bool, Failure> {
        match action {
            StripeAction::Create { .. } => Ok(true),
            StripeAction::Switch { subscription, .. } => {
                let now = self.time_of(client, subscription).await?;
                let due = self.usage_due(organization_id, subscription, now, |_| true);
                Ok(due.await?.is_empty())
            }
            _ => Ok(false),
        }
    }
}
