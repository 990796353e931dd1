//! The saga of a change, from the command to the recorded and executed action.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use billing_domain::subscription::is_ended;

use super::execute::find_outcome;
use super::record::{ChangeKind, ChangeRecord, Initiator, Release, mark, recorded_command};
use crate::audit::{self, Actor};
use crate::db::TenantTx;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::stripe::requests::{self, Begun, NewRequest, Request, Subject};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::command::{ChangeRejection, Command, StripeAction, decide};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::StripePresence;
use crate::subscriptions::preview::token::Quote;
use crate::subscriptions::preview::{Asked, PreviewUnavailable};
use crate::subscriptions::promotion::check_text;
use crate::subscriptions::state::{SubscriptionRow, SubscriptionState};

/// Who requests a change, and for which organization.
#[derive(Debug, Clone)]
pub struct Requester {
    pub organization_id: Uuid,
    pub actor: Actor,
    pub client: audit::Client,
    pub idempotency_key: Option<String>,
}

/// The parameter that names the version of the plan: what is bought is kept.
pub(super) const VERSION: &str = "metadata[plan_version]";

/// How often a change is decided when concurrent changes interfere.
const MAX_ROUNDS: usize = 6;

enum Round {
    Done,
    /// The state has changed meanwhile: decide again.
    Again,
}

/// The errors that are retried, each once.
#[derive(Default)]
struct Retries {
    server_error: bool,
    rejected: bool,
    missing_customer: bool,
}

impl Retries {
    fn take(&mut self, error: &StripeError) -> bool {
        let taken = match error.kind {
            // Stripe replays its response to a key, so a retry needs a new request.
            ErrorKind::Server => &mut self.server_error,
            // The customer may have been deleted.
            _ if error.is_missing_customer() => &mut self.missing_customer,
            // Our state of the subscription may be out of date.
            ErrorKind::NotFound | ErrorKind::InvalidRequest => &mut self.rejected,
            _ => return false,
        };
        !std::mem::replace(taken, true)
    }
}

