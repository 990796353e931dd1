//! The calls about subscription schedules.

use serde_json::Value;

use super::endpoints::{call, id_of};
use super::error::StripeError;
use super::{Client, Params, Response};

impl Client {
    /// Gives a subscription a schedule, which repeats what it is until its period ends.
    pub async fn create_schedule(
        &self,
        subscription: &str,
        key: &str,
    ) -> Result<Response, StripeError> {
        let path = "/v1/subscription_schedules";
        let params = Params::new().set("from_subscription", subscription);
        self.post(call("subscription_schedules.create", path, &params), key)
            .await
    }

    /// A schedule, with the prices of its phases.
    pub async fn schedule(&self, id: &str) -> Result<Response, StripeError> {
        let name = "subscription_schedules.retrieve";
        let path = format!("/v1/subscription_schedules/{}", id_of(name, id)?);
        let params = Params::new().set("expand[0]", "phases.items.price");
        self.get(call(name, &path, &params)).await
    }

    pub async fn update_schedule(
        &self,
        id: &str,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "subscription_schedules.update";
        let path = format!("/v1/subscription_schedules/{}", id_of(name, id)?);
        self.post(call(name, &path, params), key).await
    }

    /// Lets the subscription go on without its schedule; with `keep_end`, up to the end
    /// that the schedule has set.
    pub async fn release_schedule(
        &self,
        id: &str,
        keep_end: bool,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "subscription_schedules.release";
        let path = format!("/v1/subscription_schedules/{}/release", id_of(name, id)?);
        let params = Params::new().set("preserve_cancel_date", keep_end);
        self.post(call(name, &path, &params), key).await
    }

    /// Puts the schedule of a subscription into it, where Stripe shows its id.
    pub async fn fetch_schedule(&self, subscription: &mut Value) -> Result<(), StripeError> {
        if let Some(id) = subscription["schedule"].as_str() {
            subscription["schedule"] = self.schedule(id).await?.body;
        }
        Ok(())
    }
}
