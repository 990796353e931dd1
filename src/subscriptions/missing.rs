//! Objects that Stripe no longer has: deleted customers and missing
//! subscriptions.

use serde_json::json;
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::Initiator;
use super::failure::Failure;
use crate::audit::{self, NewEntry};
use crate::db::TenantTx;
use crate::metering::grace;
use crate::projection;
use crate::stripe::client::{Client, ErrorKind};
use crate::tenancy::organizations;

/// The audit action of a subscription that was ended here only.
pub const ENDED_HERE: &str = "subscription_missing_in_stripe";

impl Subscriptions {
    /// Checks whether the customer used for new subscriptions still exists. A
    /// deleted customer is never used again; one that Stripe never had is for an
    /// operator, as the key may belong to another account.
    pub(super) async fn check_customer(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<(), Failure> {
        let Some(id) = self.state(organization_id).await?.customer_id else {
            return Ok(());
        };
        match client.customer(&id).await {
            Ok(customer) if customer.deleted => self.forget_customer(organization_id, &id).await,
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => Err(Failure::CustomerMissing(id)),
            Err(error) => Err(Failure::Stripe(error)),
        }
    }

    /// The customer was deleted in Stripe.
    pub(super) async fn forget_customer(
        &self,
        organization_id: Uuid,
        customer_id: &str,
    ) -> Result<(), Failure> {
        organizations::customer_was_deleted(&self.pool, organization_id, customer_id).await?;
        tracing::warn!(
            %organization_id, customer_id,
            "the customer was deleted in Stripe; the next subscription makes another"
        );
        Ok(())
    }

    /// Ends a subscription that Stripe does not have, in our state only.
    pub(super) async fn end_missing(
        &self,
        organization_id: Uuid,
        subscription_id: &str,
        initiator: &Initiator,
    ) -> Result<(), Failure> {
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        let ended = projection::end_missing(
            tx.conn(),
            &locked,
            &self.catalogue,
            (organization_id, subscription_id),
            initiator.actor(),
        )
        .await?;
        let mut entries = vec![NewEntry {
            organization_id,
            action: ENDED_HERE,
            actor: initiator.actor(),
            resource_type: "subscription",
            resource_id: subscription_id.to_owned(),
            before: ended.before,
            after: Some(json!({"status": "canceled"})),
            metadata: json!({}),
            client: Some(initiator.client()),
            reason: None,
        }];
        entries.extend(ended.entries);
        audit::record(&mut tx, &locked, &entries).await?;
        tx.commit().await?;
        grace::count(&ended.graces);
        tracing::warn!(
            %organization_id, subscription_id,
            "Stripe has no such subscription; it was ended here"
        );
        Ok(())
    }
}
