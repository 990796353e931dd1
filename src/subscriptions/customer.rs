//! The organization's customer in Stripe, made once.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::{Asker, is_quiet};
use super::failure::Failure;
use crate::audit::{self, NewEntry};
use crate::db::TenantTx;
use crate::stripe::client::{Client, Params, StripeError};
use crate::stripe::requests::{self, Begun, NewRequest, Request, Subject};
use crate::telemetry::metrics;
use crate::tenancy::organizations;

/// The key of the customer's metadata that names its organization.
const OWNER: &str = "organization_id";
/// How far Stripe's clock may be behind ours.
const CLOCKS: SignedDuration = SignedDuration::from_mins(10);

impl Subscriptions {
    /// Makes the customer of an organization that has none, or finishes what
    /// somebody began.
    pub(super) async fn make_customer(
        &self,
        client: &Client,
        organization_id: Uuid,
        name: &str,
        asker: &Asker,
    ) -> Result<String, Failure> {
        let new = NewRequest {
            subject: Subject::Customer,
            operation: "create",
            target_id: None,
            params: Params::new()
                .set("name", name)
                .set(format!("metadata[{OWNER}]"), organization_id),
            context: serde_json::to_value(asker).unwrap_or(Value::Null),
        };
        // Stripe repeats its answer to a key, failures included: then it takes
        // another request.
        let mut failure = None;
        for _ in 0..2 {
            let request = match requests::begin(&self.pool, organization_id, new.clone()).await? {
                Begun::New(request) => {
                    // Nobody else makes one from here on, but somebody may have
                    // since it was found missing.
                    let standing = self.standing(organization_id).await?;
                    if let Some(id) = standing.customer_id {
                        self.give_up(&request, "there is a customer by now").await?;
                        return Ok(id);
                    }
                    request
                }
                Begun::Open(request) => {
                    if let Some(id) = find(client, &request).await.map_err(Failure::Stripe)? {
                        self.adopt(&request, &id).await?;
                        return Ok(id);
                    }
                    if !request.key_is_good(Timestamp::now()) {
                        self.give_up(&request, "Stripe did not do it").await?;
                        continue;
                    }
                    request
                }
            };
            match client
                .create_customer(&request.params, &request.key())
                .await
            {
                Ok(customer) => {
                    self.adopt(&request, &customer.id).await?;
                    return Ok(customer.id);
                }
                Err(error) if error.may_have_acted() => {
                    let found = find(client, &request).await;
                    match found {
                        Ok(Some(id)) => {
                            self.adopt(&request, &id).await?;
                            return Ok(id);
                        }
                        Ok(None) if error.kind == crate::stripe::client::ErrorKind::Server => {
                            self.give_up(&request, &error.to_string()).await?;
                            failure = Some(error);
                        }
                        // It stays open, and the next one asks again.
                        Ok(None) | Err(_) => return Err(Failure::Stripe(error)),
                    }
                }
                Err(error) => {
                    self.give_up(&request, &error.to_string()).await?;
                    return Err(Failure::Stripe(error));
                }
            }
        }
        Err(failure.map_or(Failure::Busy, Failure::Stripe))
    }

    /// Settles a request for a customer that somebody left open. False: it
    /// cannot be told yet what becomes of it.
    pub(super) async fn settle_customer(
        &self,
        client: &Client,
        request: &Request,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        if let Some(id) = find(client, request).await.map_err(Failure::Stripe)? {
            self.adopt(request, &id).await?;
            return Ok(true);
        }
        if is_quiet(request, now) {
            self.give_up(request, "Stripe did not do it, and nobody asked again")
                .await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Remembers the customer, and closes the request.
    async fn adopt(&self, request: &Request, customer_id: &str) -> Result<(), Failure> {
        let organization_id = request.organization_id;
        let asker: Option<Asker> = serde_json::from_value(request.context.clone()).ok();
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        if !requests::lock_open(tx.conn(), request).await? {
            return Ok(());
        }
        organizations::adopt_customer(&mut tx, customer_id).await?;
        let entry = NewEntry {
            organization_id,
            action: "customer_created",
            actor: asker.as_ref().map_or(audit::Actor::System, Asker::actor),
            resource_type: "customer",
            resource_id: customer_id.to_owned(),
            before: None,
            after: Some(json!({"stripeCustomerId": customer_id})),
            metadata: json!({"idempotency_key": request.key()}),
            client: asker.as_ref().map(Asker::client),
        };
        audit::append(tx.conn(), &locked, std::slice::from_ref(&entry)).await?;
        requests::succeeded(tx.conn(), request, customer_id).await?;
        tx.commit().await?;
        metrics::audit_entries(&[entry.action]);
        organizations::wake_waiting(&self.pool, customer_id).await?;
        Ok(())
    }
}

/// The customer that the request made, if it did.
async fn find(client: &Client, request: &Request) -> Result<Option<String>, StripeError> {
    let since = (request.created_at - CLOCKS).as_second();
    let owner = request.organization_id.to_string();
    let made = client.customers(Some(since)).await?;
    let ours = made
        .into_iter()
        .find(|customer| !customer.deleted && customer.metadata.get(OWNER) == Some(&json!(owner)));
    Ok(ours.map(|customer| customer.id))
}
