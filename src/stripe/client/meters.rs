//! The calls about usage: Stripe's meters, what they are told, and what they have counted.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;

use super::endpoints::{List, Meter, call, id_of};
use super::error::{ErrorKind, StripeError};
use super::{Client, Params};

/// A customer's usage on a meter, as far as Stripe has counted it.
#[derive(Debug, Clone, Deserialize)]
struct EventSummary {
    /// A float in Stripe's documentation; its digits are read exactly.
    aggregated_value: serde_json::Number,
}

impl Client {
    pub async fn meters(&self) -> Result<Vec<Meter>, StripeError> {
        self.all("meters.list", "/v1/billing/meters", Params::new())
            .await
    }

    pub async fn create_meter(&self, params: &Params, key: &str) -> Result<Meter, StripeError> {
        self.post_typed("meters.create", "/v1/billing/meters", params, key)
            .await
    }

    pub async fn create_meter_event(&self, params: &Params, key: &str) -> Result<(), StripeError> {
        let path = "/v1/billing/meter_events";
        self.post(call("meter_events.create", path, params), key)
            .await
            .map(drop)
    }

    /// A thin event with its data, which deliveries leave out.
    pub async fn thin_event(&self, id: &str) -> Result<Value, StripeError> {
        let name = "thin_events.retrieve";
        let path = format!("/v2/core/events/{}", id_of(name, id)?);
        let response = self.get(call(name, &path, &Params::new())).await?;
        Ok(response.body)
    }

    /// What Stripe has counted of a customer's usage on a meter, in `from <= t < to`, which
    /// are whole minutes.
    pub async fn counted_usage(
        &self,
        meter: &str,
        customer: &str,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Decimal, StripeError> {
        let name = "meter_event_summaries.list";
        let path = format!("/v1/billing/meters/{}/event_summaries", id_of(name, meter)?);
        let params = Params::new()
            .set("customer", customer)
            .set("start_time", from.as_second())
            .set("end_time", to.as_second());
        let page: List<EventSummary> = self.get_typed(name, &path, &params).await?;
        let mut counted = Decimal::ZERO;
        for summary in page.data {
            let digits = summary.aggregated_value.to_string();
            let value = digits
                .parse()
                .or_else(|_| Decimal::from_scientific(&digits));
            counted += value.map_err(|_| {
                let message = format!("{digits} units are more than can be read");
                StripeError::new(ErrorKind::Unreadable, name, message)
            })?;
        }
        Ok(counted)
    }
}
