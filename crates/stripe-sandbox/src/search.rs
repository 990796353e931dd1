//! `…/search`: Stripe's query language, which the sandbox does not support.
//! Without these routes, `search` would be reported as an unknown id.

use serde_json::Value;

use crate::call::{Call, Route, get};
use crate::error::ApiError;

pub const ROUTES: &[Route] = &[
    get("/v1/charges/search", refuse),
    get("/v1/customers/search", refuse),
    get("/v1/invoices/search", refuse),
    get("/v1/payment_intents/search", refuse),
    get("/v1/prices/search", refuse),
    get("/v1/products/search", refuse),
    get("/v1/subscriptions/search", refuse),
];

fn refuse(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    params.required("query")?;
    Err(ApiError::unsupported(
        "query",
        "search; list the objects and filter them instead",
    ))
}
