//! Our customers: those that Stripe does not have, and what else differs.

use std::collections::BTreeMap;

use serde_json::json;

use super::{BothSides, Drift, DriftKind, Healing, Reconciliation, compare};
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::objects::Customer;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;

impl Subscriptions {
    /// Compares the customers, and checks that new subscriptions can use them.
    pub(super) async fn customers(
        &self,
        client: &Client,
        both: &BothSides,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let listed: BTreeMap<&str, &Customer> = both
            .customers
            .iter()
            .map(|one| (one.id.as_str(), one))
            .collect();
        for id in both.owners.keys().filter(|id| !id.starts_with("acct_")) {
            let Some(ours) = both.existing(id) else {
                continue;
            };
            let organization_id = ours.organization_id;
            let theirs = match listed.get(id.as_str()) {
                Some(theirs) => (*theirs).clone(),
                // It is on a test clock, was deleted, or was created meanwhile.
                None => match client.customer_now(id).await {
                    Err(error) if error.kind == ErrorKind::NotFound => {
                        let kind = DriftKind::CustomerMissing;
                        let mut drift = Drift::new(kind, organization_id, id, Vec::new());
                        if both.is_superseded(id) {
                            drift.fix =
                                "another customer was linked since: --apply forgets this one";
                            if healing.apply {
                                let forgotten = self.forget_customer(organization_id, id).await;
                                drift.set_healed(forgotten.map(|()| true))?;
                            }
                        }
                        found.drift.push(drift);
                        continue;
                    }
                    shown => {
                        let Some(shown) = found.shown(organization_id, id, shown)? else {
                            continue;
                        };
                        match Customer::read(&shown.body, false) {
                            Ok(theirs) => theirs,
                            Err(error) => {
                                let reason = vec![error.to_string()];
                                found.add(DriftKind::Unreadable, organization_id, id, reason);
                                continue;
                            }
                        }
                    }
                },
            };
            let mut drift = if theirs.deleted {
                let differences = vec!["deleted: false, true".to_owned()];
                Drift::new(DriftKind::CustomerDeleted, organization_id, id, differences)
            } else {
                let differences = compare::customers(ours, &theirs);
                Drift::new(DriftKind::Customer, organization_id, id, differences)
            };
            if drift.differences.is_empty() {
                continue;
            }
            if healing.apply && theirs.deleted {
                let forgotten = self.forget_customer(organization_id, id).await;
                drift.set_healed(forgotten.map(|()| true))?;
            } else if healing.apply {
                drift.set_healed(self.heal_customer(client, id).await)?;
            }
            found.drift.push(drift);
        }
        Ok(())
    }

    async fn heal_customer(&self, client: &Client, id: &str) -> Result<bool, Failure> {
        let response = client.customer_now(id).await.map_err(Failure::Stripe)?;
        self.apply_response(client, "customer.updated", response, json!({}))
            .await
    }
}
