//! What Stripe does not have any more: customers that were deleted, and
//! subscriptions that are not there.

use serde_json::json;
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::Asker;
use super::failure::Failure;
use crate::audit::{self, NewEntry};
use crate::db::TenantTx;
use crate::metering::grace;
use crate::projection;
use crate::stripe::client::{Client, ErrorKind};
use crate::telemetry::metrics;
use crate::tenancy::organizations;

/// That of one that says that a subscription was ended here alone.
pub const ENDED_HERE: &str = "subscription_missing_in_stripe";

impl Subscriptions {
    /// Looks whether the customer that new subscriptions are for is gone. One
    /// that was deleted is never used again; one that Stripe never had is for
    /// an operator: the key may be another account's.
    pub(super) async fn check_customer(
        &self,
        client: &Client,
        organization_id: Uuid,
    ) -> Result<(), Failure> {
        let Some(id) = self.standing(organization_id).await?.customer_id else {
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

    /// Ends a subscription that Stripe does not have, in our state alone.
    pub(super) async fn end_missing(
        &self,
        organization_id: Uuid,
        subscription_id: &str,
        asker: &Asker,
    ) -> Result<(), Failure> {
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        let ended = projection::end_missing(
            tx.conn(),
            &locked,
            &self.catalogue,
            (organization_id, subscription_id),
            asker.actor(),
        )
        .await?;
        let mut entries = vec![NewEntry {
            organization_id,
            action: ENDED_HERE,
            actor: asker.actor(),
            resource_type: "subscription",
            resource_id: subscription_id.to_owned(),
            before: ended.before,
            after: Some(json!({"status": "canceled"})),
            metadata: json!({}),
            client: Some(asker.client()),
        }];
        entries.extend(ended.entries);
        audit::append(tx.conn(), &locked, &entries).await?;
        tx.commit().await?;
        let actions: Vec<&'static str> = entries.iter().map(|entry| entry.action).collect();
        metrics::audit_entries(&actions);
        grace::count(&ended.graces);
        tracing::warn!(
            %organization_id, subscription_id,
            "Stripe has no such subscription; it was ended here"
        );
        Ok(())
    }
}
