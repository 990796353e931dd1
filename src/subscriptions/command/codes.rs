//! A change that redeems a promotion code.

use super::switch::{change_pending, held_terms};
use super::{ChangeRejection, StripeAction};
use crate::catalogue::Catalogue;
use crate::subscriptions::state::SubscriptionRow;

/// What a change comes to that redeems a code as well.
pub fn redeeming<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    changed: Result<StripeAction<'a>, ChangeRejection>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    use ChangeRejection::{CodeBesideChange, SamePlan, SamePlanPending};
    let scheduled = subscription.schedule_id.is_some();
    match changed {
        // The schedule's next phase would begin without the discount.
        Err(SamePlan(_) | SamePlanPending(_)) | Ok(StripeAction::Switch { .. }) if scheduled => {
            let pending = subscription.pending.as_ref();
            Err(match pending.filter(|pending| pending.migrates) {
                Some(migration) => change_pending(migration),
                None => CodeBesideChange,
            })
        }
        Err(SamePlan(_)) => {
            let (item, current) = subscription
                .base_item(catalogue)
                .ok_or(ChangeRejection::UnknownItems)?;
            let held = held_terms(subscription, catalogue, current, item.plan_interval());
            let seats = subscription.seats(catalogue, &held);
            Ok(StripeAction::Redeem {
                subscription,
                plan: Box::new(held.with_seats(seats)),
                seats,
            })
        }
        changed => changed,
    }
}
