//! Our customers: those that Stripe does not have, and what else differs.

use std::collections::BTreeSet;

use super::{BothSides, Drift, DriftKind, Healing, Reconciliation, compare};
use crate::stripe::client::{Client, ErrorKind};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::failure::Failure;

impl Subscriptions {
    /// Checks the customers that new subscriptions would use.
    pub(super) async fn customers(
        &self,
        client: &Client,
        both: &BothSides,
        healing: Healing,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        let listed: BTreeSet<&str> = both.customers.iter().map(|one| one.id.as_str()).collect();
        for (id, owned) in &both.owners {
            if owned.deleted || id.starts_with("acct_") {
                continue;
            }
            let organization_id = owned.organization_id;
            if listed.contains(id.as_str()) {
                let theirs = both.customers.iter().find(|one| one.id == *id);
                let differences = theirs.map(|theirs| compare::customers(owned, theirs));
                let differences = differences.unwrap_or_default();
                if differences.is_empty() {
                    continue;
                }
                let mut drift = Drift::new(DriftKind::Customer, organization_id, id, differences);
                if healing.apply {
                    drift.set_healed(self.mirror_customer(client, organization_id, id).await)?;
                }
                found.drift.push(drift);
                continue;
            }
            match client.customer(id).await {
                Ok(customer) if customer.deleted => {
                    let differences = vec!["deleted: false, true".to_owned()];
                    let kind = DriftKind::CustomerDeleted;
                    let mut drift = Drift::new(kind, organization_id, id, differences);
                    if healing.apply {
                        let forgotten = self.forget_customer(organization_id, id).await;
                        drift.set_healed(forgotten.map(|()| true))?;
                    }
                    found.drift.push(drift);
                }
                // It is on a test clock, or was created meanwhile.
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::NotFound => found.drift.push(Drift::new(
                    DriftKind::CustomerMissing,
                    organization_id,
                    id,
                    Vec::new(),
                )),
                Err(error) => return Err(Failure::Stripe(error)),
            }
        }
        Ok(())
    }
}
