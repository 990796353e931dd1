//! Payments that need their payer. Stripe is first asked for a change that is paid at once,
//! and refuses it where the bank asks its cardholder; then nothing was changed. Where the
//! payer is there to confirm, Stripe is asked once more, for a change that waits: a new
//! subscription that is incomplete until its first invoice is paid, or a pending update.
//! A declined card so changes nothing and leaves no invoice open.

use serde_json::Value;
use uuid::Uuid;

use super::record::{ChangeKind, ChangeRecord, Release};
use super::saga::Round;
use crate::stripe::client::{Client, ErrorKind, Response, StripeError};
use crate::stripe::requests::{self, Request};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::command::Command;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::mirror::StripePresence;
use crate::subscriptions::state::SubscriptionState;

pub const PAYMENT_BEHAVIOR: &str = "payment_behavior";
pub const ERROR_IF_INCOMPLETE: &str = "error_if_incomplete";

/// Makes the call of a change that is paid at once; or, where its payer has to confirm the
/// payment, of one that waits for that.
pub async fn paid_or_awaited(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<Response, StripeError> {
    let paid = call(client, request, change, None).await;
    match (paid, change.kind) {
        (Err(error), ChangeKind::Create) if waits(change, &error) => or_refused(
            call(client, request, change, Some("default_incomplete")).await,
            error,
        ),
        (Err(error), ChangeKind::Switch) if waits(change, &error) => or_refused(
            call(client, request, change, Some("pending_if_incomplete")).await,
            error,
        ),
        (paid, _) => paid,
    }
}

async fn call(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
    awaiting: Option<&str>,
) -> Result<Response, StripeError> {
    let (params, key) = match awaiting {
        None => (request.params.clone(), request.key()),
        Some(behavior) => (
            request.params.clone().set(PAYMENT_BEHAVIOR, behavior),
            request.key_of("payer"),
        ),
    };
    match (change.kind, &request.target_id) {
        (ChangeKind::Create, _) => client.create_subscription(&params, &key).await,
        (_, id) => {
            let id = id.as_deref().unwrap_or_default();
            client.update_subscription(id, &params, &key).await
        }
    }
}

/// Whether the change is to wait for its payer. One that takes the place of what a schedule
/// does, or that a schedule follows, takes further calls once it is made, and cannot.
fn waits(change: &ChangeRecord, error: &StripeError) -> bool {
    let is_followed =
        change.follows.is_some() || matches!(change.releases, Some(Release::After(_)));
    error.kind == ErrorKind::AuthenticationRequired && change.payer_acts && !is_followed
}

/// Where Stripe lets the change not wait, it stays refused.
fn or_refused(
    awaited: Result<Response, StripeError>,
    refusal: StripeError,
) -> Result<Response, StripeError> {
    match awaited {
        Err(error) if error.kind == ErrorKind::InvalidRequest => {
            tracing::warn!(%error, "Stripe refuses to let a change wait for its payer");
            Err(refusal)
        }
        awaited => awaited,
    }
}

impl Subscriptions {
    /// What comes of `command` where a change waits for its payer: the same once more waits
    /// on, or is made by now. `None` if it is another command, which is decided.
    pub(super) async fn same_awaited(
        &self,
        client: &Client,
        organization_id: Uuid,
        state: &SubscriptionState,
        command: Command<'_>,
        recorded: &Value,
    ) -> Result<Option<Round>, Failure> {
        let Some(awaited) = state.awaited() else {
            return Ok(None);
        };
        if !matches!(command, Command::Subscribe { .. } | Command::Change { .. }) {
            return Ok(None);
        }
        // The payer may have paid, and its webhook be under way.
        if let StripePresence::Missing(id) =
            self.refresh_from_stripe(client, organization_id).await?
        {
            return Err(Failure::SubscriptionMissing(id));
        }
        let state = self.state(organization_id).await?;
        let now = state.awaited().and_then(|one| one.change_id.as_ref());
        let made = state.subscription.as_ref();
        let made = made.and_then(|one| one.change_id.as_ref());
        let Some(id) = awaited.change_id.as_ref() else {
            return Ok((now.is_none() && state.awaited().is_none()).then_some(Round::Again));
        };
        let same = || async {
            let done = requests::command_of(&self.pool, organization_id, id).await?;
            Ok::<_, Failure>(done.is_some_and(|done| is_same(&done, recorded)))
        };
        if now == Some(id) || made == Some(id) {
            return Ok(match same().await? {
                true => Some(Round::Done),
                false if now == Some(id) => None,
                false => Some(Round::Again),
            });
        }
        // It was called off or has expired.
        Ok(Some(Round::Again))
    }
}

/// Whether a command is that of a change that waits. Without a preview of its own, it costs
/// what was shown then.
fn is_same(done: &Value, recorded: &Value) -> bool {
    let mut done = done.clone();
    if recorded["preview"].is_null()
        && let Some(members) = done.as_object_mut()
    {
        members.remove("preview");
    }
    done == *recorded
}
