//! What a payer does on Stripe's pages: save a payment method, and look after
//! their bills. Each is led there by the organization's customer.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::Initiator;
use super::change::saga::Requester;
use super::failure::Failure;
use crate::stripe::client::{Client, Params, Response};

/// A page of Stripe's, or an intent, that saves a payment method.
pub struct SetupStarted {
    /// Stripe's id.
    pub id: String,
    pub url: Option<String>,
    /// What Stripe.js needs to confirm an intent.
    pub client_secret: Option<String>,
    pub expires_at: Option<Timestamp>,
}

impl SetupStarted {
    fn of(response: &Response) -> Result<Self, Failure> {
        let text = |name: &str| response.body[name].as_str().map(str::to_owned);
        let expires_at = response.body["expires_at"].as_i64();
        let id = text("id").ok_or(Failure::Unexpected("a setup has no id"))?;
        Ok(Self {
            id,
            url: text("url"),
            client_secret: text("client_secret"),
            expires_at: expires_at.and_then(|secs| Timestamp::from_second(secs).ok()),
        })
    }
}

/// What leads a payer to Stripe.
#[derive(Debug, Clone, Copy)]
enum Page {
    Checkout,
    Setup,
    Portal,
}

impl Subscriptions {
    /// The client of Stripe's API.
    pub fn stripe(&self) -> Result<&Client, Failure> {
        self.stripe.as_ref().ok_or(Failure::NotConfigured)
    }

    /// Makes a page on which the payer saves a payment method.
    pub async fn setup_page(
        &self,
        requester: &Requester,
        return_url: &str,
    ) -> Result<SetupStarted, Failure> {
        let organization_id = requester.organization_id;
        let params = Params::new()
            .set("mode", "setup")
            .set("payment_method_types[0]", "card")
            .set("success_url", return_url)
            .set("cancel_url", return_url)
            .set("client_reference_id", organization_id)
            .set("metadata[organization_id]", organization_id)
            .set(
                "setup_intent_data[metadata][organization_id]",
                organization_id,
            );
        let made = self.for_customer(requester, Page::Checkout, &params);
        SetupStarted::of(&made.await?)
    }

    /// Makes an intent that Stripe's own form in the product confirms.
    pub async fn setup_intent(&self, requester: &Requester) -> Result<SetupStarted, Failure> {
        let params = Params::new()
            .set("usage", "off_session")
            .set("payment_method_types[0]", "card")
            .set("metadata[organization_id]", requester.organization_id);
        let made = self.for_customer(requester, Page::Setup, &params);
        SetupStarted::of(&made.await?)
    }

    /// Makes a session of the customer portal, and returns its address.
    pub async fn portal_session(
        &self,
        requester: &Requester,
        configuration: &str,
        return_url: &str,
    ) -> Result<String, Failure> {
        let params = Params::new()
            .set("configuration", configuration)
            .set("return_url", return_url);
        let made = self.for_customer(requester, Page::Portal, &params);
        let url = made.await?.body["url"].as_str().map(str::to_owned);
        url.ok_or(Failure::Unexpected("a portal session has no address"))
    }

    /// Makes what leads the organization's customer to a page. Nothing is lost with
    /// one that nobody was told of. A customer that was deleted is replaced, once.
    async fn for_customer(
        &self,
        requester: &Requester,
        page: Page,
        params: &Params,
    ) -> Result<Response, Failure> {
        let (client, organization_id) = (self.stripe()?, requester.organization_id);
        let mut last = None;
        for _ in 0..2 {
            let customer = self.customer(client, requester).await?;
            let params = params.clone().set("customer", &customer);
            let key = Uuid::now_v7().to_string();
            let made = match page {
                Page::Checkout => client.create_checkout_session(&params, &key).await,
                Page::Setup => client.create_setup_intent(&params, &key).await,
                Page::Portal => client.create_portal_session(&params, &key).await,
            };
            match made {
                Ok(response) => return Ok(response),
                Err(error) if error.is_missing_customer() => {
                    self.check_customer(client, organization_id).await?;
                    last = Some(error);
                }
                Err(error) => return Err(Failure::Stripe(error)),
            }
        }
        Err(last.map_or(Failure::Busy, Failure::Stripe))
    }

    /// The organization's customer; it is made if there is none.
    pub(super) async fn customer(
        &self,
        client: &Client,
        requester: &Requester,
    ) -> Result<String, Failure> {
        let state = self.state(requester.organization_id).await?;
        if let Some(customer) = state.customer_id {
            return Ok(customer);
        }
        let initiator = Initiator::new(requester.actor, &requester.client);
        self.make_customer(client, requester.organization_id, &state.name, &initiator)
            .await
    }
}

/// The text of a member, or of the id of an object in its place.
pub(super) fn id_in(object: &Value, name: &str) -> Option<String> {
    let member = &object[name];
    let id = member.as_str().or_else(|| member["id"].as_str());
    id.map(str::to_owned)
}
