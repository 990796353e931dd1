//! Changes as a request makes them, whoever asks: the API, or the customer pages.

use super::awaited::ActionRequired;
use super::change::saga::Requester;
use super::failure::Failure;
use super::{SubscriptionState, Subscriptions};
use crate::server::detached;
use crate::server::layers::idempotency::Key;
use crate::server::problem::Problem;
use crate::tenancy::auth::Principal;

/// What became of a change that was made beside its payer.
pub enum Outcome {
    /// The state that came of it.
    Done(Box<SubscriptionState>),
    /// The payer has to confirm the payment first.
    AwaitsPayer(Box<ActionRequired>),
}

/// Makes a change beside its payer.
pub async fn change_beside_payer<F>(
    subscriptions: &Subscriptions,
    caller: Principal,
    key: Option<Key>,
    change: impl FnOnce(Subscriptions, Requester) -> F,
) -> Result<Outcome, Problem>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let organization_id = caller.organization_id;
    let mut state = change_detached(subscriptions, caller, key, change).await?;
    if state.awaited().is_some() {
        let required = subscriptions.action_required(organization_id, &state);
        if let Some(required) = required.await? {
            return Ok(Outcome::AwaitsPayer(Box::new(required)));
        }
        state = subscriptions.state(organization_id).await?;
    }
    Ok(Outcome::Done(Box::new(state)))
}

/// Makes a change in its own task, so that a client that disconnects does not
/// interrupt it.
pub async fn change_detached<F>(
    subscriptions: &Subscriptions,
    caller: Principal,
    key: Option<Key>,
    change: impl FnOnce(Subscriptions, Requester) -> F,
) -> Result<SubscriptionState, Problem>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let organization_id = caller.organization_id;
    let requester = Requester::of(caller, key);
    let task = detached::spawn(change(subscriptions.clone(), requester));
    task.await.map_err(|error| {
        tracing::error!(%error, "The task of a subscription change panicked");
        Problem::internal()
    })??;
    Ok(subscriptions.state(organization_id).await?)
}
