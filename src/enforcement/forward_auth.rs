//! What a proxy asks for: a metric and an amount, by the query or by headers.

use axum::http::{HeaderMap, StatusCode};
use billing_domain::quantity;
use rust_decimal::Decimal;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::error::Problem;

const METRIC: &str = "x-quota-metric";
const AMOUNT: &str = "x-quota-amount";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// The metric's name; else the header `X-Quota-Metric`.
    pub metric: Option<String>,
    /// A decimal number; else the header `X-Quota-Amount`, else 1.
    amount: Option<String>,
    /// Makes it safe to ask again: with one id it is counted once.
    pub id: Option<String>,
    /// Whether it is counted if it is allowed.
    #[serde(default = "counted")]
    #[param(default = true)]
    pub consume: bool,
}

fn counted() -> bool {
    true
}

impl Asked {
    pub fn metric(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let of_header = || headers.get(METRIC)?.to_str().ok().map(str::to_owned);
        let metric = self.metric.clone().or_else(of_header);
        metric.ok_or_else(|| {
            let detail = "name the metric: ?metric=api_calls, or the header X-Quota-Metric";
            Problem::new(StatusCode::BAD_REQUEST, "metric_missing", detail)
        })
    }

    pub fn amount(&self, headers: &HeaderMap) -> Result<Decimal, Problem> {
        let of_header = || headers.get(AMOUNT)?.to_str().ok();
        let text = self.amount.as_deref().or_else(of_header).unwrap_or("1");
        quantity::parse(text).map_err(|error| {
            let detail = format!("amount: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "invalid_quantity", detail)
        })
    }
}
