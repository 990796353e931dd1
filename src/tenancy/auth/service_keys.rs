//! Service keys: the product's own credentials, which belong to no organization. Each
//! request names the organization that it is for. A key is shown once, when it is
//! created; only its hash is stored.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::api_keys::{ApiKeyError, scope_names, valid_name};
use super::lists::Part;
use super::{By, Permission, store, token};
use crate::audit::{self, NewEntry};
use crate::db::WorkerTx;

/// The audit actions about service keys.
pub const CREATED: &str = "service_key_created";
pub const REVOKED: &str = "service_key_revoked";

/// A service key as shown in listings, without the secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceKey {
    pub id: Uuid,
    pub name: String,
    /// The first characters of the key.
    pub prefix: String,
    pub scopes: Vec<String>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    #[schema(required)]
    pub revoked_at: Option<Timestamp>,
    /// Accurate to the minute.
    #[schema(required)]
    pub last_used_at: Option<Timestamp>,
}

pub struct NewServiceKey {
    pub name: String,
    pub scopes: Vec<Permission>,
    pub expires_at: Option<Timestamp>,
}

/// Creates a key. The returned secret is not stored and cannot be shown again.
pub async fn create_service_key(
    pool: &PgPool,
    new: NewServiceKey,
    now: Timestamp,
    by: &By,
) -> Result<(ServiceKey, String), ApiKeyError> {
    let name = valid_name(&new.name)?.to_owned();
    let scopes = scope_names(&new.scopes)?;
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(ApiKeyError::Expired);
    }
    let secret = token::new_service_key();
    let key = ServiceKey {
        id: Uuid::now_v7(),
        name,
        prefix: token::displayed(&secret).to_owned(),
        scopes,
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    let mut tx = WorkerTx::begin(pool).await?;
    store::service_keys::insert(tx.conn(), &key, &token::hash(&secret)).await?;
    let after = json!({"prefix": key.prefix, "scopes": key.scopes, "expiresAt": key.expires_at});
    audit::record_one(&mut tx, entry(by, CREATED, key.id, after)).await?;
    tx.commit().await?;
    Ok((key, secret))
}

/// Revokes a key, on every replica at once.
pub async fn revoke_service_key(pool: &PgPool, id: Uuid, by: &By) -> Result<(), ApiKeyError> {
    let mut tx = WorkerTx::begin(pool).await?;
    if !store::service_keys::revoke(tx.conn(), id).await? {
        return Err(ApiKeyError::UnknownServiceKey);
    }
    audit::record_one(&mut tx, entry(by, REVOKED, id, json!({"revoked": true}))).await?;
    tx.commit().await?;
    Ok(())
}

/// Lists service keys, revoked ones included, oldest first.
pub async fn list_service_keys(pool: &PgPool, part: Part) -> Result<Vec<ServiceKey>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::service_keys::list(tx.conn(), part).await
}

/// An entry of the operators' chain: the key is no organization's.
fn entry(by: &By, action: &'static str, id: Uuid, after: serde_json::Value) -> NewEntry {
    by.entry(audit::OPERATORS, action, ("service_key", id), None, after)
}
