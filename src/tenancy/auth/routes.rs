//! `/api/auth`: logging in and out.

use std::net::{IpAddr, Ipv4Addr};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{LoginError, Logins, Session, log_out};
use crate::audit::Client;
use crate::server::extract::Json;
use crate::server::problem::Problem;
use crate::server::routes::{Access, Routes, Rules, public};

/// What the handlers need.
#[derive(Clone)]
pub struct Login {
    logins: Logins,
    pool: PgPool,
}

impl Login {
    /// Checks a password and starts a session, by the rules of `/api/auth/login`.
    pub async fn log_in(
        &self,
        email: &str,
        password: String,
        client: &Client,
    ) -> Result<Session, LoginError> {
        let from = client.ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        self.logins.log_in(email, password, from).await
    }

    /// Ends the session of a token, on every replica.
    pub async fn log_out(&self, token: &str) -> Result<(), sqlx::Error> {
        log_out(&self.pool, token).await
    }

    /// `pool` serves logins and nothing else.
    pub fn new(pool: PgPool) -> Self {
        Self {
            logins: Logins::new(pool.clone()),
            pool,
        }
    }
}

pub fn routes() -> Routes<Login> {
    Routes::new()
        .route(routes!(login), public())
        .route(routes!(logout), Rules::of(Access::Token))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Credentials {
    email: String,
    password: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Token {
    token: String,
    /// `Bearer`
    token_type: &'static str,
    expires_at: jiff::Timestamp,
    /// Null for an operator.
    #[schema(required)]
    organization_id: Option<Uuid>,
    /// `owner`, `billing_manager`, `member`, `operator` or `operator.read`
    role: &'static str,
}

/// Log in
#[utoipa::path(
    post,
    path = "/api/auth/login",
    operation_id = "logIn",
    tag = "Access",
    request_body = Credentials,
    responses((status = 200, description = "A token, for `Authorization: Bearer`.", body = Token)),
)]
async fn login(
    State(state): State<Login>,
    Extension(client): Extension<Client>,
    Json(credentials): Json<Credentials>,
) -> Result<impl IntoResponse, Problem> {
    let Credentials { email, password } = credentials;
    let session = state.log_in(&email, password, &client).await?;
    let token = Token {
        token: session.token,
        token_type: "Bearer",
        expires_at: session.expires_at,
        organization_id: session.organization_id,
        role: session.role.as_str(),
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], axum::Json(token)))
}

/// Log out: revokes the token on every replica
#[utoipa::path(
    post,
    path = "/api/auth/logout",
    operation_id = "logOut",
    tag = "Access",
    responses((status = 204, description = "The token is revoked.")),
)]
async fn logout(State(state): State<Login>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    // The guard has checked that there is one valid bearer token.
    let value = headers.get(header::AUTHORIZATION);
    let token = value
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().split_once(' '))
        .map_or("", |(_, token)| token.trim());
    state.log_out(token).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::InvalidCredentials => Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid_credentials",
                "wrong e-mail address or password",
            ),
            LoginError::Throttled { retry_after_secs } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_attempts",
                "too many failed attempts; wait and try again",
            )
            .retry_after(retry_after_secs),
            LoginError::Busy => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_logins",
                "too many logins at the moment; try again",
            )
            .retry_after(1),
            LoginError::Database(error) => error.into(),
        }
    }
}
