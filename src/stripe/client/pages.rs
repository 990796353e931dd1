//! Stripe's pages and what they are for: checkout, saved payment methods, the
//! customer portal.

use serde_json::Value;
use uuid::Uuid;

use super::endpoints::{call, id_of};
use super::error::StripeError;
use super::{Client, Params, Response};

impl Client {
    pub async fn create_checkout_session(
        &self,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let (name, path) = ("checkout.sessions.create", "/v1/checkout/sessions");
        self.post(call(name, path, params), key).await
    }

    /// Closes a session that is still open.
    pub async fn expire_checkout_session(
        &self,
        id: &str,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "checkout.sessions.expire";
        let path = format!("/v1/checkout/sessions/{}/expire", id_of(name, id)?);
        self.post(call(name, &path, &Params::new()), key).await
    }

    /// The sessions of a customer created since then, in seconds since 1970.
    pub async fn checkout_sessions(
        &self,
        customer: &str,
        created_gte: i64,
    ) -> Result<Vec<Value>, StripeError> {
        let params = Params::new()
            .set("customer", customer)
            .set("created[gte]", created_gte);
        self.all("checkout.sessions.list", "/v1/checkout/sessions", params)
            .await
    }

    pub async fn create_setup_intent(
        &self,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let (name, path) = ("setup_intents.create", "/v1/setup_intents");
        self.post(call(name, path, params), key).await
    }

    pub async fn update_customer(
        &self,
        id: &str,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "customers.update";
        let path = format!("/v1/customers/{}", id_of(name, id)?);
        self.post(call(name, &path, params), key).await
    }

    pub async fn detach_payment_method(
        &self,
        id: &str,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "payment_methods.detach";
        let path = format!("/v1/payment_methods/{}/detach", id_of(name, id)?);
        self.post(call(name, &path, &Params::new()), key).await
    }

    /// Gives a payment back in full, and leaves a mark of who did.
    pub async fn refund_payment(
        &self,
        payment_intent: &str,
        (mark, by): (&str, Uuid),
        key: &str,
    ) -> Result<Response, StripeError> {
        let (name, path) = ("refunds.create", "/v1/refunds");
        let params = Params::new()
            .set("payment_intent", payment_intent)
            .set("reason", "duplicate")
            .set(format!("metadata[{mark}]"), by);
        self.post(call(name, path, &params), key).await
    }

    /// The refunds of a payment, newest first.
    pub async fn refunds_of(&self, payment_intent: &str) -> Result<Vec<Value>, StripeError> {
        let params = Params::new().set("payment_intent", payment_intent);
        self.all("refunds.list", "/v1/refunds", params).await
    }

    /// The configurations of the customer portal, archived ones too: the key that made
    /// one would be answered with it again.
    pub async fn portal_configurations(&self) -> Result<Vec<Value>, StripeError> {
        let name = "billing_portal.configurations.list";
        self.all(name, "/v1/billing_portal/configurations", Params::new())
            .await
    }

    pub async fn create_portal_configuration(
        &self,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "billing_portal.configurations.create";
        let path = "/v1/billing_portal/configurations";
        self.post(call(name, path, params), key).await
    }

    pub async fn update_portal_configuration(
        &self,
        id: &str,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "billing_portal.configurations.update";
        let path = format!("/v1/billing_portal/configurations/{}", id_of(name, id)?);
        self.post(call(name, &path, params), key).await
    }

    pub async fn create_portal_session(
        &self,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let (name, path) = (
            "billing_portal.sessions.create",
            "/v1/billing_portal/sessions",
        );
        self.post(call(name, path, params), key).await
    }
}
