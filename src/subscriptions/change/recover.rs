//! Recovery: requests that were left open, and subscriptions in doubt, are
//! settled one by one. One that fails waits, longer each time, and holds up no
//! other; one that no retry can settle is closed, and an operator is told.

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::execute::seen;
use super::record::{Change, QUIET};
use crate::db::{self, TenantTx, WorkerTx};
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::requests::{self, Request, Subject, Unreadable, Which};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::store::Doubt;
use crate::subscriptions::{Subscriptions, store};
use crate::telemetry::metrics;

/// Items of one round.
const ROUND: i64 = 50;
/// Failed attempts after which what cannot heal by itself is given up: some
/// twenty minutes after the first.
const MOST_ATTEMPTS: i32 = 9;
const FIRST_PAUSE_SECS: i64 = 4;
/// How long what another transaction holds is waited for: what is held comes
/// to its turn in a later round, and holds up no other.
const HELD_WAIT: &str = "50ms";
const LONGEST_PAUSE_SECS: i64 = 3600;

/// What a failed attempt says about the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prospect {
    /// Nothing can be settled now: the round ends, and no attempt is counted.
    NoneNow,
    /// It may work later, whenever that is.
    Passing,
    /// It is this item's, and will hardly go away.
    Lasting,
}

fn prospect(failure: &Failure) -> Prospect {
    match failure {
        Failure::Stripe(error) | Failure::InDoubt(error) => match error.kind {
            ErrorKind::Unreachable
            | ErrorKind::RateLimited
            | ErrorKind::Authentication
            | ErrorKind::Permission => Prospect::NoneNow,
            _ if error.is_outage() => Prospect::Passing,
            _ => Prospect::Lasting,
        },
        Failure::Database(error) if db::is_outage(error) => Prospect::NoneNow,
        Failure::Database(error) if db::is_conflict(error) || db::is_timeout(error) => {
            Prospect::Passing
        }
        Failure::Busy => Prospect::Passing,
        _ => Prospect::Lasting,
    }
}

/// Whether nothing else can be settled now, either.
pub(in crate::subscriptions) fn ends_the_round(failure: &Failure) -> bool {
    prospect(failure) == Prospect::NoneNow
}

/// The pause after so many attempts before this one.
fn pause_after(attempts: i32) -> SignedDuration {
    let doublings = u32::try_from(attempts.clamp(0, 12)).unwrap_or(0);
    SignedDuration::from_secs((FIRST_PAUSE_SECS << doublings).min(LONGEST_PAUSE_SECS))
}

impl Subscriptions {
    /// One round: each item has a result of its own, and what fails is put off.
    /// It ends early when `stop` says so.
    pub async fn settle_all(
        &self,
        client: &Client,
        stop: &CancellationToken,
    ) -> Result<(), sqlx::Error> {
        db::impatiently(HELD_WAIT, self.round(client, stop)).await
    }

