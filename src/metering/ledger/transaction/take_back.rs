//! Decides about uses that are to be taken back.

use serde_json::json;
use uuid::Uuid;

use super::Group;
use crate::audit::NewEntry;
use crate::metering::ledger::take_back::{ACTION, TakeBack};
use crate::metering::ledger::{Reply, UsageRejection};

impl<'a> Group<'a> {
    pub(super) fn take_back(&mut self, organization_id: Uuid, asked: &'a TakeBack) -> Reply {
        let key = (organization_id, asked.event_id.as_str());
        let Some(mut event) = self.takeable.get(&key).cloned() else {
            return Reply::Rejected(UsageRejection::Invoiced);
        };
        if event.at.is_some() {
            return Reply::TakenBack(event);
        }
        let account = self.account(organization_id, &asked.metric);
        let now = account.now;
        if event.is_charged || event.metric != asked.metric {
            return Reply::Rejected(UsageRejection::Invoiced);
        }
        let before = account.total_in(event.period_start);
        if let Err(rejection) = account.take_back(event.period_start, event.quantity) {
            return Reply::Rejected(rejection);
        }
        let after = account.total_in(event.period_start);
        event.at = Some(now);
        self.writes
            .taken_back(organization_id, &asked.event_id, now);
        self.entries.push(NewEntry {
            organization_id,
            action: ACTION,
            actor: asked.actor,
            resource_type: "usage_event",
            // A CloudEvent's id has its source before it, and a control character between.
            resource_id: asked.event_id.replace(char::is_control, " "),
            before: Some(
                json!({"total": before, "quantity": event.quantity.normalize().to_string()}),
            ),
            after: Some(json!({"total": after, "quantity": "0"})),
            metadata: json!({"metric": asked.metric}),
            client: asked.client.clone(),
            reason: None,
        });
        self.takeable.insert(key, event.clone());
        Reply::TakenBack(event)
    }
}
