//! Payments that are given back. Each refund is entered as soon as Stripe has made it, whatever
//! becomes of what it was made for.

use serde_json::{Value, json};
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::CHANGE_ID_KEY;
use super::failure::Failure;
use super::store::findings;
use crate::audit::{self, Actor, NewEntry};
use crate::db::TenantTx;
use crate::stripe::client::{Client, StripeError};

/// The audit action.
pub const REFUNDED: &str = "payment_refunded";

/// Whose payments are given back, and why.
pub struct Refunding<'a> {
    pub organization_id: Uuid,
    /// The request or checkout that has it done, which is left with Stripe as its mark.
    pub by: Uuid,
    /// The idempotency key of one of its steps.
    pub key: &'a (dyn Fn(&str) -> String + Sync),
    /// What the audit entries say besides.
    pub about: Value,
}

impl Subscriptions {
    /// Refunds payments. One that was refunded before is not refunded again.
    pub(super) async fn give_back(
        &self,
        client: &Client,
        refunding: &Refunding<'_>,
        payments: &[String],
    ) -> Result<(), Failure> {
        for (n, intent) in payments.iter().enumerate() {
            let key = (refunding.key)(&format!("give-back-{n}"));
            let mark = (CHANGE_ID_KEY, refunding.by);
            match client.refund_payment(intent, mark, &key).await {
                Ok(made) => self.enter_refund(refunding, &made.body).await?,
                Err(error) => {
                    self.enter_known_refunds(client, refunding, intent, &error)
                        .await?;
                    // Else it was refunded before.
                    if error.code.as_deref() != Some("charge_already_refunded") {
                        return Err(Failure::Stripe(error));
                    }
                }
            }
        }
        Ok(())
    }

    /// Enters what this service has refunded of a payment, and was never told of.
    async fn enter_known_refunds(
        &self,
        client: &Client,
        refunding: &Refunding<'_>,
        intent: &str,
        error: &StripeError,
    ) -> Result<(), Failure> {
        let known = match client.refunds_of(intent).await {
            Ok(known) => known,
            // Whoever tries again finds the payment refunded, and looks again.
            Err(unread) if error.is_outage() && unread.is_outage() => return Ok(()),
            Err(unread) => return Err(Failure::Stripe(unread)),
        };
        let ours = known
            .iter()
            .filter(|refund| refund["metadata"][CHANGE_ID_KEY].is_string());
        for refund in ours {
            self.enter_refund(refunding, refund).await?;
        }
        Ok(())
    }

    async fn enter_refund(&self, refunding: &Refunding<'_>, refund: &Value) -> Result<(), Failure> {
        let organization_id = refunding.organization_id;
        let id = refund["id"].as_str().unwrap_or_default();
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        if findings::is_entered(tx.conn(), organization_id, REFUNDED, id).await? {
            return Ok(());
        }
        let entry = NewEntry {
            organization_id,
            action: REFUNDED,
            actor: Actor::System,
            resource_type: "refund",
            resource_id: id.to_owned(),
            before: None,
            after: Some(json!({
                "amount": refund["amount"],
                "currency": refund["currency"],
                "status": refund["status"],
                "stripePaymentIntentId": refund["payment_intent"],
            })),
            metadata: refunding.about.clone(),
            client: None,
            reason: None,
        };
        audit::record(&mut tx, &locked, &[entry]).await?;
        Ok(tx.commit().await?)
    }
}
