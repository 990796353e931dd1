//! `/api/operator`: organizations' API keys, and service keys. Every access is in the audit
//! log.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::lists::Part;
use super::operator_routes::{Access, conflict};
use super::{
    ApiKey, ApiKeyError, By, NewApiKey, NewServiceKey, Operator, Permission, ServiceKey,
    create_api_key, create_service_key, list_api_keys, list_service_keys, revoke_api_key,
    revoke_service_key,
};
use crate::server::extract::{self, Path, Query};
use crate::server::pagination::page::{Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};

/// The audit actions of looks.
const KEYS_LISTED: &str = "api_keys_listed";
const SERVICE_KEYS_LISTED: &str = "service_keys_listed";

pub fn routes() -> Routes<Access> {
    Routes::new()
        .route(routes!(keys), operator())
        .route(routes!(create_key), operator().secret())
        .route(routes!(revoke_key), operator())
        .route(routes!(service_keys), operator())
        .route(routes!(create_product_key), operator().secret())
        .route(routes!(revoke_product_key), operator())
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = NewApiKey)]
struct KeyBody {
    /// What the key may do: `billing.read`, `billing.manage`, `billing.audit`, `usage.write`,
    /// `agents.execute`; of a service key also `organizations.manage`.
    #[schema(min_items = 1, example = json!(["usage.write"]))]
    scopes: Vec<String>,
    /// By which it is recognized.
    #[schema(min_length = 1, max_length = 100)]
    name: Option<String>,
    expires_at: Option<Timestamp>,
}

impl KeyBody {
    fn scopes(&self) -> Result<Vec<Permission>, Problem> {
        let named = self.scopes.iter().map(|name| {
            Permission::named(name).ok_or_else(|| {
                let names = Permission::OF_SERVICE.map(Permission::as_str).join(", ");
                invalid_key(&format!("scopes: expected some of {names}"))
            })
        });
        named.collect()
    }

    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| "api key".to_owned())
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CreatedApiKey {
    /// The key itself: in this answer and in no other.
    key: String,
    #[serde(flatten)]
    about: ApiKey,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CreatedServiceKey {
    /// The key itself: in this answer and in no other.
    key: String,
    #[serde(flatten)]
    about: ServiceKey,
}

/// An organization's API keys, revoked ones as well, oldest first
#[utoipa::path(
    get,
    path = "/api/operator/organizations/{organization}/api-keys",
    operation_id = "listApiKeys",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id."), Paging),
    responses((status = 200, description = "A page of keys.", body = Page<ApiKey>)),
)]
async fn keys(
    State(access): State<Access>,
    operator: Operator,
    Path(organization): Path<Uuid>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<ApiKey>>, Problem> {
    let shared = &access.shared;
    let page = shared.page(organization, "api-keys", &paging).await?;
    let rows = list_api_keys(&shared.pool, organization, Part::from(&page)).await?;
    // An organization that is not there has no log.
    let log = (!rows.is_empty()).then_some(organization);
    access
        .looked(&operator, (KEYS_LISTED, "api_key"), log)
        .await?;
    Ok(Json(page.of(rows)))
}

/// Create an API key of an organization
#[utoipa::path(
    post,
    path = "/api/operator/organizations/{organization}/api-keys",
    operation_id = "createApiKey",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id.")),
    request_body = KeyBody,
    responses((status = 201, description = "The key.", body = CreatedApiKey)),
)]
async fn create_key(
    State(access): State<Access>,
    operator: Operator,
    Path(organization_id): Path<Uuid>,
    extract::Json(body): extract::Json<KeyBody>,
) -> Result<(StatusCode, Json<CreatedApiKey>), Problem> {
    let new = NewApiKey {
        organization_id,
        name: body.name(),
        scopes: body.scopes()?,
        expires_at: body.expires_at,
    };
    let (pool, by) = (&access.shared.pool, By::from(operator));
    let (about, key) = create_api_key(pool, new, Timestamp::now(), &by).await?;
    Ok((StatusCode::CREATED, Json(CreatedApiKey { key, about })))
}

