//! `/api/operator/operator-keys`: operators' keys. Every access is in the audit log.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::key_routes::invalid_key;
use super::lists::Part;
use super::operator_routes::{Access, keys_make_none};
use super::{
    By, NewOperatorKey, Operator, OperatorKey, Role, create_operator_key, list_operator_keys,
    revoke_operator_key,
};
use crate::server::extract::{self, Path, Query};
use crate::server::pagination::page::{Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};

/// The audit action of a look.
pub const LISTED: &str = "operator_keys_listed";

pub fn routes() -> Routes<Access> {
    Routes::new()
        .route(routes!(keys), operator())
        .route(routes!(create), operator().secret())
        .route(routes!(revoke), operator())
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = NewOperatorKey)]
struct KeyBody {
    /// `operator` or `operator.read`
    #[schema(example = "operator.read")]
    role: String,
    /// By which it is recognized.
    #[schema(min_length = 1, max_length = 100)]
    name: Option<String>,
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CreatedOperatorKey {
    /// The key itself: in this answer and in no other.
    key: String,
    #[serde(flatten)]
    about: OperatorKey,
}

/// Operators' keys, revoked ones as well, oldest first
#[utoipa::path(
    get,
    path = "/api/operator/operator-keys",
    operation_id = "listOperatorKeys",
    tag = "Operators",
    params(Paging),
    responses((status = 200, description = "A page of keys.", body = Page<OperatorKey>)),
)]
async fn keys(
    State(access): State<Access>,
    operator: Operator,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<OperatorKey>>, Problem> {
    let shared = &access.shared;
    let page = shared.page(Uuid::nil(), "operator-keys", &paging).await?;
    let rows = list_operator_keys(&shared.pool, Part::from(&page)).await?;
    let look = (LISTED, "operator_key");
    access.looked(&operator, look, None).await?;
    Ok(Json(page.of(rows)))
}

/// Create a key that acts as an operator
///
/// An operator who has logged in makes one; a key makes none.
#[utoipa::path(
    post,
    path = "/api/operator/operator-keys",
    operation_id = "createOperatorKey",
    tag = "Operators",
    request_body = KeyBody,
    responses((status = 201, description = "The key.", body = CreatedOperatorKey)),
)]
async fn create(
    State(access): State<Access>,
    operator: Operator,
    extract::Json(body): extract::Json<KeyBody>,
) -> Result<(StatusCode, Json<CreatedOperatorKey>), Problem> {
    let created_by = operator.user_id().ok_or_else(keys_make_none)?;
    let role = Role::named(&body.role).filter(|role| role.is_operator());
    let new = NewOperatorKey {
        name: body.name.unwrap_or_else(|| "operator key".to_owned()),
        role: role.ok_or_else(|| invalid_key("role: expected operator or operator.read"))?,
        created_by: Some(created_by),
        expires_at: body.expires_at,
    };
    let (pool, by) = (&access.shared.pool, By::from(operator));
    let (about, key) = create_operator_key(pool, new, Timestamp::now(), &by).await?;
    Ok((StatusCode::CREATED, Json(CreatedOperatorKey { key, about })))
}

/// Revoke an operators' key, at once
#[utoipa::path(
    delete,
    path = "/api/operator/operator-keys/{key}",
    operation_id = "revokeOperatorKey",
    tag = "Operators",
    params(("key" = Uuid, Path, description = "The key's id.")),
    responses((status = 204, description = "It is revoked.")),
)]
async fn revoke(
    State(access): State<Access>,
    operator: Operator,
    Path(key): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    revoke_operator_key(&access.shared.pool, key, &By::from(operator)).await?;
    Ok(StatusCode::NO_CONTENT)
}
