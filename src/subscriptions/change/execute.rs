//! Executes a change: the call to Stripe and the handling of its response.
//!
//! The request is recorded before the call and closed in the transaction that
//! mirrors the call's effects. Without a response the request stays open; the
//! next attempt checks Stripe first, where a completed change has left its id.
//! No change is made twice, and none is made after its caller has gone.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::awaiting::{self, ended_unpaid};
use super::flexible::make_flexible;
use super::follow::follow_after;
use super::payer;
use super::record::{
    AWAITS_PAYMENT, ChangeKind, ChangeRecord, Release, audited_command, is_marked,
    is_no_longer_in_flight,
};
use super::saga::{Round, VERSION};
use super::schedule::{self, STARTS_AT};
use crate::audit::{self, NewEntry};
use crate::db::TenantTx;
use crate::metering::reports::{self, ReportError};
use crate::metering::{grace, quotas};
use crate::projection::{self, StripeResponse};
use crate::stripe::client::{self, Client, ErrorKind, StripeError};
use crate::stripe::requests::{self, Request};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::awaited::awaited_change_id;
use crate::subscriptions::command::ChangeRejection;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::{StripeSnapshot, fetch, snapshot};
use crate::subscriptions::promotion;

impl Subscriptions {
    /// Makes the call of an open request, and closes the request.
    pub(in crate::subscriptions) async fn execute(
        &self,
        client: &Client,
        request: &Request,
        change: &ChangeRecord,
    ) -> Result<Round, Failure> {
        if self.is_too_late(client, request, change).await? {
            return Err(ChangeRejection::NothingPending.into());
        }
        if let Some(at) = self.scheduled_next(client, request, change).await? {
            return Err(ChangeRejection::ScheduledInStripe(at).into());
        }
        if invoices_unreported(request, change)
            && let Err(failure) = self.report_usage(client, request.organization_id).await
        {
            let why = format!("the usage so far could not be reported to Stripe: {failure}");
            self.close_failed(request, &why).await?;
            return Err(failure);
        }
        if !requests::begin_call(&self.pool, request).await? {
            return Err(Failure::Busy);
        }
        if change.flexible && change.is_quoted() {
            return self.make_flexible_first(client, request, change).await;
        }
        self.call(client, request, change).await?;
        Ok(Round::Done)
    }

    /// Makes the call, and mirrors what comes of it.
    async fn call(
        &self,
        client: &Client,
        request: &Request,
        change: &ChangeRecord,
    ) -> Result<(), Failure> {
        match call_stripe(client, request, change).await {
            Ok(response) => {
                let snapshot = snapshot(client, request.id, response).await;
                let snapshot = snapshot.map_err(Failure::InDoubt)?;
                self.complete(client, request, change, snapshot).await
            }
            Err(error) if error.may_have_acted() => {
                self.resolve_uncertain(client, request, change, error).await
            }
            // A cancellation has no idempotency key: repeated after a lost
            // response, it finds nothing left to cancel.
            Err(error)
                if error.kind == ErrorKind::NotFound && change.kind == ChangeKind::EndNow =>
            {
                self.resolve_uncertain(client, request, change, error).await
            }
            Err(error) => {
                self.close_failed(request, &error.to_string()).await?;
                self.show_release(client, request, change).await;
                let failure = Failure::Stripe(error);
                Err(match promotion::redeems(&request.params) {
                    true => promotion::refusal(failure),
                    false => failure,
                })
            }
        }
    }

    /// Whether the change that `change` is to call off has been made meanwhile. Then the
    /// request is closed, and what was made is mirrored.
    async fn is_too_late(
        &self,
        client: &Client,
        request: &Request,
        change: &ChangeRecord,
    ) -> Result<bool, Failure> {
        match schedule::has_begun(client, request, change).await {
            Ok(false) => return Ok(false),
            Ok(true) => {}
            Err(error) => {
                self.close_failed(request, &error.to_string()).await?;
                return Err(Failure::Stripe(error));
            }
        }
        self.close_failed(request, "the change was made before it was called off")
            .await?;
        self.refresh_from_stripe(client, request.organization_id)
            .await?;
        Ok(true)
    }

