//! Looks after checkouts whose payer does not return, and those that a crash or a lost
//! answer left.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{CHECKOUT_ID, Checkout, State, store};
use crate::db::{self, TenantTx, WorkerTx};
use crate::stripe::client::Client;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::change::record::MAX_IN_FLIGHT;
use crate::subscriptions::change::recover::{pause_after, stops_round};
use crate::subscriptions::failure::Failure;

/// Checkouts in a round.
const ROUND: i64 = 50;
/// How far Stripe's clock may lag behind ours.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(10);
/// How long to wait for a locked organization while others wait behind it.
const LOCK_TIMEOUT: &str = "50ms";

impl Subscriptions {
    /// Runs one round. One that fails is postponed, and delays no other.
    pub(in crate::subscriptions) async fn settle_checkouts(
        &self,
        client: &Client,
        stop: &CancellationToken,
    ) -> Result<(), sqlx::Error> {
        db::impatiently(LOCK_TIMEOUT, self.checkout_round(client, stop)).await
    }

    async fn checkout_round(
        &self,
        client: &Client,
        stop: &CancellationToken,
    ) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let due = store::due(tx.conn(), MAX_IN_FLIGHT, ROUND).await?;
        tx.rollback().await?;
        for checkout in due {
            if stop.is_cancelled() {
                return Ok(());
            }
            match self.look_after(client, &checkout).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(failure) => {
                    tracing::warn!(
                        organization_id = %checkout.organization_id, checkout_id = %checkout.id,
                        %failure, "A checkout could not be settled"
                    );
                    if stops_round(&failure) {
                        return Ok(());
                    }
                }
            }
            let postponed = async {
                let mut tx = TenantTx::begin(&self.pool, checkout.organization_id).await?;
                let pause = pause_after(checkout.recovery_attempts);
                store::postpone(&mut tx, checkout.id, pause).await?;
                tx.commit().await
            };
            match postponed.await {
                Err(error) if !db::is_lock_timeout(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns whether the checkout has come further.
    async fn look_after(&self, client: &Client, checkout: &Checkout) -> Result<bool, Failure> {
        if checkout.state == State::Creating {
            self.settle_creation(client, checkout).await?;
            return Ok(true);
        }
        let now = self.conclude(client, checkout).await?;
        if now.state != checkout.state {
            return Ok(true);
        }
        // Somebody has subscribed otherwise while the page is open.
        let state = self.state(checkout.organization_id).await?;
        let runs = state.subscription.is_some_and(|one| !one.is_incomplete());
        if now.state == State::Open && runs {
            self.put_away(client, &now).await?;
            return Ok(true);
        }
        if now.state == State::Open {
            let mut tx = TenantTx::begin(&self.pool, now.organization_id).await?;
            let age = Timestamp::now().duration_since(now.called_at.unwrap_or(now.created_at));
            store::look_again(&mut tx, now.id, pause_of_page(age)).await?;
            tx.commit().await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Finds out whether Stripe has made the page of a checkout that nobody asks for any
    /// more.
    pub(super) async fn settle_creation(
        &self,
        client: &Client,
        checkout: &Checkout,
    ) -> Result<(), Failure> {
        let found = self.find_page(client, checkout).await?;
        let in_flight = checkout
            .called_at
            .is_some_and(|at| Timestamp::now().duration_since(at) <= MAX_IN_FLIGHT);
        match found {
            Some(session) => {
                let open = self.note_page(client, checkout, &session).await?;
                self.conclude(client, &open).await?;
                Ok(())
            }
            None if in_flight => Err(Failure::Busy),
            None => {
                let why = "Stripe did not do it, and nobody asked again";
                Ok(self.give_up(checkout, checkout.called_at, why).await?)
            }
        }
    }

    /// The page that Stripe has made of a checkout, if it did.
    pub(super) async fn find_page(
        &self,
        client: &Client,
        checkout: &Checkout,
    ) -> Result<Option<Value>, Failure> {
        let since = (checkout.created_at - CLOCK_SKEW).as_second();
        let made = match client.checkout_sessions(checkout.customer(), since).await {
            Ok(made) => made,
            // Nobody has a page for a customer who does not exist.
            Err(error) if error.is_missing_customer() => return Ok(None),
            Err(error) => return Err(Failure::Stripe(error)),
        };
        let ours = json!(checkout.id.to_string());
        let mut made = made.into_iter();
        Ok(made.find(|session| session["metadata"][CHECKOUT_ID] == ours))
    }
}

/// When to look at a page again that is open at this age: 2, 5, 15 and 60 minutes after it
/// was made, then each hour.
fn pause_of_page(age: SignedDuration) -> SignedDuration {
    let next = [5, 15, 60].map(SignedDuration::from_mins);
    let next = next.into_iter().find(|next| age < *next);
    let pause = next.map(|next| next.saturating_sub(age));
    let shortest = SignedDuration::from_mins(1);
    pause.map_or(SignedDuration::from_hours(1), |pause| pause.max(shortest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_pages_are_looked_at_less_and_less_often() {
        let pause = |mins| pause_of_page(SignedDuration::from_mins(mins)).as_mins();
        assert_eq!([2, 5, 15, 60, 600].map(pause), [3, 10, 45, 60, 60]);
        assert_eq!(pause(14), 1);
    }
}
