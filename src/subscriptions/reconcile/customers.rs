//! Our customers that Stripe does not have.

use std::collections::BTreeSet;

use super::{BothSides, Drift, DriftKind, Healing, Reconciliation};
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
            if owned.deleted || listed.contains(id.as_str()) || id.starts_with("acct_") {
                continue;
            }
            let organization_id = owned.organization_id;
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
