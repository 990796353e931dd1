//! The saga of a change, from the command to the recorded and executed action.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use billing_domain::status::SubscriptionStatus;

use super::execute::find_outcome;
use super::record::{ChangeKind, ChangeRecord, Initiator, Release, mark, recorded_command};
use crate::audit::{self, Actor};
use crate::db::TenantTx;
use crate::server::layers::idempotency::Key;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::stripe::requests::{self, Begun, NewRequest, Request, Subject};
use crate::subscriptions::command::{ChangeRejection, Command, StripeAction, decide};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::StripePresence;
use crate::subscriptions::preview::token::Quote;
use crate::subscriptions::preview::{Asked, PreviewUnavailable};
use crate::subscriptions::promotion::check_text;
use crate::subscriptions::state::{SubscriptionRow, SubscriptionState};
use crate::subscriptions::{PendingChangeView, Subscriptions};
use crate::tenancy::auth::Principal;

/// Who requests a change, and for which organization.
#[derive(Debug, Clone)]
pub struct Requester {
    pub organization_id: Uuid,
    pub actor: Actor,
    pub client: audit::Client,
    pub idempotency_key: Option<String>,
    /// Whether the payer is there to confirm a payment. If not, one that the bank asks
    /// its cardholder about is refused.
    pub payer_acts: bool,
}

impl Requester {
    pub fn of(caller: Principal, key: Option<Key>) -> Self {
        Self {
            organization_id: caller.organization_id,
            actor: caller.actor,
            client: caller.client,
            idempotency_key: key.map(|key| key.as_str().to_owned()),
            payer_acts: false,
        }
    }

    /// The same, beside its payer.
    pub fn with_payer(self) -> Self {
        Self {
            payer_acts: true,
            ..self
        }
    }
}

/// The parameter that names the version of the plan: what is bought is kept.
pub(super) const VERSION: &str = "metadata[plan_version]";

/// How often a change is decided when concurrent changes interfere.
const MAX_ROUNDS: usize = 6;

pub(in crate::subscriptions) enum Round {
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
    /// The only card may not be the default yet.
    card: bool,
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
            let round = self
                .or_only_card(client, requester, round, &mut retries)
                .await?;
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

    /// If Stripe has nothing to charge, the only payment method becomes the default, and
    /// the command is decided again.
    async fn or_only_card(
        &self,
        client: &Client,
        requester: &Requester,
        round: Result<Round, Failure>,
        retries: &mut Retries,
    ) -> Result<Result<Round, Failure>, Failure> {
        match round {
            Err(Failure::Stripe(error))
                if error.lacks_payment_method() && !std::mem::replace(&mut retries.card, true) =>
            {
                Ok(match self.adopt_only_card(client, requester).await? {
                    true => Ok(Round::Again),
                    false => Err(Failure::Stripe(error)),
                })
            }
            round => Ok(round),
        }
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
        let Some(snapshot) = outcome else {
            return self.execute(client, request, &change).await;
        };
        self.complete(client, request, &change, snapshot).await?;
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
        let same = self.same_awaited(client, organization_id, &state, command, recorded);
        if let Some(round) = same.await? {
            return Ok(round);
        }
        self.recall_terms(&state).await?;
        let action = decide(&state, &self.catalogue, command)?;
        let Some(kind) = ChangeKind::of(&action) else {
            return Ok(Round::Done);
        };
        if let Some(quote) = quote {
            self.check_state(quote, organization_id, &state, command, Timestamp::now())?;
        }
        let code = command.promotion_code();
        let payment = self.payment(client, requester, &state, &action, code);
        let Some(payment) = payment.await? else {
            return Ok(Round::Again);
        };
        self.check_seats(organization_id, &action).await?;
        let extras = self.extras(Some(client), organization_id, &state, &action, code);
        let extras = extras.await?;
        let asked = Asked {
            organization_id,
            action: &action,
            extras: &extras,
            customer_id: state.customer_id.as_deref(),
        };
        if code.is_some() {
            self.check_code(client, asked, quote).await?;
        }
        self.begin_trial(client, requester, &action).await?;
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
            payer_acts: payment.may_wait,
            voids: payment.voids,
        };
        let customer_id = self
            .customer_for(client, organization_id, &state, &action, &change.actor)
            .await?;
        let asked = Asked {
            customer_id: customer_id.as_deref(),
            ..asked
        };
        let call = self.parameters(client, asked, quote).await?;
        // One that has to be put into flexible billing is priced in it.
        if let (Some(quote), None, false) = (quote, code, call.flexible) {
            let now = Timestamp::now();
            self.check_price(client, asked, quote, now).await?;
        }
        change.take_terms(call.usage, call.flexible, state.subscription.as_ref());
        let new = NewRequest {
            subject: Subject::Subscription,
            operation: kind.operation(),
            target_id: call.target_id,
            params: mark(call.params, &change),
            context: change.context(),
        };
        self.record_and_execute(client, asked, &state, &change, new)
            .await
    }

    /// Records the request of a decided change, and executes it.
    async fn record_and_execute(
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
        // Nor may a payer buy another one beside it.
        if change.kind == ChangeKind::Create {
            match self.close_checkout(client, organization_id).await {
                Ok(false) => {}
                Ok(true) => {
                    self.close_failed(&request, "a checkout was open").await?;
                    return Ok(Round::Again);
                }
                Err(failure) => {
                    self.close_failed(&request, &failure.to_string()).await?;
                    return Err(failure);
                }
            }
        }
        if let Err(failure) = self.hold_seats(organization_id, asked.action).await {
            self.close_failed(&request, &failure.to_string()).await?;
            return Err(failure);
        }
        self.execute(client, &request, change).await
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
            Ok(_)
            | Err(Failure::PreviewUnavailable(
                PreviewUnavailable::NotPriced { .. } | PreviewUnavailable::CodeEndsBefore(_),
            )) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// The customer of the change; a new subscription's is created if there is none.
    pub(in crate::subscriptions) async fn customer_for(
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
                .is_some_and(|status| !SubscriptionStatus::from(status).is_ended())
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
fn fingerprint(state: &SubscriptionState) -> (&str, Option<(&Option<String>, String)>) {
    let subscription = state.subscription.as_ref();
    (
        &state.plan_tier,
        subscription.map(|one| (&one.billing_mode, one.fingerprint())),
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
            "pendingChange": PendingChangeView::of(subscription),
            "items": subscription
                .items
                .iter()
                .map(|item| json!({"price": item.price_id, "quantity": item.quantity}))
                .collect::<Vec<Value>>(),
        }),
    }
}
