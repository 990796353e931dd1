//! `GET /v1/account`: the account itself.

use serde_json::{Value, json};

use crate::call::{Call, Route, get};
use crate::error::ApiError;

pub const ROUTES: &[Route] = &[get("/v1/account", retrieve)];

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    Ok(json!({
        "id": "acct_sandbox",
        "object": "account",
        "business_profile": { "name": "Sandbox", "url": null },
        "business_type": null,
        "capabilities": {},
        "charges_enabled": true,
        "country": "US",
        "created": 1_700_000_000,
        "default_currency": "usd",
        "details_submitted": true,
        "email": null,
        "payouts_enabled": true,
        "settings": { "dashboard": { "display_name": "Sandbox", "timezone": "Etc/UTC" } },
        "type": "standard",
    }))
}
