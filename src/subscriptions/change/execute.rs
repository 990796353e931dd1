//! Making a change: the call to Stripe, and what follows from its answer.
//!
//! The request is in the ledger before the call, and is closed in the
//! transaction that has the call's effects. Where no answer came, it stays
//! open; whoever comes next looks at Stripe first, where the change left its
//! mark if it was made. Nothing is done twice, and nothing is done later that
//! nobody waits for any more.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::record::{Change, Kind, is_marked, is_quiet};
use crate::audit::{self, NewEntry};
use crate::db::TenantTx;
use crate::metering::grace;
use crate::metering::reports::{self, ReportError};
use crate::projection::{self, Answer};
use crate::stripe::client::{self, Client, ErrorKind, StripeError};
use crate::stripe::requests::{self, Request};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;
use crate::telemetry::metrics;

/// A subscription as Stripe shows it.
pub struct Seen {
    pub object: Value,
    /// When, on the clock that its customer lives by.
    pub at: Timestamp,
    /// Stripe's name for the request.
    pub request_id: Option<String>,
}

impl Subscriptions {
    /// Makes the call of a request that was just entered, or that is asked for
    /// again, and closes it.
    pub(in crate::subscriptions) async fn carry_out(
        &self,
        client: &Client,
        request: &Request,
        change: &Change,
    ) -> Result<(), Failure> {
        if invoices_at_once(request, change.kind)
            && let Err(failure) = self.tell_usage(client, request.organization_id).await
        {
            let why = format!("Stripe was not told of the usage so far: {failure}");
            self.give_up(request, &why).await?;
            return Err(failure);
        }
        match call(client, request, change.kind).await {
            Ok(answer) => {
                let seen = seen(client, answer).await.map_err(Failure::InDoubt)?;
                self.finish(request, change, seen).await
            }
            Err(error) if error.may_have_acted() => {
                self.after_doubt(client, request, change, error).await
            }
            // An end has no idempotency key: asked for again after an answer
            // that was lost, it finds nothing left to end.
            Err(error) if error.kind == ErrorKind::NotFound && change.kind == Kind::EndNow => {
                self.after_doubt(client, request, change, error).await
            }
            Err(error) => {
                self.give_up(request, &error.to_string()).await?;
                Err(Failure::Stripe(error))
            }
        }
    }

