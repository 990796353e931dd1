//! API keys: the credentials of an organization's own programs. A key is shown
//! once, when it is created; only its hash is stored.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::lists::Part;
use super::{By, Permission, store, token};
use crate::audit;
use crate::db::TenantTx;

/// An API key as shown in listings, without the secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    pub id: Uuid,
    pub organization_id: Uuid,
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

pub struct NewApiKey {
    pub organization_id: Uuid,
    pub name: String,
    pub scopes: Vec<Permission>,
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    #[error("expected a name of 1 to 100 characters, without control characters")]
    Name,
    #[error("a key needs at least one scope of {}", scopes())]
    NoScope,
    #[error(
        "the scope {0} is for service keys; use --service in the place of --organization, or \
         leave the scope out"
    )]
    ServiceScope(&'static str),
    #[error("the expiry must be in the future")]
    Expired,
    #[error("organization {0} not found; run `organizations list` to see them")]
    Organization(Uuid),
    #[error("organization {0} was erased, and takes no more changes")]
    Erased(Uuid),
    #[error("key not found or already revoked; run `api-keys list` to see them")]
    Unknown,
    #[error("service key not found or already revoked; run `api-keys list --service` to see them")]
    UnknownServiceKey,
    #[error(
        "operators' key not found or already revoked; run `api-keys list --operator` to see them"
    )]
    UnknownOperatorKey,
    #[error("an operators' key has the role operator or operator.read")]
    OperatorRole,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

fn scopes() -> String {
    Permission::ALL.map(Permission::as_str).join(", ")
}

/// A key's name, trimmed.
pub(super) fn valid_name(name: &str) -> Result<&str, ApiKeyError> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(ApiKeyError::Name);
    }
    Ok(name)
}

/// The names of a key's scopes, each once.
pub(super) fn scope_names(scopes: &[Permission]) -> Result<Vec<String>, ApiKeyError> {
    if scopes.is_empty() {
        return Err(ApiKeyError::NoScope);
    }
    let mut names: Vec<String> = scopes.iter().map(|s| s.as_str().to_owned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Creates a key. The returned secret is not stored and cannot be shown again.
pub async fn create_api_key(
    pool: &PgPool,
    new: NewApiKey,
    now: Timestamp,
    by: &By,
) -> Result<(ApiKey, String), ApiKeyError> {
    let name = valid_name(&new.name)?;
    let names = scope_names(&new.scopes)?;
    let of_service = |scope: &&Permission| !Permission::ALL.contains(scope);
    if let Some(scope) = new.scopes.iter().find(of_service) {
        return Err(ApiKeyError::ServiceScope(scope.as_str()));
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(ApiKeyError::Expired);
    }
    let secret = token::new_key();
    let mut tx = TenantTx::begin(pool, new.organization_id).await?;
    let locked = audit::lock_chains(tx.conn(), &[new.organization_id]).await?;
    if audit::is_erased(tx.conn(), new.organization_id).await? {
        return Err(ApiKeyError::Erased(new.organization_id));
    }
    let key = ApiKey {
        id: Uuid::now_v7(),
        organization_id: new.organization_id,
        name: name.to_owned(),
        prefix: token::displayed(&secret).to_owned(),
        scopes: names,
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    if !store::insert_key(&mut tx, &key, &token::hash(&secret)).await? {
        return Err(ApiKeyError::Organization(new.organization_id));
    }
    let after = json!({"prefix": key.prefix, "scopes": key.scopes});
    let entry = by.entry(
        key.organization_id,
        "api_key_created",
        ("api_key", key.id),
        None,
        after,
    );
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    Ok((key, secret))
}

/// Revokes a key, on every replica at once.
pub async fn revoke_api_key(
    pool: &PgPool,
    organization_id: Uuid,
    id: Uuid,
    by: &By,
) -> Result<(), ApiKeyError> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    if !store::revoke_key(&mut tx, id).await? {
        return Err(ApiKeyError::Unknown);
    }
    let after = json!({"revoked": true});
    let key = ("api_key", id);
    let entry = by.entry(organization_id, "api_key_revoked", key, None, after);
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    Ok(())
}

/// Lists an organization's keys, revoked ones included, oldest first.
pub async fn list_api_keys(
    pool: &PgPool,
    organization_id: Uuid,
    part: Part,
) -> Result<Vec<ApiKey>, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    store::keys(&mut tx, part).await
}