    async fn round(&self, client: &Client, stop: &CancellationToken) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let due = requests::find(tx.conn(), Which::Due, QUIET, ROUND).await?;
        let doubts = store::doubts(tx.conn(), ROUND).await?;
        let (abandoned, open) = requests::unsettled(tx.conn(), QUIET).await?;
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
            let item = Item::of(&request);
            let put_off = self.put_off(&item, &failure).await;
            if !unless_held(put_off, item.organization_id)? {
                return Ok(());
            }
        }
        for doubt in doubts {
            if stop.is_cancelled() {
                return Ok(());
            }
            let Err(failure) = self.resolve(client, &doubt).await else {
                continue;
            };
            let put_off = self.put_off_doubt(&doubt, &failure).await;
            if !unless_held(put_off, doubt.organization_id)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Settles one request, or finds that it is not time yet.
    pub(in crate::subscriptions) async fn recover(
        &self,
        client: &Client,
        request: &Request,
    ) -> Result<bool, Failure> {
        if request.subject == Subject::Customer.as_str() {
            return self
                .settle_customer(client, request, Timestamp::now())
                .await;
        }
        let change = Change::of(request).ok_or_else(|| {
            Failure::Unrecoverable("what was kept of the change cannot be read".to_owned())
        })?;
        self.settle(client, request, &change, Timestamp::now())
            .await
    }

    async fn resolve(&self, client: &Client, doubt: &Doubt) -> Result<(), Failure> {
        let answer = client.subscription(&doubt.subscription_id).await;
        let seen = seen(client, answer.map_err(Failure::Stripe)?).await;
        let seen = seen.map_err(Failure::Stripe)?;
        self.mirror_seen(doubt.organization_id, seen, Some(doubt))
            .await
    }

    /// False: nothing can be settled now.
    async fn put_off(&self, item: &Item, failure: &Failure) -> Result<bool, sqlx::Error> {
        let (organization_id, request_id) = (item.organization_id, item.id);
        let prospect = prospect(failure);
        if prospect == Prospect::NoneNow {
            tracing::warn!(%failure, "changes of subscriptions cannot be settled for now");
            return Ok(false);
        }
        let said = failure.to_string();
        let attempts = item.attempts + 1;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        if prospect == Prospect::Lasting && attempts >= MOST_ATTEMPTS {
            let abandoned =
                requests::abandon(tx.conn(), organization_id, request_id, &said).await?;
            tx.commit().await?;
            if abandoned {
                metrics::recovery("abandoned");
                tracing::error!(
                    %organization_id, %request_id, attempts, error = said,
                    "A request to Stripe was given up, and whether Stripe did it is not known:                      `subscriptions reconcile` says more"
                );
            }
            return Ok(true);
        }
        let pause = pause_after(item.attempts);
        requests::postpone(tx.conn(), organization_id, request_id, &said, pause).await?;
        tx.commit().await?;
        metrics::recovery("failed");
        tracing::warn!(
            %organization_id, %request_id, attempts, error = said,
            next_attempt_in_secs = pause.as_secs(),
            "a request to Stripe could not be settled"
        );
        Ok(true)
    }

    async fn put_off_doubt(&self, doubt: &Doubt, failure: &Failure) -> Result<bool, sqlx::Error> {
        let (organization_id, attempts) = (doubt.organization_id, doubt.attempts + 1);
        let subscription_id = &doubt.subscription_id;
        let prospect = prospect(failure);
        if prospect == Prospect::NoneNow {
            tracing::warn!(%failure, "subscriptions in doubt cannot be asked about for now");
            return Ok(false);
        }
        let gives_up = prospect == Prospect::Lasting && attempts >= MOST_ATTEMPTS;
        let pause = pause_after(doubt.attempts);
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        if gives_up {
            store::resolve(&mut tx, doubt).await?;
        } else {
            store::postpone(&mut tx, doubt, pause).await?;
        }
        tx.commit().await?;
        metrics::recovery(if gives_up { "abandoned" } else { "failed" });
        if gives_up {
            tracing::error!(
                %organization_id, subscription_id, attempts, %failure,
                "Stripe could not be asked about a subscription: `subscriptions reconcile` says more"
            );
        } else {
            tracing::warn!(
                %organization_id, subscription_id, attempts, %failure,
                next_attempt_in_secs = pause.as_secs(),
                "Stripe could not be asked about a subscription"
            );
        }
        Ok(true)
    }
}

/// What somebody holds cannot be put off either: it stays due.
fn unless_held(
    put_off: Result<bool, sqlx::Error>,
    organization_id: Uuid,
) -> Result<bool, sqlx::Error> {
    match put_off {
        Err(error) if db::is_lock_timeout(&error) => {
            tracing::info!(%organization_id, "another transaction holds what is to be settled");
            Ok(true)
        }
        put_off => put_off,
    }
}

/// What is known of a request whether or not its row can be read.
struct Item {
    organization_id: Uuid,
    id: Uuid,
    attempts: i32,
}

impl Item {
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