/// Revoke an API key of an organization, at once
#[utoipa::path(
    delete,
    path = "/api/operator/organizations/{organization}/api-keys/{key}",
    operation_id = "revokeApiKey",
    tag = "Operators",
    params(
        ("organization" = Uuid, Path, description = "The organization's id."),
        ("key" = Uuid, Path, description = "The key's id."),
    ),
    responses((status = 204, description = "It is revoked.")),
)]
async fn revoke_key(
    State(access): State<Access>,
    operator: Operator,
    Path((organization, key)): Path<(Uuid, Uuid)>,
) -> Result<StatusCode, Problem> {
    revoke_api_key(&access.shared.pool, organization, key, &By::from(operator)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Service keys, revoked ones as well, oldest first
#[utoipa::path(
    get,
    path = "/api/operator/service-keys",
    operation_id = "listServiceKeys",
    tag = "Operators",
    params(Paging),
    responses((status = 200, description = "A page of keys.", body = Page<ServiceKey>)),
)]
async fn service_keys(
    State(access): State<Access>,
    operator: Operator,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<ServiceKey>>, Problem> {
    let shared = &access.shared;
    let page = shared.page(Uuid::nil(), "service-keys", &paging).await?;
    let rows = list_service_keys(&shared.pool, Part::from(&page)).await?;
    let look = (SERVICE_KEYS_LISTED, "service_key");
    access.looked(&operator, look, None).await?;
    Ok(Json(page.of(rows)))
}

/// Create a service key, which is the product's
#[utoipa::path(
    post,
    path = "/api/operator/service-keys",
    operation_id = "createServiceKey",
    tag = "Operators",
    request_body = KeyBody,
    responses((status = 201, description = "The key.", body = CreatedServiceKey)),
)]
async fn create_product_key(
    State(access): State<Access>,
    operator: Operator,
    extract::Json(body): extract::Json<KeyBody>,
) -> Result<(StatusCode, Json<CreatedServiceKey>), Problem> {
    let new = NewServiceKey {
        name: body.name(),
        scopes: body.scopes()?,
        expires_at: body.expires_at,
    };
    let (pool, by) = (&access.shared.pool, By::from(operator));
    let (about, key) = create_service_key(pool, new, Timestamp::now(), &by).await?;
    Ok((StatusCode::CREATED, Json(CreatedServiceKey { key, about })))
}

/// Revoke a service key, at once
#[utoipa::path(
    delete,
    path = "/api/operator/service-keys/{key}",
    operation_id = "revokeServiceKey",
    tag = "Operators",
    params(("key" = Uuid, Path, description = "The key's id.")),
    responses((status = 204, description = "It is revoked.")),
)]
async fn revoke_product_key(
    State(access): State<Access>,
    operator: Operator,
    Path(key): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    revoke_service_key(&access.shared.pool, key, &By::from(operator)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn invalid_key(detail: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_api_key", detail)
}

impl From<ApiKeyError> for Problem {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::Database(error) => error.into(),
            ApiKeyError::Organization(_) => Self::not_found("organization not found"),
            ApiKeyError::Unknown
            | ApiKeyError::UnknownServiceKey
            | ApiKeyError::UnknownOperatorKey => {
                Self::not_found("key not found or already revoked")
            }
            ApiKeyError::OperatorRole => invalid_key("role: expected operator or operator.read"),
            ApiKeyError::Erased(_) => conflict(
                "organization_erased",
                "the organization was erased, and takes no more changes",
            ),
            ApiKeyError::ServiceScope(_) => {
                invalid_key("scopes: organizations.manage is for service keys")
            }
            ApiKeyError::Name | ApiKeyError::NoScope | ApiKeyError::Expired => {
                invalid_key(&error.to_string())
            }
        }
    }
}