    /// When the subscription's schedule does something next that the change would undo, and
    /// that nobody is shown as pending. Then the request is closed.
    async fn scheduled_next(
        &self,
        client: &Client,
        request: &Request,
        change: &ChangeRecord,
    ) -> Result<Option<Timestamp>, Failure> {
        match schedule::does_more(client, change).await {
            Ok(None) => Ok(None),
            Ok(Some(at)) => {
                let rejection = ChangeRejection::ScheduledInStripe(at);
                self.close_failed(request, &rejection.to_string()).await?;
                Ok(Some(at))
            }
            Err(error) => {
                self.close_failed(request, &error.to_string()).await?;
                Err(Failure::Stripe(error))
            }
        }
    }

    /// Makes what is left to do of a change that Stripe has made, and finishes it.
    pub(in crate::subscriptions) async fn complete(
        &self,
        client: &Client,
        request: &Request,
        change: &ChangeRecord,
        made: StripeSnapshot,
    ) -> Result<(), Failure> {
        let refused = awaiting::refused(client, request, change, &made.object).await;
        if let Some(failure) = refused.map_err(Failure::InDoubt)? {
            self.close_failed(request, &failure.to_string()).await?;
            self.show_now(client, request).await;
            return Err(failure);
        }
        let released = schedule::release_after(client, request, change, &made.object).await;
        let released = released.map_err(Failure::InDoubt)?;
        let followed = follow_after(client, request, change, &made.object).await;
        let followed = followed.map_err(Failure::InDoubt)?;
        let made = match (released || followed, &request.target_id) {
            (true, Some(id)) => {
                let now = fetch(client, id).await.map_err(Failure::InDoubt)?;
                StripeSnapshot {
                    request_id: made.request_id,
                    ..now
                }
            }
            _ => made,
        };
        self.finish(request, change, made).await
    }

    /// Mirrors that a schedule was released for a change which then was not made. Where
    /// that fails, its webhooks tell it.
    async fn show_release(&self, client: &Client, request: &Request, change: &ChangeRecord) {
        if matches!(change.releases, Some(Release::First(_))) {
            self.show_now(client, request).await;
        }
    }

    async fn show_now(&self, client: &Client, request: &Request) {
        if let Err(failure) = self
            .refresh_from_stripe(client, request.organization_id)
            .await
        {
            tracing::warn!(
                organization_id = %request.organization_id, %failure,
                "A subscription of which a change was not made could not be fetched"
            );
        }
    }

