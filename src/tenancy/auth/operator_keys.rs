//! Operators' keys: credentials of the operators' own programs, which do by `/api/operator`
//! what their role does, and nothing anywhere else. A key is shown once, when it is created;
//! only its hash is stored.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::api_keys::{ApiKeyError, valid_name};
use super::lists::Part;
use super::{By, Role, store, token};
use crate::audit::{self, NewEntry};
use crate::db::WorkerTx;

/// The audit actions about operators' keys.
pub const CREATED: &str = "operator_key_created";
pub const REVOKED: &str = "operator_key_revoked";

/// A key that nobody used for this long may not be needed.
const UNUSED_FOR: SignedDuration = SignedDuration::from_hours(90 * 24);
/// A key without an end is to be replaced after this long.
const OLD_AFTER: SignedDuration = SignedDuration::from_hours(365 * 24);

/// An operators' key as shown in listings, without the secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorKey {
    pub id: Uuid,
    pub name: String,
    /// The first characters of the key.
    pub prefix: String,
    /// `operator` or `operator.read`
    pub role: String,
    /// The operator who made it; null if a command did.
    #[schema(required)]
    pub created_by: Option<Uuid>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    #[schema(required)]
    pub revoked_at: Option<Timestamp>,
    /// Accurate to the minute.
    #[schema(required)]
    pub last_used_at: Option<Timestamp>,
}

pub struct NewOperatorKey {
    pub name: String,
    pub role: Role,
    pub created_by: Option<Uuid>,
    pub expires_at: Option<Timestamp>,
}

/// A valid key that somebody should look at.
#[derive(Debug, Clone)]
pub struct DoubtfulKey {
    pub name: String,
    pub prefix: String,
    /// Not used for 90 days.
    pub unused: bool,
    /// Made a year ago, without an end.
    pub endless: bool,
    /// Who made it is no operator any more.
    pub orphaned: bool,
}

/// Creates a key. The returned secret is not stored and cannot be shown again.
pub async fn create_operator_key(
    pool: &PgPool,
    new: NewOperatorKey,
    now: Timestamp,
    by: &By,
) -> Result<(OperatorKey, String), ApiKeyError> {
    let name = valid_name(&new.name)?.to_owned();
    if !new.role.is_operator() {
        return Err(ApiKeyError::OperatorRole);
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(ApiKeyError::Expired);
    }
    let secret = token::new_operator_key();
    let key = OperatorKey {
        id: Uuid::now_v7(),
        name,
        prefix: token::displayed(&secret).to_owned(),
        role: new.role.as_str().to_owned(),
        created_by: new.created_by,
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    let mut tx = WorkerTx::begin(pool).await?;
    store::operator_keys::insert(tx.conn(), &key, &token::hash(&secret)).await?;
    let after = json!({"prefix": key.prefix, "role": key.role, "expiresAt": key.expires_at});
    audit::record_one(&mut tx, entry(by, CREATED, key.id, after)).await?;
    tx.commit().await?;
    Ok((key, secret))
}

/// Revokes a key, on every replica at once.
pub async fn revoke_operator_key(pool: &PgPool, id: Uuid, by: &By) -> Result<(), ApiKeyError> {
    let mut tx = WorkerTx::begin(pool).await?;
    if !store::operator_keys::revoke(tx.conn(), id).await? {
        return Err(ApiKeyError::UnknownOperatorKey);
    }
    audit::record_one(&mut tx, entry(by, REVOKED, id, json!({"revoked": true}))).await?;
    tx.commit().await?;
    Ok(())
}

/// Lists operators' keys, revoked ones included, oldest first.
pub async fn list_operator_keys(
    pool: &PgPool,
    part: Part,
) -> Result<Vec<OperatorKey>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::operator_keys::list(tx.conn(), part).await
}

/// Valid keys that are unused, old, or made by somebody who is no operator any more.
pub async fn doubtful_operator_keys(
    pool: &PgPool,
    now: Timestamp,
) -> Result<Vec<DoubtfulKey>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::operator_keys::doubtful(tx.conn(), now - UNUSED_FOR, now - OLD_AFTER).await
}

/// An entry of the operators' chain.
fn entry(by: &By, action: &'static str, id: Uuid, after: serde_json::Value) -> NewEntry {
    by.entry(audit::OPERATORS, action, ("operator_key", id), None, after)
}
