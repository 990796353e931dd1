//! Users: who may log in, and for which organization.

use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::password::{Hasher, PasswordError};
use super::{Role, store};
use crate::audit::{self, Actor, NewEntry};
use crate::db::WorkerTx;
use crate::metrics;

/// A user, as operators see one.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: Uuid,
    pub email: String,
    pub role: String,
    pub organization_id: Option<Uuid>,
    pub created_at: jiff::Timestamp,
    pub disabled_at: Option<jiff::Timestamp>,
}

pub struct NewUser {
    pub email: String,
    pub role: Role,
    /// None for an operator, and for nobody else.
    pub organization_id: Option<Uuid>,
    pub password: String,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("{0:?} is no e-mail address")]
    Email(String),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("there is a user {0} already; `users set-password` changes its password")]
    Exists(String),
    #[error("there is no user {0}; `users list` shows them")]
    Unknown(String),
    #[error("there is no organization {0}; `organizations list` shows them")]
    Organization(Uuid),
    #[error("an operator belongs to no organization: leave --organization out")]
    OperatorOfOne,
    #[error("say which organization the user belongs to: --organization ID")]
    OfNone,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Whether it can be an address: something, an @, something, and nothing that
/// is no part of one.
pub fn is_address(email: &str) -> bool {
    let email = email.trim();
    let unusual = |c: char| c.is_whitespace() || c.is_control();
    email.len() <= 254
        && !email.contains(unusual)
        && email
            .rsplit_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
}

/// The form that addresses are compared in: case makes no difference.
pub fn folded(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Creates a user; one of an organization is entered in its audit log.
pub async fn create_user(pool: &PgPool, hasher: &Hasher, new: NewUser) -> Result<User, UserError> {
    match (new.role, new.organization_id) {
        (Role::Operator, Some(_)) => return Err(UserError::OperatorOfOne),
        (Role::Operator, None) | (_, Some(_)) => {}
        (_, None) => return Err(UserError::OfNone),
    }
    let email = folded(&new.email);
    if !is_address(&email) {
        return Err(UserError::Email(new.email));
    }
    let password_hash = hasher.hash(new.password).await?;
    let id = Uuid::now_v7();
    let mut tx = WorkerTx::begin(pool).await?;
    let created = store::insert_user(
        tx.conn(),
        id,
        &email,
        &password_hash,
        new.role == Role::Operator,
    )
    .await?;
    let created_at = created.ok_or_else(|| UserError::Exists(email.clone()))?;
    if let Some(organization) = new.organization_id {
        if !store::insert_member(tx.conn(), organization, id, new.role.as_str()).await? {
            return Err(UserError::Organization(organization));
        }
        let after = json!({"email": email, "role": new.role.as_str()});
        enter(&mut tx, organization, "user_created", id, None, Some(after)).await?;
    }
    tx.commit().await?;
    if new.organization_id.is_some() {
        metrics::audit_entries(&["user_created"]);
    }
    Ok(User {
        id,
        email,
        role: new.role.as_str().to_owned(),
        organization_id: new.organization_id,
        created_at,
        disabled_at: None,
    })
}

/// Makes a user a member of another organization, where the next login leads.
pub async fn add_member(
    pool: &PgPool,
    email: &str,
    organization_id: Uuid,
    role: Role,
) -> Result<(), UserError> {
    if role == Role::Operator {
        return Err(UserError::OperatorOfOne);
    }
    let mut tx = WorkerTx::begin(pool).await?;
    let user = find(&mut tx, email).await?;
    if !store::insert_member(tx.conn(), organization_id, user.id, role.as_str()).await? {
        return Err(UserError::Organization(organization_id));
    }
    let after = json!({"email": user.email, "role": role.as_str()});
    let action = "member_added";
    enter(&mut tx, organization_id, action, user.id, None, Some(after)).await?;
    tx.commit().await?;
    metrics::audit_entries(&[action]);
    Ok(())
}

/// Gives a user another password, and ends the sessions of the old one.
pub async fn set_password(
    pool: &PgPool,
    hasher: &Hasher,
    email: &str,
    password: String,
) -> Result<(), UserError> {
    let hash = hasher.hash(password).await?;
    let mut tx = WorkerTx::begin(pool).await?;
    let user = find(&mut tx, email).await?;
    store::update_password(tx.conn(), user.id, &hash).await?;
    changed(tx, &user, "user_password_set", json!({})).await
}

/// Lets a user log in no more, and ends the user's sessions everywhere.
pub async fn disable_user(pool: &PgPool, email: &str) -> Result<(), UserError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let user = find(&mut tx, email).await?;
    store::disable_user(tx.conn(), user.id).await?;
    changed(tx, &user, "user_disabled", json!({"disabled": true})).await
}

async fn changed(
    mut tx: WorkerTx,
    user: &User,
    action: &'static str,
    after: serde_json::Value,
) -> Result<(), UserError> {
    store::revoke_sessions_of(tx.conn(), user.id).await?;
    if let Some(organization) = user.organization_id {
        let before = json!({"disabled": user.disabled_at.is_some()});
        enter(
            &mut tx,
            organization,
            action,
            user.id,
            Some(before),
            Some(after),
        )
        .await?;
    }
    tx.commit().await?;
    if user.organization_id.is_some() {
        metrics::audit_entries(&[action]);
    }
    Ok(())
}

async fn find(tx: &mut WorkerTx, email: &str) -> Result<User, UserError> {
    let users = store::users(tx.conn(), None, Some(&folded(email))).await?;
    let user = users.into_iter().next();
    user.ok_or_else(|| UserError::Unknown(email.to_owned()))
}

async fn enter(
    tx: &mut WorkerTx,
    organization_id: Uuid,
    action: &'static str,
    user_id: Uuid,
    before: Option<serde_json::Value>,
    after: Option<serde_json::Value>,
) -> Result<(), sqlx::Error> {
    let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    let entry = NewEntry {
        organization_id,
        action,
        actor: Actor::System,
        resource_type: "user",
        resource_id: user_id.to_string(),
        before,
        after,
        metadata: json!({}),
        client: None,
    };
    audit::append(tx.conn(), &locked, std::slice::from_ref(&entry)).await
}

/// All users, or those of an organization, oldest first.
pub async fn list_users(
    pool: &PgPool,
    organization: Option<Uuid>,
) -> Result<Vec<User>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::users(tx.conn(), organization, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_what_is_none() {
        for address in ["test@example.com", " Ünï@example.org ", "a@b"] {
            assert!(is_address(address), "{address}");
        }
        let long = format!("{}@example.com", "x".repeat(260));
        for other in ["", "@", "a@", "@b", "a b@c", "a\0@b", "a\r\n@b", &long] {
            assert!(!is_address(other), "{other:?}");
        }
        assert_eq!(folded(" Test@Example.COM "), "test@example.com");
    }
}
