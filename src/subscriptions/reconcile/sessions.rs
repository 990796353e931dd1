//! Compares checkout sessions with Stripe's.

use std::collections::BTreeMap;

use serde_json::json;

use super::store::Mirrored;
use super::{Drift, DriftKind, Healing, Reconciliation, compare};
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::objects::CheckoutSession;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;

impl Subscriptions {
    pub(super) async fn checkout_sessions(
        &self,
        client: &Client,
        mirrored: &BTreeMap<String, Mirrored>,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        for (id, ours) in mirrored {
            let owner = ours.organization_id;
            let response = match client.checkout_session(id).await {
                Err(error) if error.kind == ErrorKind::NotFound => {
                    let differences = vec![format!("status: {}, none", ours.text("status"))];
                    let kind = DriftKind::CheckoutSession;
                    let mut drift = Drift::new(kind, owner, id, differences);
                    drift.fix = "check that the key belongs to the right account; Stripe has no such session";
                    found.drift.push(drift);
                    continue;
                }
                shown => found.shown(owner, id, shown)?,
            };
            let Some(response) = response else { continue };
            let differences = match CheckoutSession::read(&response.body) {
                Ok(theirs) => compare::checkout_sessions(ours, &theirs),
                Err(error) => {
                    found.add(DriftKind::Unreadable, owner, id, vec![error.to_string()]);
                    continue;
                }
            };
            if differences.is_empty() {
                continue;
            }
            let mut drift = Drift::new(DriftKind::CheckoutSession, owner, id, differences);
            if healing.apply {
                // What came last says how its payment ended, if that took time.
                let ended = ours.row["last_event_rank"] == 1;
                let event_type = match response.body["payment_status"].as_str() {
                    Some("paid") if ended => "checkout.session.async_payment_succeeded",
                    _ if ended => "checkout.session.async_payment_failed",
                    _ if response.body["status"] == "expired" => "checkout.session.expired",
                    _ => "checkout.session.completed",
                };
                let healed = self
                    .apply_response(client, event_type, response, json!({}))
                    .await;
                drift.set_healed(healed)?;
            }
            found.drift.push(drift);
        }
        Ok(())
    }
}