impl Subscriptions {
    /// Carries out `command`. With a preview's token, the change costs what was
    /// shown or is rejected.
    pub async fn change(
        &self,
        requester: &Requester,
        command: Command<'_>,
        token: Option<&str>,
    ) -> Result<(), Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let _lock = self
            .locks
            .try_lock(requester.organization_id)
            .ok_or(Failure::Busy)?;
        let quote = match token {
            Some(token) => Some(self.open(token).await?),
            None => None,
        };
        let command = command.or_as_quoted(quote.as_ref());
        command.promotion_code().map(check_text).transpose()?;
        let recorded = recorded_command(command, quote.as_ref());
        let organization_id = requester.organization_id;
        if let Some(key) = &requester.idempotency_key
            && let Some(done) =
                requests::completed_command(&self.pool, organization_id, key).await?
        {
            let is_same = done == recorded;
            return is_same.then_some(()).ok_or(Failure::KeyReused);
        }
        let mut retries = Retries::default();
        for _ in 0..MAX_ROUNDS {
            let subject = Subject::Subscription;
            let open = requests::open_about(&self.pool, organization_id, subject).await?;
            let round = match open {
                Some(request) => self.resume(client, &request, &recorded).await,
                None => {
                    self.begin(client, requester, command, &recorded, quote.as_ref())
                        .await
                }
            };
            match round {
                Ok(Round::Done) => return Ok(()),
                Ok(Round::Again) => {}
                Err(Failure::Stripe(error)) if retries.take(&error) => {
                    let missing = self.refresh_after(client, organization_id, &error).await?;
                    let Some(id) = missing else { continue };
                    if !matches!(command, Command::Cancel { .. }) {
                        return Err(Failure::SubscriptionMissing(id));
                    }
                    // Stripe has no subscription left to cancel; only our state has.
                    let initiator = Initiator::new(requester.actor, &requester.client);
                    return self.end_missing(organization_id, &id, &initiator).await;
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Busy)
    }

    /// Refreshes what Stripe's `error` shows to be out of date. Returns the
    /// subscription that Stripe does not have.
    async fn refresh_after(
        &self,
        client: &Client,
        organization_id: Uuid,
        error: &StripeError,
    ) -> Result<Option<String>, Failure> {
        if error.is_missing_customer() {
            self.refresh_from_stripe(client, organization_id).await?;
            self.check_customer(client, organization_id).await?;
            return Ok(None);
        }
        if error.kind == ErrorKind::Server {
            return Ok(None);
        }
        match self.refresh_from_stripe(client, organization_id).await? {
            StripePresence::Missing(id) => Ok(Some(id)),
            StripePresence::Present => Ok(None),
        }
    }

    /// Continues an open request. `Done` means that it was for this command.
    async fn resume(
        &self,
        client: &Client,
        request: &Request,
        recorded: &Value,
    ) -> Result<Round, Failure> {
        let change = ChangeRecord::of(request).ok_or(Failure::Busy)?;
        let now = Timestamp::now();
        if change.command != *recorded || !request.key_is_valid(now) {
            return match self.settle(client, request, &change, now).await? {
                true => Ok(Round::Again),
                false => Err(Failure::Busy),
            };
        }
        let outcome = match find_outcome(client, request, &change).await {
            Err(missing) if missing.kind == ErrorKind::NotFound => {
                self.close_failed(request, &missing.to_string()).await?;
                return Err(Failure::Stripe(missing));
            }
            outcome => outcome.map_err(Failure::InDoubt)?,
        };
        match outcome {
            Some(snapshot) => self.complete(client, request, &change, snapshot).await?,
            None => self.execute(client, request, &change).await?,
        }
        Ok(Round::Done)
    }

    /// Decides the action, records its request, and executes it.
    async fn begin(
        &self,
        client: &Client,
        requester: &Requester,
        command: Command<'_>,
        recorded: &Value,
        quote: Option<&Quote>,
    ) -> Result<Round, Failure> {
        let organization_id = requester.organization_id;
        let state = self.state(organization_id).await?;
        self.recall_terms(&state).await?;
        let action = decide(&state, &self.catalogue, command)?;
        let Some(kind) = ChangeKind::of(&action) else {
            return Ok(Round::Done);
        };
        if let Some(quote) = quote {
            self.check_state(quote, organization_id, &state, command, Timestamp::now())?;
        }
        self.check_seats(organization_id, &action).await?;
        let code = command.promotion_code();
        let extras = self
            .extras(Some(client), organization_id, &state, &action, code)
            .await?;
        let asked = Asked {
            organization_id,
            action: &action,
            extras: &extras,
            customer_id: state.customer_id.as_deref(),
        };
        if code.is_some() {
            self.check_code(client, asked, quote).await?;
        }
        let mut change = ChangeRecord {
            id: Uuid::now_v7(),
            kind,
            command: recorded.clone(),
            request_key: requester.idempotency_key.clone(),
            actor: Initiator::new(requester.actor, &requester.client),
            before: summary(&state),
            releases: Release::of(&action),
            usage: None,
            follows: self.follow(client, &action).await?,
            flexible: false,
        };
        let customer_id = self
            .customer_for(client, organization_id, &state, &action, &change.actor)
            .await?;
        let asked = Asked {
            customer_id: customer_id.as_deref(),
            ..asked
        };
        if let (Some(quote), None) = (quote, code) {
            self.check_price(client, asked, quote, Timestamp::now())
                .await?;
        }
        let call = self.parameters(client, asked, quote).await?;
        (change.usage, change.flexible) = (call.usage, call.flexible);
        if change.flexible && change.releases.is_none() {
            let subscription = state.subscription.as_ref();
            change.releases = subscription.and_then(Release::spent);
        }
        let new = NewRequest {
            subject: Subject::Subscription,
            operation: kind.operation(),
            target_id: call.target_id,
            params: mark(call.params, &change),
            context: change.context(),
        };
        self.carry_out(client, asked, &state, &change, new).await
    }

    /// Records the request of a decided change, and executes it.
    async fn carry_out(
        &self,
        client: &Client,
        asked: Asked<'_>,
        state: &SubscriptionState,
        change: &ChangeRecord,
        new: NewRequest,
    ) -> Result<Round, Failure> {
        let organization_id = asked.organization_id;
        let Begun::New(request) = requests::begin(&self.pool, organization_id, new).await? else {
            return Ok(Round::Again);
        };
        // The open request keeps others out from here on, but one may have
        // changed the subscription since we read it.
        let current = self.state(organization_id).await?;
        if fingerprint(&current) != fingerprint(state) {
            self.close_failed(&request, "the subscription was changed meanwhile")
                .await?;
            return Ok(Round::Again);
        }
        if let Err(failure) = self.hold_seats(organization_id, asked.action).await {
            self.close_failed(&request, &failure.to_string()).await?;
            return Err(failure);
        }
        self.execute(client, &request, change).await?;
        Ok(Round::Done)
    }

    /// Has Stripe say whether a code holds, and the quote with it, before anything is
    /// made for it.
    async fn check_code(
        &self,
        client: &Client,
        asked: Asked<'_>,
        quote: Option<&Quote>,
    ) -> Result<(), Failure> {
        let now = Timestamp::now();
        if let Some(quote) = quote {
            return self.check_price(client, asked, quote, now).await;
        }
        match self.price_with_stripe(client, asked, None, now).await {
            // The call itself says whether the code holds.
            Ok(_) | Err(Failure::PreviewUnavailable(PreviewUnavailable::NotPriced { .. })) => {
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// The customer of the change; a new subscription's is created if there is none.
    async fn customer_for(
        &self,
        client: &Client,
        organization_id: Uuid,
        state: &SubscriptionState,
        action: &StripeAction<'_>,
        initiator: &Initiator,
    ) -> Result<Option<String>, Failure> {
        if !matches!(action, StripeAction::Create { .. }) {
            return Ok(state.customer_id.clone());
        }
        self.check_abandoned(client, organization_id, state.customer_id.as_deref())
            .await?;
        match &state.customer_id {
            Some(customer_id) => Ok(Some(customer_id.clone())),
            None => {
                let made = self.make_customer(client, organization_id, &state.name, initiator);
                Ok(Some(made.await?))
            }
        }
    }

    /// Rejects a new subscription if Stripe has carried out a creation that
    /// recovery has abandoned.
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
            return Err(ChangeRejection::SubscriptionExists.into());
        }
        Ok(())
    }

    /// The current time of the subscription's customer, who may be on a test
    /// clock.
    pub(in crate::subscriptions) async fn time_of(
        &self,
        client: &Client,
        subscription: &SubscriptionRow,
    ) -> Result<Timestamp, Failure> {
        let secs = match &subscription.test_clock_id {
            Some(clock) => client.test_clock(clock).await.map_err(Failure::Stripe)?,
            None => Timestamp::now().as_second(),
        };
        Timestamp::from_second(secs).map_err(|_| Failure::Unexpected("a clock is out of range"))
    }
}

/// Changes whenever the decision about a command could.
fn fingerprint(state: &SubscriptionState) -> (String, Option<String>) {
    let subscription = state.subscription.as_ref();
    (
        state.plan_tier.clone(),
        subscription.map(SubscriptionRow::fingerprint),
    )
}

/// The state before a change, as the audit entry shows it.
fn summary(state: &SubscriptionState) -> Value {
    match &state.subscription {
        None => json!({"planTier": state.plan_tier}),
        Some(subscription) => json!({
            "status": subscription.status,
            "planTier": subscription.plan_tier,
            "stripeCustomerId": subscription.customer_id,
            "currency": subscription.currency,
            "currentPeriodStart": subscription.period_start,
            "currentPeriodEnd": subscription.period_end,
            "billingCycleAnchor": subscription.anchor,
            "billingMode": subscription.billing_mode,
            "trialEnd": subscription.trial_end,
            "cancelAt": subscription.cancel_at,
            "cancelAtPeriodEnd": subscription.cancel_at_period_end,
            "canceledAt": subscription.canceled_at,
            "latestInvoiceId": subscription.latest_invoice_id,
            "discounted": subscription.discounted,
            "discounts": subscription.discount_ids,
            "taxed": subscription.taxed,
            "pendingChange": subscription.pending,
            "items": subscription
                .items
                .iter()
                .map(|item| json!({"price": item.price_id, "quantity": item.quantity}))
                .collect::<Vec<Value>>(),
        }),
    }
}
