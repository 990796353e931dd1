//! Asking Stripe what a subscription is, where what is stored is in doubt, and
//! settling what was left open. `serve` does both from time to time.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::change::execute::{Seen, seen};
use super::failure::Failure;
use super::store::Doubt;
use super::store::findings::{Findings, findings};
use super::{Subscriptions, store};
use crate::audit::{self, Actor, NewEntry};
use crate::db::{TenantTx, WorkerTx};
use crate::invoices;
use crate::metering::grace;
use crate::projection::{self, Answer};
use crate::stripe::client::{Client, ErrorKind};
use crate::telemetry::metrics;

/// The polling interval.
const PAUSE: Duration = Duration::from_secs(2);
/// Polling intervals between looks at all subscriptions.
const ROUNDS_BETWEEN_LOOKS: u32 = 30;
/// How long a call to Stripe may still take once the service stops.
const GRACE: Duration = Duration::from_secs(5);

/// What Stripe shows of the subscription that an organization has.
pub(super) enum Shows {
    /// It is mirrored; or there is none here.
    Something,
    /// Stripe has no such subscription.
    Nothing(String),
}

/// Some time after `stop`.
async fn over(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

impl Subscriptions {
    /// Settles what was left open and asks about what is in doubt, until `stop`.
    pub async fn keep_settled(self, stop: CancellationToken) {
        let Some(client) = self.stripe.clone() else {
            return stop.cancelled().await;
        };
        let mut rounds = 0_u32;
        let mut known = Findings::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            if rounds.is_multiple_of(ROUNDS_BETWEEN_LOOKS) {
                match self.look_for_findings(&known).await {
                    Ok(found) => known = found,
                    Err(error) => tracing::warn!(%error, "subscriptions could not be looked over"),
                }
            }
            rounds = rounds.wrapping_add(1);
            let round = async {
                if let Err(error) = invoices::fetch_missing(&self.pool, &client).await {
                    tracing::warn!(%error, "lines of invoices could not be looked for");
                }
                self.settle_all(&client, &stop).await
            };
            let settled = tokio::select! {
                settled = round => settled,
                // What is cut off is settled by whoever comes next, as after a
                // crash.
                () = over(&stop) => return,
            };
            if let Err(error) = settled {
                tracing::warn!(%error, "open changes of subscriptions could not be looked for");
            }
        }
    }

    /// Counts what is wrong with what is mirrored, and logs what is new of it.
    async fn look_for_findings(&self, known: &Findings) -> Result<Findings, sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let found = findings(tx.conn(), &self.catalogue).await?;
        tx.rollback().await?;
        found.tell(known);
        metrics::findings(&found.counts());
        Ok(found)
    }

    /// Asks Stripe about the subscription that an organization has.
    pub(super) async fn look_again(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<Shows, Failure> {
        let standing = self.standing(organization_id).await?;
        let Some(held) = standing.subscription else {
            return Ok(Shows::Something);
        };
        let answer = match client.subscription(&held.id).await {
            Ok(answer) => answer,
            Err(error) if error.kind == ErrorKind::NotFound => {
                return Ok(Shows::Nothing(held.id));
            }
            Err(error) => return Err(Failure::Stripe(error)),
        };
        let seen = seen(client, answer).await.map_err(Failure::Stripe)?;
        self.mirror_seen(organization_id, seen, None).await?;
        Ok(Shows::Something)
    }

    /// Mirrors what Stripe shows; what differs from what was stored has its
    /// audit entry.
    pub async fn mirror_seen(
        &self,
        organization_id: Uuid,
        seen: Seen,
        doubt: Option<&Doubt>,
    ) -> Result<(), Failure> {
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        let answer = Answer {
            organization_id,
            request: Uuid::now_v7(),
            object: &seen.object,
            at: seen.at,
            actor: Actor::System,
        };
        let shown = projection::mirror(tx.conn(), &locked, &self.catalogue, answer).await?;
        let mut entries = Vec::new();
        if shown.before.as_ref() != Some(&shown.after) {
            entries.push(NewEntry {
                organization_id,
                action: "subscription_reconciled",
                actor: Actor::System,
                resource_type: "subscription",
                resource_id: shown.subscription.id,
                before: shown.before,
                after: Some(shown.after),
                metadata: json!({"stripe_request_id": seen.request_id}),
                client: None,
            });
        }
        entries.extend(shown.entries);
        audit::append(tx.conn(), &locked, &entries).await?;
        if let Some(doubt) = doubt {
            store::resolve(&mut tx, doubt).await?;
        }
        tx.commit().await?;
        let actions: Vec<&'static str> = entries.iter().map(|entry| entry.action).collect();
        metrics::audit_entries(&actions);
        projection::report_alerts(&shown.alerts);
        grace::count(&shown.graces);
        Ok(())
    }
}
