//! Cards: which one is charged, and the end of one. What is asked is entered
//! before Stripe is called, one at a time for an organization, so that two
//! requests never remove the last two cards, and so that what a crash leaves is
//! mirrored afterwards.

mod charged;
mod owed;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::change::record::{Initiator, is_no_longer_in_flight};
use super::change::saga::Requester;
use super::failure::Failure;
use super::mirror::{StripeSnapshot, snapshot};
use super::payer::id_in;
use super::{Subscriptions, store};
use crate::audit::{self, NewEntry};
use crate::db::{RequestTx, TenantTx};
use crate::projection;
use crate::stripe::client::{Client, ErrorKind, Params, StripeError};
use crate::stripe::objects::{Customer, PaymentMethod};
use crate::stripe::requests::{self, Begun, NewRequest, Request, Subject};
use charged::follow_customer;
pub(super) use charged::{is_usable, own_method};
use owed::Owed;

/// How often another act that was left open is settled first.
const ROUNDS: usize = 3;

/// The audit actions of cards.
pub const ACTIONS: [&str; 2] = ["payment_method_default_set", "payment_method_removed"];

/// What is done with a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    MakeDefault,
    Remove,
}

impl Act {
    const fn operation(self) -> &'static str {
        match self {
            Self::MakeDefault => "default",
            Self::Remove => "detach",
        }
    }

    fn of(request: &Request) -> Self {
        match request.operation.as_str() {
            "detach" => Self::Remove,
            _ => Self::MakeDefault,
        }
    }

    const fn action(self) -> &'static str {
        match self {
            Self::MakeDefault => ACTIONS[0],
            Self::Remove => ACTIONS[1],
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CardFailure {
    #[error("the organization has no payment method with this id")]
    NotFound,
    #[error(
        "the subscription has no other payment method that can be charged: add one first, or \
         cancel the subscription"
    )]
    LastOne,
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<sqlx::Error> for CardFailure {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A payment method as Stripe has it, with its customer.
struct Card {
    id: String,
    customer: String,
}

impl Subscriptions {
    /// Has Stripe charge this payment method from now on.
    pub async fn make_default(&self, requester: &Requester, id: &str) -> Result<(), CardFailure> {
        self.act(requester, Act::MakeDefault, id).await
    }

    /// Detaches a payment method from its customer, for good.
    pub async fn remove_card(&self, requester: &Requester, id: &str) -> Result<(), CardFailure> {
        self.act(requester, Act::Remove, id).await
    }

    /// Makes the only payment method of the organization's customer the default, if
    /// there is no default. Returns whether it did.
    pub(super) async fn adopt_only_card(
        &self,
        client: &Client,
        requester: &Requester,
    ) -> Result<bool, Failure> {
        let state = self.state(requester.organization_id).await?;
        let held = state.subscription.map(|held| held.customer_id);
        let Some(customer) = held.or(state.customer_id) else {
            return Ok(false);
        };
        let attached = client.attached(&customer).await.map_err(Failure::Stripe)?;
        let [only] = &attached[..] else {
            return Ok(false);
        };
        let shown = client.customer_now(&customer).await;
        let shown = Customer::read(&shown.map_err(Failure::Stripe)?.body, false)?;
        let id = only["id"].as_str().unwrap_or_default();
        if shown.default_payment_method_id.is_some() || !is_usable(only, Timestamp::now()) {
            return Ok(false);
        }
        match self.act(requester, Act::MakeDefault, id).await {
            Ok(()) => Ok(true),
            Err(CardFailure::Failed(failure)) => Err(failure),
            Err(CardFailure::NotFound | CardFailure::LastOne) => Ok(false),
        }
    }

    /// Whether Stripe has a payment method that it would charge, or that becomes the
    /// default because it is the only one.
    pub(super) async fn has_usable_card(
        &self,
        client: &Client,
        requester: &Requester,
    ) -> Result<bool, Failure> {
        let organization_id = requester.organization_id;
        Ok(self
            .card_to_charge(client, organization_id)
            .await?
            .is_some())
    }

    async fn act(&self, requester: &Requester, act: Act, id: &str) -> Result<(), CardFailure> {
        let organization_id = requester.organization_id;
        // Stripe has other objects with such ids in their paths.
        if !id.starts_with("pm_") {
            return Err(CardFailure::NotFound);
        }
        let Some(client) = &self.stripe else {
            let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
            return Err(match store::has_card(&mut tx, id).await? {
                true => Failure::NotConfigured.into(),
                false => CardFailure::NotFound,
            });
        };
        let card = self.card(client, organization_id, id).await?;
        let initiator = Initiator::new(requester.actor, &requester.client);
        let new = NewRequest {
            subject: Subject::PaymentMethod,
            operation: act.operation(),
            target_id: Some(card.id.clone()),
            params: Params::new().set("customer", &card.customer),
            context: json!({"initiator": initiator}),
        };
        for _ in 0..ROUNDS {
            match requests::begin(&self.pool, organization_id, new.clone()).await? {
                Begun::New(request) => return self.execute_act(client, &request, &card).await,
                Begun::Open(request) => {
                    if !self.settle_card(client, &request, Timestamp::now()).await? {
                        return Err(Failure::Busy.into());
                    }
                }
            }
        }
        Err(Failure::Busy.into())
    }

    /// The payment method, if it is one of the organization's.
    async fn card(
        &self,
        client: &Client,
        organization_id: Uuid,
        id: &str,
    ) -> Result<Card, CardFailure> {
        let shown = match client.payment_method(id).await {
            Ok(response) => response.body,
            Err(error) if error.kind == ErrorKind::NotFound => return Err(CardFailure::NotFound),
            Err(error) => return Err(Failure::Stripe(error).into()),
        };
        let customer = id_in(&shown, "customer").ok_or(CardFailure::NotFound)?;
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        match store::has_customer(&mut tx, &customer).await? {
            true => Ok(Card {
                id: id.to_owned(),
                customer,
            }),
            false => Err(CardFailure::NotFound),
        }
    }

    /// Makes the calls of an open request, and closes it.
    async fn execute_act(
        &self,
        client: &Client,
        request: &Request,
        card: &Card,
    ) -> Result<(), CardFailure> {
        let act = Act::of(request);
        if act == Act::Remove {
            match self.successor(client, request, card).await {
                Ok(()) => {}
                Err(CardFailure::Failed(Failure::Stripe(error))) => {
                    self.abandon_act(client, request, &error, &Owed::default())
                        .await?;
                    return Err(Failure::Stripe(error).into());
                }
                Err(failure) => {
                    self.close_act(request, &failure.to_string()).await?;
                    return Err(failure);
                }
            }
        }
        if !requests::begin_call(&self.pool, request).await? {
            return Err(Failure::Busy.into());
        }
        let mut owed = Owed::default();
        let called = match act {
            Act::MakeDefault => {
                let to = (&*card.customer, &*card.id);
                self.charge_to(client, request, to, &mut owed).await
            }
            Act::Remove => {
                let key = request.key();
                let detached = client.detach_payment_method(&card.id, &key);
                detached.await.map(drop).map_err(Failure::Stripe)
            }
        };
        match called {
            Ok(()) => {
                self.mirror_act(client, request, &owed).await?;
                self.show_paid(client, request, &owed).await;
                Ok(())
            }
            Err(Failure::Stripe(error)) if error.may_have_acted() => {
                Err(Failure::InDoubt(error).into())
            }
            Err(Failure::Stripe(error)) => {
                self.abandon_act(client, request, &error, &owed).await?;
                Err(Failure::Stripe(error).into())
            }
            // It stays open, for the recovery.
            Err(failure) => Err(failure.into()),
        }
    }

    /// Closes an act that Stripe has refused, perhaps half-way: what it did before is
    /// mirrored. An act whose end cannot be read stays open, for the recovery.
    async fn abandon_act(
        &self,
        client: &Client,
        request: &Request,
        error: &StripeError,
        owed: &Owed,
    ) -> Result<(), Failure> {
        let mirrored = self.mirror_act(client, request, owed).await;
        self.show_paid(client, request, owed).await;
        match mirrored {
            Ok(()) => Ok(()),
            Err(Failure::Stripe(unread)) if unread.is_outage() => {
                tracing::warn!(%unread, "What became of a payment method could not be read");
                Ok(())
            }
            // What was paid is entered by the recovery.
            Err(failure) if owed.has_paid() => Err(failure),
            Err(_) => Ok(self.close_act(request, &error.to_string()).await?),
        }
    }

    /// Settles an act that was left open. Returns false if its outcome is still unknown.
    pub(super) async fn settle_card(
        &self,
        client: &Client,
        request: &Request,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        if !is_no_longer_in_flight(request, now) {
            return Ok(false);
        }
        match self.go_on(client, request).await {
            Err(Failure::Stripe(error)) if error.kind == ErrorKind::NotFound => {
                self.close_act(request, &error.to_string()).await?;
                Ok(true)
            }
            mirrored => mirrored.map(|()| true),
        }
    }

    /// Completes what was begun of an act: a customer whose default it changed has its
    /// subscriptions charged to the same.
    async fn go_on(&self, client: &Client, request: &Request) -> Result<(), Failure> {
        let customer = request.params.get("customer").unwrap_or_default();
        let id = request.target_id.as_deref().unwrap_or_default();
        let mut owed = Owed::default();
        if Act::of(request) == Act::MakeDefault {
            let shown = client.customer_now(customer).await;
            let shown = Customer::read(&shown.map_err(Failure::Stripe)?.body, false)?;
            self.paid_before(client, request, &mut owed).await?;
            if shown.default_payment_method_id.as_deref() == Some(id) {
                let to = (customer, id);
                match self.charge_to(client, request, to, &mut owed).await {
                    Err(Failure::Stripe(error))
                        if !error.may_have_acted() && !error.is_outage() =>
                    {
                        return self.abandon_act(client, request, &error, &owed).await;
                    }
                    charged => charged?,
                }
            }
        }
        self.mirror_act(client, request, &owed).await?;
        self.show_paid(client, request, &owed).await;
        self.show_paid_before(client, request).await;
        Ok(())
    }

    /// Mirrors the payment method and its customer as Stripe shows them, writes the
    /// audit entry, and closes the request by what it came to.
    async fn mirror_act(
        &self,
        client: &Client,
        request: &Request,
        owed: &Owed,
    ) -> Result<(), Failure> {
        let id = request.target_id.as_deref().unwrap_or_default();
        let customer = request.params.get("customer").unwrap_or_default();
        let method = client.payment_method(id).await.map_err(Failure::Stripe)?;
        let attached_to = id_in(&method.body, "customer");
        let belonged = json!({"customer": customer});
        let method = PaymentMethod::read(&method.body, belonged.as_object())?;
        let response = client.customer_now(customer).await;
        let shown = snapshot(client, request.id, response.map_err(Failure::Stripe)?).await;
        let StripeSnapshot { object, at, .. } = shown.map_err(Failure::Stripe)?;
        let owner = Customer::read(&object, false)?;
        let act = Act::of(request);
        let is_done = match act {
            Act::MakeDefault => {
                owner.default_payment_method_id.as_deref() == Some(id)
                    && follow_customer(client, customer, id)
                        .await
                        .map_err(Failure::Stripe)?
            }
            Act::Remove => attached_to.is_none(),
        };
        let organization_id = request.organization_id;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        if requests::lock(tx.conn(), request).await? == requests::State::Succeeded {
            return Ok(());
        }
        let (before, after) =
            projection::mirror_payment_method(tx.conn(), organization_id, method, at).await?;
        let of_customer =
            projection::mirror_customer(tx.conn(), organization_id, owner, at).await?;
        let mut entries = Vec::new();
        if is_done || owed.has_paid() {
            let mut entry = entry(request, act, before, after);
            if let Some(owed) = owed.shown() {
                entry.metadata["owed"] = owed;
            }
            entries.push(entry);
        }
        entries.extend(of_customer);
        audit::record(&mut tx, &locked, &entries).await?;
        match is_done {
            true => requests::succeeded(tx.conn(), request, id).await?,
            false => requests::failed(tx.conn(), request, "Stripe did not do it").await?,
        }
        tx.commit().await?;
        Ok(())
    }

    /// Closes a request that changed nothing.
    async fn close_act(&self, request: &Request, why: &str) -> Result<(), sqlx::Error> {
        let mut tx = TenantTx::begin(&self.pool, request.organization_id).await?;
        if requests::lock(tx.conn(), request).await? == requests::State::Open {
            requests::failed(tx.conn(), request, why).await?;
        }
        tx.commit().await
    }
}

fn entry(request: &Request, act: Act, before: Option<Value>, after: Value) -> NewEntry {
    let initiator: Option<Initiator> =
        serde_json::from_value(request.context["initiator"].clone()).ok();
    NewEntry {
        organization_id: request.organization_id,
        action: act.action(),
        actor: initiator
            .as_ref()
            .map_or(audit::Actor::System, Initiator::actor),
        resource_type: "payment_method",
        resource_id: request.target_id.clone().unwrap_or_default(),
        before,
        after: Some(after),
        metadata: json!({
            "stripeCustomerId": request.params.get("customer"),
            "idempotency_key": request.key(),
        }),
        client: initiator.as_ref().map(Initiator::client),
        reason: None,
    }
}
