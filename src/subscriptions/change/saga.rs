//! Changes, from the wish to the state that it leads to.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use billing_domain::subscription::is_ended;

use super::execute::look;
use super::record::{Asker, Change, Kind, kept_wish, mark};
use crate::audit::{Actor, Client as From};
use crate::db::TenantTx;
use crate::stripe::client::{BILLING_MODE, Client, ErrorKind, Params, StripeError};
use crate::stripe::requests::{self, Begun, NewRequest, Request, Subject};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::command::{Step, Wish, decide};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::preview::stripe::{Switch, items_of};
use crate::subscriptions::preview::token::Promise;
use crate::subscriptions::refresh::Shows;
use crate::subscriptions::state::{Held, Standing};

/// Who wishes.
#[derive(Debug, Clone)]
pub struct Caller {
    pub organization_id: Uuid,
    pub actor: Actor,
    pub from: From,
    /// The request's `Idempotency-Key`.
    pub key: Option<String>,
}

/// How often a change is decided anew when others come between.
const ROUNDS: usize = 6;

/// What came of a round.
enum Round {
    Done,
    /// Things are not as they were: it is decided anew.
    Again,
}

/// What is tried once more, and once only.
#[derive(Default)]
struct SecondChances {
    failed: bool,
    refused: bool,
    no_customer: bool,
}

impl SecondChances {
    fn take(&mut self, error: &StripeError) -> bool {
        let taken = match error.kind {
            // Stripe's answer goes with the key: it takes another request.
            ErrorKind::Server => &mut self.failed,
            // The customer may have been deleted.
            _ if error.is_missing_customer() => &mut self.no_customer,
            // The subscription may not be what we think it is.
            ErrorKind::NotFound | ErrorKind::InvalidRequest => &mut self.refused,
            _ => return false,
        };
        !std::mem::replace(taken, true)
    }
}

