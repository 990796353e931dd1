//! What a payer has done on the page, as Stripe shows it.

use billing_domain::status::SubscriptionStatus;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{COMPLETED, Checkout, CheckoutFailure, DUPLICATE, EXPIRED, PROCESSING, State, store};
use crate::audit::{self, NewEntry};
use crate::db::{RequestTx, TenantTx};
use crate::stripe::client::{Client, ErrorKind, Params};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::change::record::Initiator;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::fetch;
use crate::subscriptions::payer::id_in;
use crate::subscriptions::refunds::Refunding;

/// Why what was bought is taken back.
const ANOTHER_RAN: &str = "bought by a checkout although another subscription had begun";
const TRIAL_USED: &str = "a trial was had with this card before";

/// How long a bank may take to say whether it pays.
const LONGEST_DEBIT: SignedDuration = SignedDuration::from_hours(14 * 24);

impl Subscriptions {
    /// A checkout of the organization.
    pub async fn checkout(
        &self,
        organization_id: Uuid,
        session_id: &str,
    ) -> Result<Checkout, CheckoutFailure> {
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        let found = store::by_session(&mut tx, session_id).await?;
        found.ok_or(CheckoutFailure::NotFound)
    }

    /// Reads from Stripe what the payer has done, and mirrors it.
    pub async fn complete_checkout(
        &self,
        organization_id: Uuid,
        session_id: &str,
    ) -> Result<Checkout, CheckoutFailure> {
        let found = self.checkout(organization_id, session_id).await?;
        let now = match found.state.is_over() {
            true => found,
            false => self.conclude(self.stripe()?, &found).await?,
        };
        match now.state {
            State::Expired | State::Failed => Err(CheckoutFailure::Expired),
            State::Duplicate if now.why.as_deref() == Some(TRIAL_USED) => {
                Err(CheckoutFailure::TrialUsed)
            }
            State::Duplicate => Err(CheckoutFailure::Duplicate),
            _ => Ok(now),
        }
    }

    /// Brings a checkout that has a page to where it is in Stripe.
    pub(super) async fn conclude(
        &self,
        client: &Client,
        checkout: &Checkout,
    ) -> Result<Checkout, Failure> {
        let session_id = checkout.session_id.as_deref().unwrap_or_default();
        match client.checkout_session(session_id).await {
            Ok(response) => match response.body["status"].as_str() {
                Some("open") => return Ok(checkout.clone()),
                Some("complete") => self.bought(client, checkout, &response.body).await?,
                _ => self.note(checkout, State::Expired, None, EXPIRED).await?,
            },
            Err(error) if error.kind == ErrorKind::NotFound => self.vanished(checkout).await?,
            Err(error) => return Err(Failure::Stripe(error)),
        }
        let mut tx = RequestTx::begin(&self.pool, checkout.organization_id).await?;
        let found = store::by_session(&mut tx, session_id).await?;
        found.ok_or(Failure::Unexpected("a checkout has vanished"))
    }

    /// Closes a checkout whose session Stripe does not know any more: another account's, or
    /// deleted test data. Nothing can be learned about it, and it must block nobody.
    async fn vanished(&self, checkout: &Checkout) -> Result<(), Failure> {
        tracing::error!(
            organization_id = %checkout.organization_id,
            session_id = checkout.session_id,
            "Stripe does not know the session of a checkout: the checkout is closed; look in \
             Stripe whether something was paid"
        );
        let (state, action) = match (checkout.state, checkout.taking_back) {
            (State::Processing, Some(true)) => (State::Duplicate, DUPLICATE),
            (State::Processing, _) => (State::Complete, COMPLETED),
            _ => (State::Expired, EXPIRED),
        };
        self.note(checkout, state, None, action).await
    }

    /// Mirrors what was bought, unless the organization has subscribed otherwise.
    async fn bought(
        &self,
        client: &Client,
        checkout: &Checkout,
        session: &Value,
    ) -> Result<(), Failure> {
        let organization_id = checkout.organization_id;
        let id = id_in(session, "subscription");
        let id = id.ok_or(Failure::Unexpected("a checkout made no subscription"))?;
        let customer = id_in(session, "customer");
        let customer = customer.as_deref().unwrap_or(checkout.customer());
        self.mirror_customer(client, organization_id, customer)
            .await?;
        let snapshot = fetch(client, &id).await.map_err(Failure::Stripe)?;
        let bought = snapshot.object.clone();
        self.mirror_snapshot(organization_id, snapshot, None)
            .await?;
        let is_unpaid = session["payment_status"] == "unpaid";
        if self
            .is_taken_back(client, checkout, customer, &bought)
            .await?
        {
            return self.take_back(client, checkout, &bought, is_unpaid).await;
        }
        let (state, action) = match bought["status"].as_str() {
            // A payment that a bank refuses leaves a subscription that does not run.
            Some("active" | "trialing" | "incomplete") if is_unpaid => {
                (State::Processing, PROCESSING)
            }
            // Its first payment was never made.
            Some("incomplete_expired") => (State::Expired, EXPIRED),
            _ => (State::Complete, COMPLETED),
        };
        self.note(checkout, state, Some(&id), action).await
    }

    /// Whether what was bought is given up: for a subscription that had begun before, or as a
    /// trial of a card that had one. It is decided once: what others do while a bank takes its
    /// time changes nothing.
    async fn is_taken_back(
        &self,
        client: &Client,
        checkout: &Checkout,
        customer: &str,
        bought: &Value,
    ) -> Result<bool, Failure> {
        if let Some(decided) = checkout.taking_back {
            return Ok(decided);
        }
        let organization_id = checkout.organization_id;
        let another = self.ran_before(client, organization_id, customer, bought);
        let why = match another.await? {
            true => Some(ANOTHER_RAN),
            false => {
                let had = self.had_trial_elsewhere(client, organization_id, bought);
                had.await?.then_some(TRIAL_USED)
            }
        };
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let decided = store::decide(&mut tx, checkout.id, why).await?;
        tx.commit().await?;
        Ok(decided)
    }

