//! The parameters of changes that end a subscription, keep it, or change none of its
//! items.

use super::record::{COMMENT, FEEDBACK, comment_of};
use super::schedule::STARTS_AT;
use crate::stripe::client::Params;
use crate::subscriptions::command::{CancellationDetails, StripeAction};
use crate::subscriptions::state::SubscriptionRow;

/// The target and parameters of a call that changes no items.
pub fn without_items(action: &StripeAction<'_>) -> (Option<String>, Params) {
    let (subscription, params) = match action {
        StripeAction::EndWithPeriod {
            subscription,
            details,
        } => {
            let params = match subscription.ends() {
                true => Params::new(),
                false => with_period(subscription, ""),
            };
            (subscription, say(params, details))
        }
        StripeAction::EndNow {
            subscription,
            details,
        } => {
            // Usage is charged, and nothing is refunded.
            let invoiced = (!subscription.is_incomplete()).then_some(true);
            let params = Params::new().set_if("invoice_now", invoiced);
            // Our mark takes the comment's place, so what was said before is said again.
            let before = subscription.cancellation_comment.as_deref();
            let details = CancellationDetails {
                reason: details.reason.or(before.and_then(comment_of)),
                ..*details
            };
            (subscription, say(params, &details))
        }
        StripeAction::Keep { subscription } => {
            let params = if subscription.cancel_at_period_end {
                Params::new().set("cancel_at_period_end", false)
            } else {
                Params::new().set("cancel_at", "")
            };
            (subscription, unsay(params, subscription))
        }
        StripeAction::CallOff { subscription, .. } => {
            // This is not sent: it tells whether the change was made meanwhile.
            let pending = subscription.pending.as_ref();
            let starts_at = pending.map(|pending| pending.effective_at.as_second());
            (subscription, Params::new().set_if(STARTS_AT, starts_at))
        }
        StripeAction::Switch { subscription, .. }
        | StripeAction::SwitchLater { subscription, .. }
        | StripeAction::Withdraw { subscription, .. }
        | StripeAction::Redeem { subscription, .. }
        | StripeAction::Nothing { subscription } => (subscription, Params::new()),
        StripeAction::Create { .. } => return (None, Params::new()),
    };
    (Some(subscription.id.clone()), params)
}

/// The parameters that end a subscription with the period that is paid, nested under
/// `prefix`. Where usage is billed in shorter periods, Stripe would end it with the first of
/// those.
pub fn with_period(subscription: &SubscriptionRow, prefix: &str) -> Params {
    let name = |name: &str| match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}[{name}]"),
    };
    let end = subscription.period_end;
    match end.filter(|_| subscription.mixes_intervals()) {
        Some(end) => Params::new().set(name("cancel_at"), end.as_second()),
        None => Params::new().set(name("cancel_at_period_end"), true),
    }
}

/// Adds why the customer cancels.
fn say(params: Params, details: &CancellationDetails<'_>) -> Params {
    params
        .set_if(COMMENT, details.reason)
        .set_if(FEEDBACK, details.feedback)
}

/// Takes back why the customer had canceled.
fn unsay(params: Params, subscription: &SubscriptionRow) -> Params {
    let comment = subscription.cancellation_comment.as_ref().map(|_| "");
    let feedback = subscription.cancellation_feedback.as_ref().map(|_| "");
    params.set_if(COMMENT, comment).set_if(FEEDBACK, feedback)
}
