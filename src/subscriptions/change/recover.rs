//! Recovery settles open requests and stale subscriptions, one by one. An item
//! that fails backs off and delays no other; one that no retry can settle is
//! closed and reported to the operator.

use std::time::Duration;

use billing_domain::retry::Backoff;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::record::{ChangeRecord, MAX_IN_FLIGHT};
use crate::audit;
use crate::db::{self, TenantTx, WorkerTx};
use crate::metering::quotas;
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::requests::{self, Request, Subject, Unreadable, Which};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::fetch;
use crate::subscriptions::store::StaleMirror;
use crate::subscriptions::{Subscriptions, store};
use crate::telemetry::metrics;

/// Items per round.
const ROUND: i64 = 50;
/// Failed attempts after which a permanent failure is abandoned: some twenty
/// minutes after the first.
const MAX_ATTEMPTS: i32 = 9;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(4),
    longest: Duration::from_secs(3_600),
};
/// How long to wait for a locked row. A row that stays locked is handled in a
/// later round, and delays no other.
const LOCK_TIMEOUT: &str = "50ms";

/// What a failed attempt says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlook {
    /// Nothing can be settled now: the round ends without counting an attempt.
    StopRound,
    /// A later attempt may succeed.
    Transient,
    /// The failure is this item's own and unlikely to go away.
    Permanent,
}

fn outlook(failure: &Failure) -> Outlook {
    match failure {
        Failure::Stripe(error) | Failure::InDoubt(error) => match error.kind {
            ErrorKind::Unreachable
            | ErrorKind::RateLimited
            | ErrorKind::Authentication
            | ErrorKind::Permission => Outlook::StopRound,
            _ if error.is_outage() => Outlook::Transient,
            _ => Outlook::Permanent,
        },
        Failure::Database(error) if db::is_outage(error) => Outlook::StopRound,
        Failure::Database(error) if db::is_conflict(error) || db::is_timeout(error) => {
            Outlook::Transient
        }
        Failure::Busy | Failure::UsageNotCounted(_) => Outlook::Transient,
        _ => Outlook::Permanent,
    }
}

/// Whether no other item can be settled now either.
pub(in crate::subscriptions) fn stops_round(failure: &Failure) -> bool {
    outlook(failure) == Outlook::StopRound
}

/// The pause after a failure that followed `attempts` earlier ones.
pub(in crate::subscriptions) fn pause_after(attempts: i32) -> SignedDuration {
    let pause = BACKOFF.delay(u32::try_from(attempts).unwrap_or(0));
    SignedDuration::try_from(pause).unwrap_or(SignedDuration::from_hours(1))
}

impl Subscriptions {
    /// Runs one round. Each item has its own result, and one that fails is
    /// postponed. The round ends early once `stop` is cancelled.
    pub async fn settle_all(
        &self,
        client: &Client,
        stop: &CancellationToken,
    ) -> Result<(), sqlx::Error> {
        db::impatiently(LOCK_TIMEOUT, self.round(client, stop)).await
    }

