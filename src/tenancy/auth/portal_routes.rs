//! `POST /api/portal-sessions`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Json, http::header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::Product;
use super::portal_sessions::{self, DEFAULT_SECS, MOST_SECS, NewSession};
use crate::server::Shared;
use crate::server::extract;
use crate::server::number;
use crate::server::problem::Problem;
use crate::server::return_address::ReturnAddresses;
use crate::server::routes::{Permission, Routes, Share, service};
use crate::tenancy::names::{self, Names};

/// The page that takes a code.
pub const ENTER: &str = "/portal/enter";

/// What the handler needs.
#[derive(Clone)]
pub struct PortalSessions {
    pub shared: Shared,
    pub names: Names,
    pub addresses: Arc<ReturnAddresses>,
    /// Where this service is reached from outside.
    pub public_url: Arc<str>,
}

pub fn routes() -> Routes<PortalSessions> {
    let rules = service(Permission::PortalCreate)
        .share(Share::Organizations)
        .secret();
    Routes::new().route(routes!(create), rules)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewCustomerSession {
    /// Whose pages: its external id, or its id.
    #[schema(min_length = 1, max_length = 255, example = "acme")]
    organization: String,
    /// What the visitor may do: `owner` and `billing_manager` act, `member` looks.
    #[schema(
        example = "billing_manager",
        pattern = "^(owner|billing_manager|member)$"
    )]
    role: String,
    /// How long the session lasts, from now on.
    #[serde(default, deserialize_with = "number::maybe_whole")]
    #[schema(minimum = 1, maximum = 86_400, default = 3_600)]
    ttl_seconds: Option<u64>,
    /// Where the pages lead back to; by default the product's address.
    #[serde(default)]
    #[schema(max_length = 2000, example = "https://app.example.com/settings")]
    return_url: Option<String>,
}

/// Where to send the visitor's browser.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CustomerSession {
    /// It can be opened once, within five minutes.
    url: String,
    /// When the session ends, opened or not.
    expires_at: Timestamp,
}

fn ttl(secs: Option<u64>) -> Result<u32, Problem> {
    let secs = secs.unwrap_or(DEFAULT_SECS.into());
    let fits = u32::try_from(secs).ok();
    fits.filter(|secs| (1..=MOST_SECS).contains(secs))
        .ok_or_else(|| {
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "ttl_out_of_range",
                format!("ttlSeconds: a session lasts 1 to {MOST_SECS} seconds"),
            )
            .with("field", json!("ttlSeconds"))
        })
}

/// Open the customer pages for somebody
///
/// Send the visitor's browser to `url`. The code in it works once, and becomes a session of this
/// organization and role.
#[utoipa::path(
    post,
    path = "/api/portal-sessions",
    operation_id = "createPortalSession",
    tag = "Access",
    request_body = NewCustomerSession,
    responses((status = 201, description = "Where to send the visitor's browser.", body = CustomerSession),
              (status = 404, description = "There is no such organization.")),
)]
async fn create(
    State(state): State<PortalSessions>,
    product: Product,
    extract::Json(new): extract::Json<NewCustomerSession>,
) -> Result<
    (
        StatusCode,
        [(header::HeaderName, &'static str); 1],
        Json<CustomerSession>,
    ),
    Problem,
> {
    let role = portal_sessions::role_of(&new.role)?;
    let ttl = ttl(new.ttl_seconds)?;
    let return_url = match (&new.return_url, state.addresses.default_address()) {
        (None, None) => None,
        (named, _) => Some(state.addresses.choose("returnUrl", named.as_deref())?),
    };
    if !names::is_external_id(&new.organization) {
        return Err(names::invalid(&format!(
            "organization: {}",
            names::EXPECTED
        )));
    }
    let name: Arc<str> = new.organization.as_str().into();
    let found = state.names.find([name.clone()].into()).await?;
    let named = found.get(&name).copied().ok_or_else(names::not_found)?;
    let organization_id = named.organization(true)?;
    let session = NewSession::of(
        &product,
        organization_id,
        role,
        (return_url, ttl),
        Timestamp::now(),
    );
    let code = portal_sessions::create(&state.shared.pool, product, &session).await?;
    let created = CustomerSession {
        url: format!("{}{ENTER}?code={code}", state.public_url),
        expires_at: session.expires_at,
    };
    let unstored = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, unstored, Json(created)))
}