    /// Whether another subscription runs that is not younger than the one that was bought.
    /// Stripe is asked, which may know one whose events have not come yet: it is mirrored.
    async fn ran_before(
        &self,
        client: &Client,
        organization_id: Uuid,
        customer: &str,
        bought: &Value,
    ) -> Result<bool, Failure> {
        let id = bought["id"].as_str().unwrap_or_default();
        let since = bought["created"].as_i64();
        let all = client.subscriptions(Some(customer)).await;
        for one in all.map_err(Failure::Stripe)? {
            let status = one["status"].as_str().unwrap_or_default();
            let status = SubscriptionStatus::from(status);
            let other = one["id"].as_str().filter(|other| *other != id);
            let runs = !status.is_ended() && status != SubscriptionStatus::Incomplete;
            if let (Some(other), true) = (other, runs) {
                let snapshot = fetch(client, other).await.map_err(Failure::Stripe)?;
                self.mirror_snapshot(organization_id, snapshot, None)
                    .await?;
            }
        }
        let state = self.state(organization_id).await?;
        let mut all = state.subscription.iter().chain(&state.others);
        let is_older = |created: Timestamp| since.is_none_or(|since| created.as_second() <= since);
        Ok(all.any(|one| one.id != id && !one.is_incomplete() && one.created.is_none_or(is_older)))
    }

    /// Cancels a subscription that was bought beside another one, and gives back what was
    /// paid for it.
    async fn take_back(
        &self,
        client: &Client,
        checkout: &Checkout,
        bought: &Value,
        is_awaited: bool,
    ) -> Result<(), Failure> {
        let organization_id = checkout.organization_id;
        let id = bought["id"].as_str().unwrap_or_default();
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        let noted = store::by_id(&mut tx, checkout.id).await?;
        drop(tx);
        let why = noted.and_then(|noted| noted.why);
        let why = why.as_deref().unwrap_or(ANOTHER_RAN);
        let params = Params::new().set("cancellation_details[comment]", why);
        let key = Uuid::now_v7().to_string();
        match client.cancel_subscription(id, &params, &key).await {
            Ok(_) => {}
            // It was canceled before.
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::Stripe(error)),
        }
        let snapshot = fetch(client, id).await.map_err(Failure::Stripe)?;
        self.mirror_snapshot(organization_id, snapshot, None)
            .await?;
        // What a bank pays days later is given back then.
        let age = Timestamp::now().duration_since(checkout.created_at);
        if is_awaited && age < LONGEST_DEBIT {
            let state = State::Processing;
            return self.note(checkout, state, Some(id), PROCESSING).await;
        }
        if let Some(invoice) = id_in(bought, "latest_invoice") {
            self.give_back_checkout(client, checkout, (id, &invoice))
                .await?;
        }
        match why {
            TRIAL_USED => tracing::info!(
                %organization_id, subscription_id = id,
                "A trial of a card that had one before was canceled"
            ),
            _ => tracing::error!(
                %organization_id, subscription_id = id,
                "A checkout was paid although another subscription had begun: the second one \
                 was canceled, and its payment is refunded"
            ),
        }
        self.note(checkout, State::Duplicate, Some(id), DUPLICATE)
            .await
    }

    /// Refunds the payments of an invoice.
    async fn give_back_checkout(
        &self,
        client: &Client,
        checkout: &Checkout,
        (subscription, invoice): (&str, &str),
    ) -> Result<(), Failure> {
        let shown = client.invoice_now(invoice).await;
        let shown = shown.map_err(Failure::Stripe)?.body;
        let payments = shown["payments"]["data"].as_array();
        let paid = payments.into_iter().flatten();
        let paid = paid.filter(|payment| payment["status"] == "paid");
        let paid = paid.filter_map(|payment| id_in(&payment["payment"], "payment_intent"));
        let refunding = Refunding {
            organization_id: checkout.organization_id,
            by: checkout.id,
            key: &|step| checkout.key(step),
            about: json!({
                "checkout": checkout.id,
                "stripeSubscriptionId": subscription,
            }),
        };
        let payments: Vec<String> = paid.collect();
        self.give_back(client, &refunding, &payments).await
    }

    /// Moves a checkout on, with its audit entry, once.
    pub(super) async fn note(
        &self,
        checkout: &Checkout,
        state: State,
        subscription_id: Option<&str>,
        action: &'static str,
    ) -> Result<(), Failure> {
        let organization_id = checkout.organization_id;
        let initiator: Option<Initiator> =
            serde_json::from_value(checkout.context["initiator"].clone()).ok();
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        if store::advance(&mut tx, checkout.id, state, subscription_id).await? {
            let entry = NewEntry {
                organization_id,
                action,
                actor: initiator
                    .as_ref()
                    .map_or(audit::Actor::System, Initiator::actor),
                resource_type: "checkout",
                resource_id: checkout.id.to_string(),
                before: Some(json!({"state": checkout.state.as_str()})),
                after: Some(json!({
                    "state": state.as_str(),
                    "stripeCheckoutSessionId": checkout.session_id,
                    "stripeSubscriptionId": subscription_id,
                })),
                metadata: json!({}),
                client: None,
                reason: None,
            };
            audit::record(&mut tx, &locked, &[entry]).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
