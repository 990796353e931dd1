//! Begins a checkout. One that is open for the same purchase is used again; one for another
//! purchase is closed first.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CHECKOUT_ID, Checkout, EXPIRED, Purchase, STARTED, State, store};
use crate::audit::{self, NewEntry};
use crate::catalogue::TrialCard;
use crate::catalogue::versions::version_name;
use crate::db::{RequestTx, TenantTx};
use crate::stripe::client::{BILLING_MODE, Client, ErrorKind, Params};
use crate::stripe::requests::{self, Subject};
use crate::subscriptions::change::record::Initiator;
use crate::subscriptions::change::saga::Requester;
use crate::subscriptions::command::{ChangeRejection, StripeAction, decide};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::preview::stripe::items_of;
use crate::subscriptions::{Subscriptions, promotion};

/// How often it is decided anew when others interfere.
const ROUNDS: usize = 6;

/// A checkout that a payer can be sent to.
pub struct Begun {
    pub checkout: Checkout,
    /// Whether this request has made it.
    pub is_new: bool,
}

impl Subscriptions {
    /// The open checkout for `purchase`, begun if there is none.
    pub async fn check_out(
        &self,
        requester: &Requester,
        purchase: &Purchase,
    ) -> Result<Begun, Failure> {
        let client = self.stripe()?;
        let organization_id = requester.organization_id;
        if let Some(code) = &purchase.promotion_code {
            promotion::check_text(code)?;
        }
        let recorded = purchase.recorded();
        let mut customer_replaced = false;
        for _ in 0..ROUNDS {
            let (checkout, is_new) = match self.open_checkout(organization_id).await? {
                Some(open) if open.purchase == recorded && open.can_be_used(Timestamp::now()) => {
                    match self.still_wanted(client, purchase, open).await? {
                        Some(open) => (open, false),
                        None => continue,
                    }
                }
                Some(other) => {
                    self.put_away(client, &other).await?;
                    continue;
                }
                None => match self.enter(client, requester, purchase, &recorded).await? {
                    Some(entered) => (entered, true),
                    None => continue,
                },
            };
            if checkout.state == State::Open {
                return Ok(Begun { checkout, is_new });
            }
            match self.make_page(client, &checkout).await {
                Ok(checkout) => return Ok(Begun { checkout, is_new }),
                Err(Failure::Stripe(error))
                    if error.is_missing_customer() && !customer_replaced =>
                {
                    customer_replaced = true;
                    self.check_customer(client, organization_id).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Busy)
    }

    /// The checkout, unless its payer is done by now, or what it sells is not sold to the
    /// organization any more.
    async fn still_wanted(
        &self,
        client: &Client,
        purchase: &Purchase,
        open: Checkout,
    ) -> Result<Option<Checkout>, Failure> {
        let state = self.state(open.organization_id).await?;
        decide(&state, &self.catalogue, purchase.command())?;
        if open.state == State::Creating {
            // Whoever entered it may not have looked yet.
            self.check_entered(&open).await?;
            return Ok(Some(open));
        }
        let now = self.conclude(client, &open).await?;
        Ok(Some(now).filter(|now| now.state == State::Open))
    }

    pub(super) async fn open_checkout(
        &self,
        organization_id: Uuid,
    ) -> Result<Option<Checkout>, sqlx::Error> {
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        store::open(&mut tx).await
    }

    /// Decides and enters a checkout. `None` if another one was entered first.
    async fn enter(
        &self,
        client: &Client,
        requester: &Requester,
        purchase: &Purchase,
        recorded: &Value,
    ) -> Result<Option<Checkout>, Failure> {
        let organization_id = requester.organization_id;
        let state = self.state(organization_id).await?;
        self.recall_terms(&state).await?;
        let action = decide(&state, &self.catalogue, purchase.command())?;
        self.check_seats(organization_id, &action).await?;
        self.check_trial_on_page(client, organization_id, &action)
            .await?;
        let redemption = match purchase.promotion_code.as_deref() {
            Some(code) => {
                let none = BTreeMap::new();
                let found = self.redemption(Some(client), code, &state, &action, &none);
                Some(found.await?)
            }
            None => None,
        };
        let params = self.page(client, organization_id, &action).await?;
        let params = match &redemption {
            Some(redemption) => redemption.apply(params),
            None => params,
        };
        let initiator = Initiator::new(requester.actor, &requester.client);
        let customer = self
            .customer_for(client, organization_id, &state, &action, &initiator)
            .await?;
        let id = Uuid::now_v7();
        let params = params
            .set_if("customer", customer)
            .set("success_url", &purchase.success_url)
            .set("cancel_url", &purchase.cancel_url)
            .set_if("locale", purchase.locale.as_deref())
            .set(format!("metadata[{CHECKOUT_ID}]"), id);
        let context = json!({"initiator": initiator});
        let entry = NewEntry {
            organization_id,
            action: STARTED,
            actor: initiator.actor(),
            resource_type: "checkout",
            resource_id: id.to_string(),
            before: None,
            after: Some(json!({
                "planTier": purchase.plan_tier,
                "interval": purchase.interval,
                "quantity": purchase.quantity,
                "addons": purchase.addons,
                "trialDays": purchase.trial_days,
                "promotionCodeGiven": purchase.promotion_code.is_some(),
            })),
            metadata: json!({}),
            client: Some(initiator.client()),
            reason: None,
        };
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        // It was archived since the request was let in: sent again, that is the answer.
        if !requests::hold_unarchived(&mut tx).await? {
            return Err(Failure::Busy);
        }
        if !store::insert(&mut tx, id, recorded, &params, &context).await? {
            return Ok(None);
        }
        audit::record(&mut tx, &locked, &[entry]).await?;
        tx.commit().await?;
        let entered = self.open_checkout(organization_id).await?;
        let entered = entered.filter(|entered| entered.id == id);
        if let Some(entered) = &entered {
            self.check_entered(entered).await?;
        }
        Ok(entered)
    }

    /// From here on, whoever subscribes otherwise sees the checkout. Who began before is
    /// seen here.
    async fn check_entered(&self, entered: &Checkout) -> Result<(), Failure> {
        let organization_id = entered.organization_id;
        let subject = Subject::Subscription;
        let change = requests::open_about(&self.pool, organization_id, subject).await?;
        let state = self.state(organization_id).await?;
        let failure = match (change, state.subscription) {
            (Some(_), _) => Failure::Busy,
            (None, Some(_)) => ChangeRejection::SubscriptionExists.into(),
            (None, None) => return Ok(()),
        };
        let why = failure.to_string();
        self.give_up(entered, entered.called_at, &why).await?;
        Err(failure)
    }

    /// Closes a checkout that has no page, unless another request has called Stripe for it
    /// since `called_at`: its page may be in use.
    pub(super) async fn give_up(
        &self,
        checkout: &Checkout,
        called_at: Option<Timestamp>,
        why: &str,
    ) -> Result<(), sqlx::Error> {
        let mut tx = TenantTx::begin(&self.pool, checkout.organization_id).await?;
        store::give_up(&mut tx, checkout.id, called_at, why).await?;
        tx.commit().await
    }

    /// The parameters of the page, but for who pays and where it leads.
    async fn page(
        &self,
        client: &Client,
        organization_id: Uuid,
        action: &StripeAction<'_>,
    ) -> Result<Params, Failure> {
        let StripeAction::Create {
            plan,
            quantities,
            addons,
            trial_days,
        } = action
        else {
            return Err(Failure::Unexpected("a checkout only creates"));
        };
        let prices = self.prices_with(client, plan, None, addons).await?;
        // Stripe's page refuses prices of different intervals.
        if prices.billing_mode(plan) != BILLING_MODE {
            return Err(ChangeRejection::NotByCheckout(plan.tier.clone()).into());
        }
        let version = self.catalogue.current_version(&plan.tier);
        let version = version.map(|version| version_name(&plan.tier, version));
        let quantities = crate::subscriptions::Quantities {
            fee: Some(quantities.fee.unwrap_or(1)),
            ..*quantities
        };
        let trial = Some(*trial_days).filter(|days| *days > 0);
        let (at_end, without_card) = self.trial_end("subscription_data", *trial_days);
        let asks_later = trial.is_some() && self.catalogue.trial_card() == TrialCard::Optional;
        let params = Params::new()
            .set("mode", "subscription")
            .set("client_reference_id", organization_id)
            .set("metadata[organization_id]", organization_id)
            .set(
                "subscription_data[metadata][organization_id]",
                organization_id,
            )
            .set_if("subscription_data[metadata][plan_version]", version)
            .set("subscription_data[billing_mode][type]", BILLING_MODE)
            .set_if("subscription_data[trial_period_days]", trial)
            .set_if(&at_end, without_card)
            .set_if(
                "payment_method_collection",
                asks_later.then_some("if_required"),
            );
        let params = match self.catalogue.automatic_tax() {
            // The page asks for what the tax depends on.
            true => params
                .set("automatic_tax[enabled]", true)
                .set("billing_address_collection", "required")
                .set("customer_update[address]", "auto"),
            false => params,
        };
        Ok(items_of(&prices, quantities, params, "line_items"))
    }

    /// Has Stripe make the page of a checkout, once.
    pub(super) async fn make_page(
        &self,
        client: &Client,
        checkout: &Checkout,
    ) -> Result<Checkout, Failure> {
        let organization_id = checkout.organization_id;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let called = store::mark_called(&mut tx, checkout.id).await?;
        tx.commit().await?;
        if called.is_none() {
            // Another request with the same purchase was faster.
            let open = self.open_checkout(organization_id).await?;
            let same = open.filter(|one| one.id == checkout.id && one.state == State::Open);
            return same.ok_or(Failure::Busy);
        }
        let key = checkout.key("create");
        match client.create_checkout_session(&checkout.params, &key).await {
            Ok(response) => self.note_page(client, checkout, &response.body).await,
            // Stripe works on it no more, and would repeat its answer.
            Err(error) if error.kind == ErrorKind::Server => {
                match self.find_page(client, checkout).await {
                    Ok(Some(session)) => self.note_page(client, checkout, &session).await,
                    Ok(None) => {
                        self.give_up(checkout, called, &error.to_string()).await?;
                        Err(Failure::Stripe(error))
                    }
                    Err(_) => Err(Failure::InDoubt(error)),
                }
            }
            Err(error) if error.may_have_acted() => Err(Failure::InDoubt(error)),
            // It says nothing about a call beside this one with the same key.
            Err(error) if !error.settles() => Err(Failure::Stripe(error)),
            Err(error) => {
                self.give_up(checkout, called, &error.to_string()).await?;
                let failure = Failure::Stripe(error);
                Err(match promotion::redeems(&checkout.params) {
                    true => promotion::refusal(failure),
                    false => failure,
                })
            }
        }
    }

    /// Stores the page that Stripe has made.
    pub(super) async fn note_page(
        &self,
        client: &Client,
        checkout: &Checkout,
        session: &Value,
    ) -> Result<Checkout, Failure> {
        let id = session["id"].as_str();
        let id = id.ok_or(Failure::Unexpected("a checkout session has no id"))?;
        let url = session["url"].as_str();
        let expires_at = session["expires_at"].as_i64();
        let expires_at = expires_at.and_then(|secs| Timestamp::from_second(secs).ok());
        let mut tx = TenantTx::begin(&self.pool, checkout.organization_id).await?;
        let opened = store::opened(&mut tx, checkout.id, id, url, expires_at).await?;
        tx.commit().await?;
        if !opened {
            return self.page_beside(client, checkout, id).await;
        }
        Ok(Checkout {
            state: State::Open,
            session_id: Some(id.to_owned()),
            url: url.map(str::to_owned),
            expires_at,
            ..checkout.clone()
        })
    }

    /// A page whose checkout was not waiting for it: another request has noted the same one,
    /// or has closed the checkout, which leaves a page that nobody watches.
    async fn page_beside(
        &self,
        client: &Client,
        checkout: &Checkout,
        session_id: &str,
    ) -> Result<Checkout, Failure> {
        let mut tx = RequestTx::begin(&self.pool, checkout.organization_id).await?;
        let now = store::by_id(&mut tx, checkout.id).await?;
        drop(tx);
        let same = now.filter(|now| now.session_id.as_deref() == Some(session_id));
        if let Some(now) = same {
            return Some(now)
                .filter(|now| now.state == State::Open)
                .ok_or(Failure::Busy);
        }
        let key = Uuid::now_v7().to_string();
        match client.expire_checkout_session(session_id, &key).await {
            Ok(_) => {}
            // It is open no more.
            Err(error) if matches!(error.kind, ErrorKind::InvalidRequest | ErrorKind::NotFound) => {
            }
            Err(error) => {
                tracing::error!(
                    organization_id = %checkout.organization_id, session_id, %error,
                    "The page of a closed checkout could not be expired: expire it in Stripe"
                );
            }
        }
        Err(Failure::Busy)
    }

    /// Closes a checkout that is not wanted any more. If its payer was faster, what was
    /// bought is mirrored instead.
    pub(super) async fn put_away(
        &self,
        client: &Client,
        checkout: &Checkout,
    ) -> Result<(), Failure> {
        let made;
        let checkout = match checkout.state {
            State::Creating if checkout.can_be_used(Timestamp::now()) => {
                made = self.make_page(client, checkout).await?;
                &made
            }
            State::Creating => {
                self.settle_creation(client, checkout).await?;
                return Ok(());
            }
            _ => checkout,
        };
        let session = checkout.session_id.as_deref().unwrap_or_default();
        // It has its effect once whatever the key.
        let key = Uuid::now_v7().to_string();
        match client.expire_checkout_session(session, &key).await {
            Ok(_) => self.note(checkout, State::Expired, None, EXPIRED).await,
            // It is open no more.
            Err(error) if matches!(error.kind, ErrorKind::InvalidRequest | ErrorKind::NotFound) => {
                self.conclude(client, checkout).await.map(drop)
            }
            Err(error) if error.may_have_acted() => Err(Failure::InDoubt(error)),
            Err(error) => Err(Failure::Stripe(error)),
        }
    }

    /// Before a subscription is created otherwise: no page stays open beside it. Returns
    /// whether there was one.
    pub(in crate::subscriptions) async fn close_checkout(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<bool, Failure> {
        match self.open_checkout(organization_id).await? {
            Some(open) => {
                self.put_away(client, &open).await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}
