//! Seats and their use: nobody has more seats in use than were bought, whatever happens
//! while a change to fewer is under way. Before Stripe is asked, the limit is lowered
//! here, under the lock under which use is counted; when the change is over, the limit is
//! what was bought, before it or after it.

use uuid::Uuid;

use crate::db::{RequestTx, TenantTx};
use crate::metering::quotas;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::command::{ChangeRejection, StripeAction};
use crate::subscriptions::failure::Failure;

/// The metric and the number of the seats that are bought, at once or later.
fn seats_after<'a>(action: &'a StripeAction<'_>) -> Option<(&'a str, u32)> {
    let (plan, quantities) = match action {
        StripeAction::Create {
            plan, quantities, ..
        }
        | StripeAction::Switch {
            plan, quantities, ..
        }
        | StripeAction::SwitchLater {
            plan, quantities, ..
        } => (plan, quantities),
        _ => return None,
    };
    let seats = plan.licensed_seats()?;
    Some((seats.metric.as_str(), quantities.seats?))
}

impl Subscriptions {
    /// Checks that no more seats are in use than are asked for, if those are fewer than
    /// there are: what takes no seat away is in nobody's way.
    pub(in crate::subscriptions) async fn check_seats(
        &self,
        organization_id: Uuid,
        action: &StripeAction<'_>,
    ) -> Result<(), Failure> {
        let Some((metric, seats)) = seats_after(action) else {
            return Ok(());
        };
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        if !quotas::are_fewer_seats(tx.conn(), organization_id, metric, seats).await? {
            return Ok(());
        }
        let used = quotas::seats_used(tx.conn(), organization_id, metric).await?;
        match used > seats.into() {
            true => Err(in_use(used, seats)),
            false => Ok(()),
        }
    }

    /// Lets no more seats be used than are asked for, if those are fewer, until the request is closed. The
    /// request is open, so that nobody else holds any.
    pub(super) async fn hold_seats(
        &self,
        organization_id: Uuid,
        action: &StripeAction<'_>,
    ) -> Result<(), Failure> {
        // Until the period ends, the limit is as it is.
        if matches!(action, StripeAction::SwitchLater { .. }) {
            return Ok(());
        }
        let Some((metric, seats)) = seats_after(action) else {
            return Ok(());
        };
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        if !quotas::hold_seats(&mut tx, metric, seats).await? {
            return Ok(());
        }
        let used = quotas::seats_used(tx.conn(), organization_id, metric).await?;
        if used > seats.into() {
            return Err(in_use(used, seats));
        }
        Ok(tx.commit().await?)
    }
}

fn in_use(used: rust_decimal::Decimal, asked: u32) -> Failure {
    ChangeRejection::SeatsInUse {
        used: used.normalize().to_string(),
        asked,
    }
    .into()
}
