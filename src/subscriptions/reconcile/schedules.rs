//! The schedules of the subscriptions that are compared.

use serde_json::Value;
use uuid::Uuid;

use super::{Drift, DriftKind};
use crate::stripe::client::Client;
use crate::stripe::objects::SubscriptionSchedule;
use crate::subscriptions::change::recover::stops_round;
use crate::subscriptions::failure::Failure;

/// The schedule that drives a subscription, if one does, or the finding that it cannot be
/// fetched or read. Only what would stop all others ends the reconciliation.
pub async fn schedule_in(
    client: &Client,
    organization_id: Uuid,
    subscription: &mut Value,
) -> Result<Result<Option<SubscriptionSchedule>, Drift>, Failure> {
    match fetch(client, subscription).await {
        Ok(schedule) => Ok(Ok(schedule)),
        Err(failure) if stops_round(&failure) => Err(failure),
        Err(failure) => {
            let id = subscription["id"].as_str().unwrap_or_default();
            let differences = vec![format!("schedule: {failure}")];
            let kind = DriftKind::Unreadable;
            Ok(Err(Drift::new(kind, organization_id, id, differences)))
        }
    }
}

async fn fetch(
    client: &Client,
    subscription: &mut Value,
) -> Result<Option<SubscriptionSchedule>, Failure> {
    let fetched = client.fetch_schedule(subscription).await;
    fetched.map_err(Failure::Stripe)?;
    let schedule = &subscription["schedule"];
    let there = schedule.is_object().then_some(schedule);
    Ok(there.map(SubscriptionSchedule::read).transpose()?)
}