    /// Tells Stripe's meters of what the current period has used so far: what
    /// comes after the change is billed by nothing.
    async fn tell_usage(&self, client: &Client, organization_id: Uuid) -> Result<(), Failure> {
        let standing = self.standing(organization_id).await?;
        let Some(held) = &standing.subscription else {
            return Ok(());
        };
        let now = self.time_of(client, held).await?;
        let since = held.period_start.unwrap_or(Timestamp::MIN);
        reports::tell_now(
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
        })
    }

    /// Stripe may have acted: it is asked.
    async fn after_doubt(
        &self,
        client: &Client,
        request: &Request,
        change: &Change,
        error: StripeError,
    ) -> Result<(), Failure> {
        match look(client, request, change).await {
            Ok(Some(seen)) => self.finish(request, change, seen).await,
            // It answered, so it is not at work on it any more.
            Ok(None) if matches!(error.kind, ErrorKind::Server | ErrorKind::NotFound) => {
                self.give_up(request, &error.to_string()).await?;
                Err(Failure::Stripe(error))
            }
            // Nothing was done to what is not there.
            Err(missing) if missing.kind == ErrorKind::NotFound => {
                self.give_up(request, &missing.to_string()).await?;
                Err(Failure::Stripe(missing))
            }
            Ok(None) | Err(_) => Err(Failure::InDoubt(error)),
        }
    }

    /// Settles a request that somebody left open. False: it cannot be told yet
    /// what becomes of it.
    pub(in crate::subscriptions) async fn settle(
        &self,
        client: &Client,
        request: &Request,
        change: &Change,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let looked = match look(client, request, change).await {
            // Nothing was done to what is not there, or for a customer who is not.
            Err(missing) if missing.kind == ErrorKind::NotFound => {
                self.give_up(request, &missing.to_string()).await?;
                return Ok(true);
            }
            looked => looked.map_err(Failure::Stripe)?,
        };
        match looked {
            Some(seen) => {
                self.finish(request, change, seen).await?;
                Ok(true)
            }
            None if is_quiet(request, now) => {
                self.give_up(request, "Stripe did not do it, and nobody asked again")
                    .await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Mirrors what the change came to, enters it in the audit log, and closes
    /// the request, in one transaction.
    pub(in crate::subscriptions) async fn finish(
        &self,
        request: &Request,
        change: &Change,
        seen: Seen,
    ) -> Result<(), Failure> {
        let organization_id = request.organization_id;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        if !requests::lock_open(tx.conn(), request).await? {
            // Somebody else was first, and did the same.
            return Ok(());
        }
        let answer = Answer {
            organization_id,
            request: request.id,
            object: &seen.object,
            at: seen.at,
            actor: change.actor.actor(),
        };
        let shown = projection::mirror(tx.conn(), &locked, &self.catalogue, answer).await?;
        let id = &shown.subscription.id;
        let mut entries = vec![NewEntry {
            organization_id,
            action: change.kind.action(),
            actor: change.actor.actor(),
            resource_type: "subscription",
            resource_id: id.clone(),
            before: Some(change.before.clone()),
            after: Some(shown.after),
            metadata: json!({
                "change_id": change.id,
                "wish": change.wish,
                "idempotency_key": request.key(),
                "stripe_request_id": seen.request_id,
            }),
            client: Some(change.actor.client()),
        }];
        entries.extend(shown.entries);
        audit::append(tx.conn(), &locked, &entries).await?;
        requests::succeeded(tx.conn(), request, id).await?;
        tx.commit().await?;
        let actions: Vec<&'static str> = entries.iter().map(|entry| entry.action).collect();
        metrics::audit_entries(&actions);
        projection::report_alerts(&shown.alerts);
        grace::count(&shown.graces);
        tracing::info!(
            %organization_id, subscription_id = id, action = change.kind.action(), "Subscription changed"
        );
        Ok(())
    }

    /// Closes a request that came to nothing.
    pub(in crate::subscriptions) async fn give_up(
        &self,
        request: &Request,
        why: &str,
    ) -> Result<(), sqlx::Error> {
        let mut tx = TenantTx::begin(&self.pool, request.organization_id).await?;
        if requests::lock_open(tx.conn(), request).await? {
            requests::failed(tx.conn(), request, why).await?;
        }
        tx.commit().await
    }
}

/// Whether Stripe invoices the usage of the current period with the change: at
/// the end, and where the period begins anew.
fn invoices_at_once(request: &Request, kind: Kind) -> bool {
    kind == Kind::EndNow || request.params.get("billing_cycle_anchor").is_some()
}

async fn call(
    client: &Client,
    request: &Request,
    kind: Kind,
) -> Result<client::Answer, StripeError> {
    let key = request.key();
    let target = request.target_id.as_deref().unwrap_or_default();
    match kind {
        Kind::Create => client.create_subscription(&request.params, &key).await,
        Kind::Switch | Kind::EndWithPeriod | Kind::Keep => {
            client
                .update_subscription(target, &request.params, &key)
                .await
        }
        Kind::EndNow => {
            client
                .cancel_subscription(target, &request.params, &key)
                .await
        }
    }
}

/// The subscription, if the change was made.
pub(in crate::subscriptions) async fn look(
    client: &Client,
    request: &Request,
    change: &Change,
) -> Result<Option<Seen>, StripeError> {
    let found = match (change.kind, &request.target_id) {
        (Kind::Create, _) => {
            let Some(customer) = request.params.get("customer") else {
                return Ok(None);
            };
            let all = client.subscriptions(Some(customer)).await?;
            let made = all.into_iter().find(|object| is_marked(object, change));
            match made.as_ref().and_then(|object| object["id"].as_str()) {
                // Looked at by itself, for the time that goes with it.
                Some(id) => Some(client.subscription(id).await?),
                None => None,
            }
        }
        (_, Some(id)) => {
            let answer = client.subscription(id).await?;
            is_marked(&answer.body, change).then_some(answer)
        }
        (_, None) => None,
    };
    match found {
        Some(answer) => Ok(Some(seen(client, answer).await?)),
        None => Ok(None),
    }
}

/// An answer with all items and its time: Stripe's own, or that of the
/// customer's test clock.
pub(in crate::subscriptions) async fn seen(
    client: &Client,
    mut answer: client::Answer,
) -> Result<Seen, StripeError> {
    client.fetch_missing_items(&mut answer.body).await?;
    let at = match answer.body["test_clock"].as_str() {
        Some(clock) => {
            let secs = client.test_clock(clock).await?;
            Timestamp::from_second(secs).ok()
        }
        None => answer.date,
    };
    Ok(Seen {
        at: at.unwrap_or_else(Timestamp::now),
        object: answer.body,
        request_id: answer.request_id,
    })
}