    async fn round(&self, client: &Client, stop: &CancellationToken) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let due = requests::find(tx.conn(), Which::Due, MAX_IN_FLIGHT, ROUND).await?;
        let stale_mirrors = store::stale_mirrors(tx.conn(), ROUND).await?;
        let (abandoned, open) = requests::unsettled(tx.conn(), MAX_IN_FLIGHT).await?;
        tx.rollback().await?;
        metrics::stripe_requests(open, abandoned);
        for request in due {
            if stop.is_cancelled() {
                return Ok(());
            }
            let failure = match &request {
                Ok(request) => self.recover(client, request).await.err(),
                Err(unreadable) => Some(Failure::Unrecoverable(unreadable.error.clone())),
            };
            let Some(failure) = failure else { continue };
            let item = RecoveryItem::of(&request);
            let postponed = self.postpone(&item, &failure).await;
            if !unless_locked(postponed, item.organization_id)? {
                return Ok(());
            }
        }
        for stale in stale_mirrors {
            if stop.is_cancelled() {
                return Ok(());
            }
            let Err(failure) = self.refresh_stale(client, &stale).await else {
                continue;
            };
            let postponed = self.postpone_stale(&stale, &failure).await;
            if !unless_locked(postponed, stale.organization_id)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Settles one request. Returns false if its outcome is still unknown.
    pub(in crate::subscriptions) async fn recover(
        &self,
        client: &Client,
        request: &Request,
    ) -> Result<bool, Failure> {
        if request.subject == Subject::Customer {
            return self
                .settle_customer(client, request, Timestamp::now())
                .await;
        }
        if request.subject == Subject::PaymentMethod {
            return self.settle_card(client, request, Timestamp::now()).await;
        }
        let change = ChangeRecord::of(request).ok_or_else(|| {
            Failure::Unrecoverable("the recorded change cannot be read".to_owned())
        })?;
        self.settle(client, request, &change, Timestamp::now())
            .await
    }

    async fn refresh_stale(&self, client: &Client, stale: &StaleMirror) -> Result<(), Failure> {
        let snapshot = fetch(client, &stale.subscription_id).await;
        let snapshot = snapshot.map_err(Failure::Stripe)?;
        self.mirror_snapshot(stale.organization_id, snapshot, Some(stale))
            .await
    }

    /// Schedules the next attempt, or abandons the request. Returns false if
    /// nothing can be settled now.
    async fn postpone(&self, item: &RecoveryItem, failure: &Failure) -> Result<bool, sqlx::Error> {
        let (organization_id, request_id) = (item.organization_id, item.id);
        let outlook = outlook(failure);
        if outlook == Outlook::StopRound {
            tracing::warn!(%failure, "Changes of subscriptions cannot be settled for now");
            return Ok(false);
        }
        let reason = failure.to_string();
        let attempts = item.attempts + 1;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        if outlook == Outlook::Permanent && attempts >= MAX_ATTEMPTS {
            audit::lock_chains(tx.conn(), &[organization_id]).await?;
            let abandoned =
                requests::abandon(tx.conn(), organization_id, request_id, &reason).await?;
            quotas::release_seats(&mut tx).await?;
            tx.commit().await?;
            if abandoned {
                metrics::recovery("abandoned");
                tracing::error!(
                    %organization_id, %request_id, attempts, error = reason,
                    "A request to Stripe was given up; whether Stripe carried it out is not \
                     known: run `subscriptions reconcile`"
                );
            }
            return Ok(true);
        }
        let pause = pause_after(item.attempts);
        requests::postpone(tx.conn(), organization_id, request_id, &reason, pause).await?;
        tx.commit().await?;
        metrics::recovery("failed");
        tracing::warn!(
            %organization_id, %request_id, attempts, error = reason,
            next_attempt_in_secs = pause.as_secs(),
            "A request to Stripe could not be settled"
        );
        Ok(true)
    }

    async fn postpone_stale(
        &self,
        stale: &StaleMirror,
        failure: &Failure,
    ) -> Result<bool, sqlx::Error> {
        let (organization_id, attempts) = (stale.organization_id, stale.attempts + 1);
        let subscription_id = &stale.subscription_id;
        let outlook = outlook(failure);
        if outlook == Outlook::StopRound {
            tracing::warn!(%failure, "Stale subscriptions cannot be refreshed for now");
            return Ok(false);
        }
        let is_abandoned = outlook == Outlook::Permanent && attempts >= MAX_ATTEMPTS;
        let pause = pause_after(stale.attempts);
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        if is_abandoned {
            store::clear_stale(&mut tx, stale).await?;
        } else {
            store::postpone(&mut tx, stale, pause).await?;
        }
        tx.commit().await?;
        metrics::recovery(if is_abandoned { "abandoned" } else { "failed" });
        if is_abandoned {
            tracing::error!(
                %organization_id, subscription_id, attempts, %failure,
                "A stale subscription could not be refreshed from Stripe: run `subscriptions reconcile`"
            );
        } else {
            tracing::warn!(
                %organization_id, subscription_id, attempts, %failure,
                next_attempt_in_secs = pause.as_secs(),
                "A stale subscription could not be refreshed from Stripe"
            );
        }
        Ok(true)
    }
}

/// A locked item cannot be postponed either: it stays due.
fn unless_locked(
    postponed: Result<bool, sqlx::Error>,
    organization_id: Uuid,
) -> Result<bool, sqlx::Error> {
    match postponed {
        Err(error) if db::is_lock_timeout(&error) => {
            tracing::info!(%organization_id, "Another transaction has locked an item to settle");
            Ok(true)
        }
        postponed => postponed,
    }
}

/// The part of a request that is known even if its row cannot be read.
struct RecoveryItem {
    organization_id: Uuid,
    id: Uuid,
    attempts: i32,
}

impl RecoveryItem {
    fn of(request: &Result<Request, Unreadable>) -> Self {
        match request {
            Ok(request) => Self {
                organization_id: request.organization_id,
                id: request.id,
                attempts: request.recovery_attempts,
            },
            Err(unreadable) => Self {
                organization_id: unreadable.organization_id,
                id: unreadable.id,
                attempts: unreadable.recovery_attempts,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let secs: Vec<i64> = (0..14).map(|n| pause_after(n).as_secs()).collect();
        assert_eq!(secs[..4], [4, 8, 16, 32]);
        assert_eq!(secs[9..], [2048, 3600, 3600, 3600, 3600]);
    }
}