impl Subscriptions {
    /// Grants `wish`, or says why not. With a preview's token, it costs what
    /// was shown, or is refused.
    pub async fn change(
        &self,
        caller: &Caller,
        wish: Wish<'_>,
        token: Option<&str>,
    ) -> Result<(), Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let _turn = self
            .turns
            .take(caller.organization_id)
            .ok_or(Failure::Busy)?;
        let promise = match token {
            Some(token) => Some(self.open(token).await?),
            None => None,
        };
        let wished = kept_wish(wish, promise.as_ref());
        if let Some(key) = &caller.key
            && let Some(done) = requests::wish_done(&self.pool, caller.organization_id, key).await?
        {
            let is_same = done == wished;
            return is_same.then_some(()).ok_or(Failure::KeyReused);
        }
        let mut second_chances = SecondChances::default();
        for _ in 0..ROUNDS {
            let about = Subject::Subscription;
            let open = requests::open_about(&self.pool, caller.organization_id, about).await?;
            let outcome = match open {
                Some(request) => self.resume(client, &request, &wished).await,
                None => {
                    self.begin(client, caller, wish, &wished, promise.as_ref())
                        .await
                }
            };
            match outcome {
                Ok(Round::Done) => return Ok(()),
                Ok(Round::Again) => {}
                Err(Failure::Stripe(error)) if second_chances.take(&error) => {
                    if error.is_missing_customer() {
                        self.look_again(client, caller.organization_id).await?;
                        self.check_customer(client, caller.organization_id).await?;
                    } else if error.kind != ErrorKind::Server
                        && let Shows::Nothing(id) =
                            self.look_again(client, caller.organization_id).await?
                    {
                        if !matches!(wish, Wish::Cancel { .. }) {
                            return Err(Failure::SubscriptionMissing(id));
                        }
                        // What was wished for holds, but for our own state.
                        let asker = Asker::new(caller.actor, &caller.from);
                        return self.end_missing(caller.organization_id, &id, &asker).await;
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Busy)
    }

    /// Takes up a request that was left open. Done: it was for this very wish.
    async fn resume(
        &self,
        client: &Client,
        request: &Request,
        wished: &Value,
    ) -> Result<Round, Failure> {
        let change = Change::of(request).ok_or(Failure::Busy)?;
        let now = Timestamp::now();
        if change.wish != *wished || !request.key_is_good(now) {
            return match self.settle(client, request, &change, now).await? {
                true => Ok(Round::Again),
                false => Err(Failure::Busy),
            };
        }
        let looked = match look(client, request, &change).await {
            Err(missing) if missing.kind == ErrorKind::NotFound => {
                self.give_up(request, &missing.to_string()).await?;
                return Err(Failure::Stripe(missing));
            }
            looked => looked.map_err(Failure::InDoubt)?,
        };
        match looked {
            Some(seen) => self.finish(request, &change, seen).await?,
            None => self.carry_out(client, request, &change).await?,
        }
        Ok(Round::Done)
    }

    /// Decides what to ask of Stripe, enters it, and asks.
    async fn begin(
        &self,
        client: &Client,
        caller: &Caller,
        wish: Wish<'_>,
        wished: &Value,
        promise: Option<&Promise>,
    ) -> Result<Round, Failure> {
        let organization_id = caller.organization_id;
        let standing = self.standing(organization_id).await?;
        let step = decide(&standing, &self.catalogue, wish)?;
        let Some(kind) = Kind::of(&step) else {
            return Ok(Round::Done);
        };
        if let Some(promise) = promise {
            self.check_state(promise, organization_id, &standing, wish, Timestamp::now())?;
        }
        let change = Change {
            id: Uuid::now_v7(),
            kind,
            wish: wished.clone(),
            request_key: caller.key.clone(),
            actor: Asker::new(caller.actor, &caller.from),
            before: summary(&standing),
        };
        if matches!(step, Step::Create { .. }) {
            self.check_abandoned(client, organization_id, standing.customer_id.as_deref())
                .await?;
        }
        let customer_id = match (&step, &standing.customer_id) {
            (Step::Create { .. }, None) => Some(
                self.make_customer(client, organization_id, &standing.name, &change.actor)
                    .await?,
            ),
            (_, customer_id) => customer_id.clone(),
        };
        if let Some(promise) = promise {
            self.check_price(
                client,
                promise,
                &step,
                customer_id.as_deref(),
                Timestamp::now(),
            )
            .await?;
        }
        let (target_id, params) = self
            .request(
                client,
                &step,
                customer_id.as_deref(),
                organization_id,
                promise,
            )
            .await?;
        let new = NewRequest {
            subject: Subject::Subscription,
            operation: kind.operation(),
            target_id,
            params: mark(params, &change),
            context: change.context(),
        };
        let Begun::New(request) = requests::begin(&self.pool, organization_id, new).await? else {
            return Ok(Round::Again);
        };
        // Nobody else changes it from here on, but somebody may have before.
        let still = self.standing(organization_id).await?;
        if fingerprint(&still) != fingerprint(&standing) {
            self.give_up(&request, "the subscription was changed meanwhile")
                .await?;
            return Ok(Round::Again);
        }
        self.carry_out(client, &request, &change).await?;
        Ok(Round::Done)
    }

    /// What is sent to Stripe for `step`, the change's mark left out.
    async fn request(
        &self,
        client: &Client,
        step: &Step<'_>,
        customer_id: Option<&str>,
        organization_id: Uuid,
        promise: Option<&Promise>,
    ) -> Result<(Option<String>, Params), Failure> {
        Ok(match step {
            Step::Create { plan, trial_days } => {
                let prices = self.prices.of(client, &self.catalogue, plan).await?;
                let customer_id = customer_id.ok_or(Failure::NoOrganization)?;
                let trial = Some(*trial_days).filter(|days| *days > 0);
                let params = Params::new()
                    .set("customer", customer_id)
                    .set("metadata[organization_id]", organization_id)
                    .set("billing_mode[type]", BILLING_MODE)
                    .set("payment_behavior", "error_if_incomplete")
                    .set_if("trial_period_days", trial);
                (None, items_of(&prices, params, "items"))
            }
            Step::Switch { held, plan } => {
                let prices = self.prices.of(client, &self.catalogue, plan).await?;
                let at = match promise {
                    Some(promise) => promise.effective_at,
                    None => self.time_of(client, held).await?,
                };
                let switch = Switch::new(held, &self.catalogue, plan, &prices, at)
                    .ok_or(crate::subscriptions::Refusal::UnknownItems)?;
                let params = switch
                    .parameters("", switch.settlement)
                    .set("payment_behavior", "error_if_incomplete");
                (Some(held.id.clone()), params)
            }
            Step::EndWithPeriod { held } => {
                let params = Params::new().set("cancel_at_period_end", true);
                (Some(held.id.clone()), params)
            }
            Step::EndNow { held } => {
                // What was used is charged; what was paid for is not given back.
                let params = Params::new()
                    .set_if("invoice_now", (held.status != "incomplete").then_some(true));
                (Some(held.id.clone()), params)
            }
            Step::Keep { held } => {
                let params = if held.cancel_at_period_end {
                    Params::new().set("cancel_at_period_end", false)
                } else {
                    Params::new().set("cancel_at", "")
                };
                (Some(held.id.clone()), params)
            }
            Step::Nothing { held } => (Some(held.id.clone()), Params::new()),
        })
    }

    /// Recovery may have given up a request to make a subscription that Stripe
    /// has carried out: then a second one is not made.
    async fn check_abandoned(
        &self,
        client: &Client,
        organization_id: Uuid,
        customer_id: Option<&str>,
    ) -> Result<(), Failure> {
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let abandoned = requests::has_abandoned_creation(&mut tx).await?;
        drop(tx);
        let Some(customer) = customer_id.filter(|_| abandoned) else {
            return Ok(());
        };
        let all = client.subscriptions(Some(customer)).await;
        let runs = |one: &Value| {
            one["status"]
                .as_str()
                .is_some_and(|status| !is_ended(status))
        };
        if all.map_err(Failure::Stripe)?.iter().any(runs) {
            tracing::error!(
                %organization_id,
                customer,
                "Stripe has a subscription that is not mirrored: run `subscriptions reconcile --apply`"
            );
            return Err(crate::subscriptions::Refusal::SubscriptionExists.into());
        }
        Ok(())
    }

    /// The time that the subscription's customer lives in.
    pub(in crate::subscriptions) async fn time_of(
        &self,
        client: &Client,
        held: &Held,
    ) -> Result<Timestamp, Failure> {
        let secs = match &held.test_clock_id {
            Some(clock) => client.test_clock(clock).await.map_err(Failure::Stripe)?,
            None => Timestamp::now().as_second(),
        };
        Timestamp::from_second(secs).map_err(|_| Failure::Unexpected("a clock is out of range"))
    }
}

/// Tells the state from others that a wish would be decided differently in.
fn fingerprint(standing: &Standing) -> (String, Option<String>) {
    let held = standing.subscription.as_ref();
    (standing.plan_tier.clone(), held.map(Held::fingerprint))
}

/// What an audit entry shows of the state before a change.
fn summary(standing: &Standing) -> Value {
    match &standing.subscription {
        None => json!({"planTier": standing.plan_tier}),
        Some(held) => json!({
            "status": held.status,
            "planTier": held.plan_tier,
            "stripeCustomerId": held.customer_id,
            "currency": held.currency,
            "currentPeriodStart": held.period_start,
            "currentPeriodEnd": held.period_end,
            "billingCycleAnchor": held.anchor,
            "billingMode": held.billing_mode,
            "trialEnd": held.trial_end,
            "cancelAt": held.cancel_at,
            "cancelAtPeriodEnd": held.cancel_at_period_end,
            "canceledAt": held.canceled_at,
            "latestInvoiceId": held.latest_invoice_id,
            "discounted": held.discounted,
            "taxed": held.taxed,
            "items": held
                .items
                .iter()
                .map(|item| json!({"price": item.price_id, "quantity": item.quantity}))
                .collect::<Vec<Value>>(),
        }),
    }
}
