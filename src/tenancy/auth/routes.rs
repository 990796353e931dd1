//! `/api/auth`: logging in and out.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{LoginError, Logins, Operator, OperatorPolicy, log_out};
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
    /// `pool` serves logins and nothing else.
    pub fn new(pool: PgPool, policy: OperatorPolicy) -> Self {
        Self {
            logins: Logins::new(pool.clone(), policy),
            pool,
        }
    }

    /// The rules of passwords and codes.
    pub fn rules(&self) -> &Logins {
        &self.logins
    }

    /// Ends the session of a token, on every replica.
    pub async fn log_out(&self, token: &str, client: &Client) -> Result<(), sqlx::Error> {
        log_out(&self.pool, token, client).await
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
    /// Of an operator with a second factor: a one-time code, or a recovery code.
    #[schema(max_length = 64)]
    code: Option<String>,
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
    let Credentials {
        email,
        password,
        code,
    } = credentials;
    let logins = state.rules();
    let session = logins
        .log_in(&email, password, code.as_deref(), &client)
        .await?;
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
async fn logout(
    State(state): State<Login>,
    operator: Option<Extension<Operator>>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    // The guard has checked that there is one valid bearer token.
    let value = headers.get(header::AUTHORIZATION);
    let token = value
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().split_once(' '))
        .map_or("", |(_, token)| token.trim());
    let client = operator.map(|Extension(operator)| operator.client);
    state.log_out(token, &client.unwrap_or_default()).await?;
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
            LoginError::CodeNeeded => Self::new(
                StatusCode::UNAUTHORIZED,
                "code_required",
                "this operator has a second factor: send its code, or a recovery code, as `code`",
            ),
            LoginError::WrongCode => Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid_code",
                "the code is wrong, or was used; wait for the next one",
            ),
            LoginError::NoSecondFactor => Self::new(
                StatusCode::FORBIDDEN,
                "second_factor_required",
                "operators need a second factor here: sign in to the console, which makes one",
            ),
            LoginError::ByProviderOnly => Self::new(
                StatusCode::FORBIDDEN,
                "sign_in_by_provider",
                "operators sign in to the console by the identity provider here; programs take an \
                 operators' key",
            ),
            LoginError::BeginAgain => Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid_credentials",
                "something has changed meanwhile; log in again",
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
