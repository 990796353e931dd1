//! Creates the organization's customer in Stripe, exactly once.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::{Initiator, is_no_longer_in_flight};
use super::failure::Failure;
use crate::audit::{self, NewEntry};
use crate::db::TenantTx;
use crate::stripe::client::{Client, ErrorKind, Params, StripeError};
use crate::stripe::requests::{self, Begun, NewRequest, Request, Subject};
use crate::tenancy::organizations;

/// The metadata key of a customer that names its organization.
const OWNER_KEY: &str = "organization_id";
/// How far Stripe's clock may lag behind ours.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(10);

impl Subscriptions {
    /// Creates the customer of an organization that has none, or completes a
    /// request for one that is still open.
    pub(super) async fn make_customer(
        &self,
        client: &Client,
        organization_id: Uuid,
        name: &str,
        initiator: &Initiator,
    ) -> Result<String, Failure> {
        let new = creation(organization_id, name, initiator);
        // Stripe replays its response to an idempotency key, failures included,
        // so a second attempt needs a new request.
        let mut failure = None;
        for _ in 0..2 {
            let request = match requests::begin(&self.pool, organization_id, new.clone()).await? {
                Begun::New(request) => {
                    // The open request keeps others out from here on, but one
                    // may have been created since we found none.
                    let state = self.state(organization_id).await?;
                    if let Some(id) = state.customer_id {
                        self.close_failed(&request, "the organization has a customer by now")
                            .await?;
                        return Ok(id);
                    }
                    request
                }
                Begun::Open(request) => {
                    if let Some(id) = find(client, &request).await.map_err(Failure::Stripe)? {
                        self.adopt(&request, &id).await?;
                        return Ok(id);
                    }
                    if !request.key_is_valid(Timestamp::now()) {
                        self.close_failed(&request, "Stripe did not do it").await?;
                        continue;
                    }
                    request
                }
            };
            if !requests::begin_call(&self.pool, &request).await? {
                continue;
            }
            match client
                .create_customer(&request.params, &request.key())
                .await
            {
                Ok(customer) => {
                    self.adopt(&request, &customer.id).await?;
                    return Ok(customer.id);
                }
                Err(error) if error.may_have_acted() => match find(client, &request).await {
                    Ok(Some(id)) => {
                        self.adopt(&request, &id).await?;
                        return Ok(id);
                    }
                    Ok(None) if error.kind == ErrorKind::Server => {
                        self.close_failed(&request, &error.to_string()).await?;
                        failure = Some(error);
                    }
                    // The request stays open for the next attempt.
                    Ok(None) | Err(_) => return Err(Failure::Stripe(error)),
                },
                Err(error) => {
                    self.close_failed(&request, &error.to_string()).await?;
                    return Err(Failure::Stripe(error));
                }
            }
        }
        Err(failure.map_or(Failure::Busy, Failure::Stripe))
    }

    /// Settles an open request for a customer. Returns false if its outcome is
    /// still unknown.
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
        if is_no_longer_in_flight(request, now) {
            self.close_failed(request, "Stripe did not do it, and nobody asked again")
                .await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Stores the customer and closes the request.
    async fn adopt(&self, request: &Request, customer_id: &str) -> Result<(), Failure> {
        let organization_id = request.organization_id;
        let initiator: Option<Initiator> = serde_json::from_value(request.context.clone()).ok();
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        if requests::lock(tx.conn(), request).await? == requests::State::Succeeded {
            return Ok(());
        }
        organizations::adopt_customer(&mut tx, customer_id).await?;
        let entry = NewEntry {
            organization_id,
            action: "customer_created",
            actor: initiator
                .as_ref()
                .map_or(audit::Actor::System, Initiator::actor),
            resource_type: "customer",
            resource_id: customer_id.to_owned(),
            before: None,
            after: Some(json!({"stripeCustomerId": customer_id})),
            metadata: json!({"idempotency_key": request.key()}),
            client: initiator.as_ref().map(Initiator::client),
            reason: None,
        };
        audit::record(&mut tx, &locked, &[entry]).await?;
        requests::succeeded(tx.conn(), request, customer_id).await?;
        tx.commit().await?;
        organizations::wake_waiting(&self.pool, customer_id).await?;
        Ok(())
    }
}

fn creation(organization_id: Uuid, name: &str, initiator: &Initiator) -> NewRequest {
    NewRequest {
        subject: Subject::Customer,
        operation: "create",
        target_id: None,
        params: Params::new()
            .set("name", name)
            .set(format!("metadata[{OWNER_KEY}]"), organization_id),
        context: serde_json::to_value(initiator).unwrap_or(Value::Null),
    }
}

/// The customer that the request created, if it did.
async fn find(client: &Client, request: &Request) -> Result<Option<String>, StripeError> {
    let since = (request.created_at - CLOCK_SKEW).as_second();
    let owner = request.organization_id.to_string();
    let made = client.customers(Some(since)).await?;
    let ours = made.into_iter().find(|customer| {
        !customer.deleted && customer.metadata.get(OWNER_KEY) == Some(&json!(owner))
    });
    Ok(ours.map(|customer| customer.id))
}
