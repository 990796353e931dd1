//! Fetches a subscription from Stripe and mirrors it.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::change::recover::pause_after;
use super::failure::Failure;
use super::store::StaleMirror;
use super::{Subscriptions, store};
use crate::audit::{self, Actor, NewEntry};
use crate::db::{TenantTx, WorkerTx};
use crate::metering::grace;
use crate::projection::{self, ResponseKind, StripeResponse};
use crate::stripe::client::{self, Client, ErrorKind, StripeError};
use crate::stripe::objects::{Subscription, SubscriptionSchedule};

/// An object as Stripe showed it at a time.
pub struct StripeSnapshot {
    pub object: Value,
    /// The time on the customer's clock.
    pub at: Timestamp,
    /// Stripe's id of the request.
    pub request_id: Option<String>,
    /// Our id of it, made before it was sent.
    pub asked: Uuid,
    pub kind: ResponseKind,
}

/// Whether Stripe has the subscription that counts here.
pub(super) enum StripePresence {
    /// It is mirrored now, or the organization has none.
    Present,
    Missing(String),
}

/// Fetches a subscription.
pub(super) async fn fetch(client: &Client, id: &str) -> Result<StripeSnapshot, StripeError> {
    // A change that is made meanwhile has a later id.
    let asked = Uuid::now_v7();
    let response = client.subscription(id).await?;
    Ok(StripeSnapshot {
        asked,
        kind: ResponseKind::Question,
        ..snapshot(client, asked, response).await?
    })
}

/// Completes the response to a change with all its items, its schedule and its time:
/// Stripe's, or that of the customer's test clock.
pub(super) async fn snapshot(
    client: &Client,
    asked: Uuid,
    mut response: client::Response,
) -> Result<StripeSnapshot, StripeError> {
    client.fetch_missing_items(&mut response.body).await?;
    client.fetch_schedule(&mut response.body).await?;
    let at = match response.body["test_clock"].as_str() {
        Some(clock) => {
            let secs = client.test_clock(clock).await?;
            Timestamp::from_second(secs).ok()
        }
        None => response.date,
    };
    Ok(StripeSnapshot {
        at: at.unwrap_or_else(Timestamp::now),
        object: response.body,
        request_id: response.request_id,
        asked,
        kind: ResponseKind::Change,
    })
}

impl Subscriptions {
    /// Fetches the organization's subscription from Stripe and mirrors it.
    pub(super) async fn refresh_from_stripe(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<StripePresence, Failure> {
        let state = self.state(organization_id).await?;
        let Some(subscription) = state.subscription else {
            return Ok(StripePresence::Present);
        };
        let snapshot = match fetch(client, &subscription.id).await {
            Ok(snapshot) => snapshot,
            Err(error) if error.kind == ErrorKind::NotFound => {
                return Ok(StripePresence::Missing(subscription.id));
            }
            Err(error) => return Err(Failure::Stripe(error)),
        };
        self.mirror_snapshot(organization_id, snapshot, None)
            .await?;
        Ok(StripePresence::Present)
    }

    /// Lets the catalogue learn the prices of a subscription before it is mirrored.
    pub(super) async fn learn(&self, object: &Value) -> Result<(), Failure> {
        let subscription = Subscription::read(object)?;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        self.catalogue
            .learn(tx.conn(), &[], [&subscription])
            .await?;
        if object["schedule"].is_object() {
            let schedule = SubscriptionSchedule::read(&object["schedule"])?;
            let prices: Vec<&str> = projection::prices_of_schedule(&schedule).collect();
            self.catalogue.recall_prices(tx.conn(), prices).await?;
            self.catalogue.remember(tx.conn(), &schedule.prices).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Mirrors a snapshot, with an audit entry if it differs from our state.
    pub(super) async fn mirror_snapshot(
        &self,
        organization_id: Uuid,
        snapshot: StripeSnapshot,
        stale: Option<&StaleMirror>,
    ) -> Result<(), Failure> {
        self.learn(&snapshot.object).await?;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        let response = StripeResponse {
            organization_id,
            request: snapshot.asked,
            kind: snapshot.kind,
            object: &snapshot.object,
            at: snapshot.at,
            actor: Actor::System,
        };
        let mirrored = projection::mirror(tx.conn(), &locked, &self.catalogue, response).await?;
        let mut entries = Vec::new();
        if mirrored.before.as_ref() != Some(&mirrored.after) {
            entries.push(NewEntry {
                organization_id,
                action: "subscription_reconciled",
                actor: Actor::System,
                resource_type: "subscription",
                resource_id: mirrored.subscription.id,
                before: mirrored.before,
                after: Some(mirrored.after),
                metadata: json!({"stripe_request_id": snapshot.request_id}),
                client: None,
                reason: None,
            });
        }
        entries.extend(mirrored.entries);
        audit::record(&mut tx, &locked, &entries).await?;
        match stale {
            Some(stale) if mirrored.is_newest => store::clear_stale(&mut tx, stale).await?,
            // Another state came first: it is asked for again.
            Some(stale) => store::postpone(&mut tx, stale, pause_after(stale.attempts)).await?,
            None => {}
        }
        tx.commit().await?;
        projection::report_alerts(&mirrored.alerts);
        grace::count(&mirrored.graces);
        Ok(())
    }
}