    /// Reports the current period's usage to Stripe: after the change, nothing
    /// would bill it.
    pub(in crate::subscriptions) async fn report_usage(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<(), Failure> {
        let state = self.state(organization_id).await?;
        let Some(subscription) = &state.subscription else {
            return Ok(());
        };
        let now = self.time_of(client, subscription).await?;
        let since = subscription.counts_since(now).unwrap_or(Timestamp::MIN);
        reports::report_now(
            &self.pool,
            client,
            &self.catalogue,
            organization_id,
            since,
            now,
        )
        .await
        .map_err(|error| match error {
            ReportError::Database(error) => Failure::Database(error),
            ReportError::Stripe(error) => Failure::Stripe(error),
            ReportError::Uncounted { metric } => Failure::UsageNotCounted(metric),
        })
    }

    /// Stripe may have made the change, so its state is checked.
    async fn resolve_uncertain(
        &self,
        client: &Client,
        request: &Request,
        change: &ChangeRecord,
        error: StripeError,
    ) -> Result<(), Failure> {
        match find_outcome(client, request, change).await {
            Ok(Some(snapshot)) => self.complete(client, request, change, snapshot).await,
            // Stripe responded, so it is no longer working on the request.
            Ok(None) if matches!(error.kind, ErrorKind::Server | ErrorKind::NotFound) => {
                let undone = schedule::undo(client, request, change).await;
                undone.map_err(Failure::InDoubt)?;
                self.close_failed(request, &error.to_string()).await?;
                self.show_release(client, request, change).await;
                Err(Failure::Stripe(error))
            }
            // The target does not exist, so nothing was changed.
            Err(missing) if missing.kind == ErrorKind::NotFound => {
                self.close_failed(request, &missing.to_string()).await?;
                Err(Failure::Stripe(missing))
            }
            Ok(None) | Err(_) => Err(Failure::InDoubt(error)),
        }
    }

    /// Settles an open request. Returns false if its outcome is still unknown.
    pub(in crate::subscriptions) async fn settle(
        &self,
        client: &Client,
        request: &Request,
        change: &ChangeRecord,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let outcome = match find_outcome(client, request, change).await {
            // The target or its customer does not exist, so nothing was changed.
            Err(missing) if missing.kind == ErrorKind::NotFound => {
                self.close_failed(request, &missing.to_string()).await?;
                return Ok(true);
            }
            outcome => outcome.map_err(Failure::Stripe)?,
        };
        match outcome {
            Some(snapshot) => {
                self.complete(client, request, change, snapshot).await?;
                Ok(true)
            }
            None if is_no_longer_in_flight(request, now) => {
                let undone = schedule::undo(client, request, change).await;
                undone.map_err(Failure::Stripe)?;
                self.close_failed(request, "Stripe did not do it, and nobody asked again")
                    .await?;
                self.show_release(client, request, change).await;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Mirrors the outcome, writes the audit entries and closes the request, in
    /// one transaction.
    pub(in crate::subscriptions) async fn finish(
        &self,
        request: &Request,
        change: &ChangeRecord,
        snapshot: StripeSnapshot,
    ) -> Result<(), Failure> {
        let organization_id = request.organization_id;
        self.learn(&snapshot.object).await?;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        match requests::lock(tx.conn(), request).await? {
            requests::State::Open => {}
            // Another replica has finished the same request.
            requests::State::Succeeded => return Ok(()),
            requests::State::Failed => tracing::warn!(
                %organization_id, request = %request.id,
                "Stripe has made a change whose request was closed as failed"
            ),
        }
        quotas::release_seats(&mut tx).await?;
        let response = StripeResponse {
            organization_id,
            request: snapshot.asked,
            kind: snapshot.kind,
            object: &snapshot.object,
            at: snapshot.at,
            actor: change.actor.actor(),
        };
        let shown = projection::mirror(tx.conn(), &locked, &self.catalogue, response).await?;
        let id = &shown.subscription.id;
        let awaits = awaited_change_id(&snapshot.object) == Some(&*change.id.to_string());
        let audit_action = match awaits {
            true => AWAITS_PAYMENT,
            false => change.kind.audit_action(),
        };
        let (wish, reason) = audited_command(&change.command);
        let mut entries = vec![NewEntry {
            organization_id,
            action: audit_action,
            actor: change.actor.actor(),
            resource_type: "subscription",
            resource_id: id.clone(),
            before: Some(change.before.clone()),
            after: Some(with_pending_change(shown.after, request, change)),
            metadata: json!({
                "change_id": change.id,
                "wish": wish,
                "idempotency_key": request.key(),
                "stripe_request_id": snapshot.request_id,
                "released_schedule": change.releases.as_ref().map(Release::id),
            }),
            client: Some(change.actor.client()),
            reason,
        }];
        entries.extend(shown.entries);
        audit::record(&mut tx, &locked, &entries).await?;
        requests::succeeded(tx.conn(), request, id).await?;
        tx.commit().await?;
        projection::report_alerts(&shown.alerts);
        grace::count(&shown.graces);
        tracing::info!(
            %organization_id, subscription_id = id, action = audit_action, "Subscription changed"
        );
        Ok(())
    }

    /// Closes a request that changed nothing.
    pub(in crate::subscriptions) async fn close_failed(
        &self,
        request: &Request,
        why: &str,
    ) -> Result<(), sqlx::Error> {
        let organization_id = request.organization_id;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        audit::lock_chains(tx.conn(), &[organization_id]).await?;
        if requests::lock(tx.conn(), request).await? == requests::State::Open {
            quotas::release_seats(&mut tx).await?;
            requests::failed(tx.conn(), request, why).await?;
        }
        tx.commit().await
    }
}

/// The subscription's summary with the change that is still to come.
fn with_pending_change(mut summary: Value, request: &Request, change: &ChangeRecord) -> Value {
    if change.kind == ChangeKind::SwitchLater {
        let starts_at = request.params.get(STARTS_AT);
        let starts_at = starts_at.and_then(|secs| Timestamp::from_second(secs.parse().ok()?).ok());
        let version = request.params.get(VERSION);
        let named = version.and_then(|version| Some(version.rsplit_once('@')?.0));
        let tier = named.map_or_else(|| change.command["planTier"].clone(), Value::from);
        summary["pendingChange"] = json!({"planTier": tier, "effectiveAt": starts_at});
        for said in ["interval", "quantity", "addons"] {
            if !change.command[said].is_null() {
                summary["pendingChange"][said] = change.command[said].clone();
            }
        }
    }
    summary
}

/// Whether Stripe invoices the current period's usage with the change, and is to be told
/// of it: when the subscription ends at once, and when the period restarts. What was
/// quoted is charged: Stripe knew the usage when it was asked for the price once more, and
/// what is used since is not added.
fn invoices_unreported(request: &Request, change: &ChangeRecord) -> bool {
    let restarts = || request.params.get("billing_cycle_anchor").is_some();
    match change.kind {
        ChangeKind::EndNow => true,
        ChangeKind::Switch => restarts() && !change.is_quoted(),
        _ => false,
    }
}

async fn call_stripe(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<client::Response, StripeError> {
    let key = request.key();
    let target = request.target_id.as_deref().unwrap_or_default();
    schedule::release_first(client, request, change).await?;
    make_flexible(client, request, change).await?;
    match change.kind {
        ChangeKind::Create
        | ChangeKind::Switch
        | ChangeKind::Redeem
        | ChangeKind::EndWithPeriod
        | ChangeKind::Keep => payer::paid_or_awaited(client, request, change).await,
        ChangeKind::EndNow => awaiting::end(client, request, change).await,
        ChangeKind::SwitchLater => schedule::switch_later(client, request, change).await,
        ChangeKind::Withdraw => awaiting::withdraw(client, request, change).await,
        ChangeKind::CallOff => {
            if let Some(schedule) = change.releases.as_ref().map(Release::id) {
                schedule::release(client, schedule, true, &key).await?;
            }
            let made = client.subscription(target).await;
            made.map_err(StripeError::after_acting)
        }
    }
}

/// The subscription, if Stripe has made the change.
pub(in crate::subscriptions) async fn find_outcome(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<Option<StripeSnapshot>, StripeError> {
    let found = match (change.kind, &request.target_id) {
        (ChangeKind::Create, _) => {
            let Some(customer) = request.params.get("customer") else {
                return Ok(None);
            };
            let all = client.subscriptions(Some(customer)).await?;
            let made = all.into_iter().find(|object| is_marked(object, change));
            match made.as_ref().and_then(|object| object["id"].as_str()) {
                // A list has no time of its own, so the object is fetched again.
                Some(id) => Some(fetch(client, id).await?),
                None => None,
            }
        }
        (ChangeKind::Withdraw, _) => awaiting::find_withdrawn(client, request, change).await?,
        (_, Some(id)) => {
            let found = fetch(client, id).await?;
            // A schedule that is gone since its phase has begun was not called off.
            let is_made = is_marked(&found.object, change) || ended_unpaid(&found.object, change);
            let made = is_made && !schedule::has_begun(client, request, change).await?;
            return Ok(made.then_some(found));
        }
        (_, None) => None,
    };
    Ok(found)
}
