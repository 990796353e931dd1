//! Users: creates, changes, disables and lists them.

use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;
use unicode_normalization::UnicodeNormalization as _;
use utoipa::ToSchema;
use uuid::Uuid;

use super::password::{Hasher, PasswordError};
use super::store::{Filter, Membership};
use super::token::Hash;
use super::{By, Role, store};
use crate::audit::{self, NewEntry};
use crate::db::WorkerTx;

/// A user as shown to operators.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: Uuid,
    pub email: String,
    /// `owner`, `billing_manager`, `member`, `operator` or `operator.read`
    pub role: String,
    /// Null for operators.
    #[schema(required)]
    pub organization_id: Option<Uuid>,
    pub created_at: jiff::Timestamp,
    #[schema(required)]
    pub disabled_at: Option<jiff::Timestamp>,
}

pub struct NewUser {
    pub email: String,
    pub role: Role,
    /// `None` for operators, and only for them.
    pub organization_id: Option<Uuid>,
    pub password: String,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("{0:?} is not an e-mail address")]
    Email(String),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("user {0} already exists; `users set-password` changes the password")]
    Exists(String),
    #[error("user {0} not found; run `users list` to see them")]
    Unknown(String),
    #[error("user {0} is already a member of that organization, as {1}")]
    AlreadyMember(String, String),
    #[error("organization {0} not found; run `organizations list` to see them")]
    Organization(Uuid),
    #[error("organization {0} was erased, and takes no more changes")]
    Erased(Uuid),
    #[error("operators belong to no organization; leave --organization out")]
    OperatorWithOrganization,
    #[error("name the organization that the user belongs to: --organization ID")]
    NoOrganization,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Whether `email` is plausible: a local part, an @, a domain, and no spaces or
/// control characters.
pub fn is_address(email: &str) -> bool {
    let email = email.trim();
    let unusual = |c: char| c.is_whitespace() || c.is_control();
    email.len() <= 254
        && !email.contains(unusual)
        && email
            .rsplit_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
}

/// Normalizes an address for storage and comparison: lower case, composed (NFC).
pub fn normalized(email: &str) -> String {
    email
        .trim()
        .nfc()
        .collect::<String>()
        .to_lowercase()
        .nfc()
        .collect()
}

/// The forms in which an address may be stored, the likeliest first. Addresses
/// stored before normalization are as they were typed.
pub fn forms(email: &str) -> Vec<String> {
    let typed = email.trim().to_lowercase();
    let composed = normalized(email);
    let in_parts = composed.nfd().collect();
    let mut forms = vec![typed, composed];
    if !forms.contains(&in_parts) {
        forms.push(in_parts);
    }
    forms.dedup();
    forms
}

/// What became of a new user.
pub enum Created {
    User(User),
    /// The user was there, without this membership, and keeps the password.
    Member(User),
}

/// Creates a user, or makes one that exists a member of the organization, with an audit entry if
/// there is one.
pub async fn create_user(
    pool: &PgPool,
    hasher: &Hasher,
    new: NewUser,
    by: &By,
) -> Result<Created, UserError> {
    match (new.role.is_operator(), new.organization_id) {
        (true, Some(_)) => return Err(UserError::OperatorWithOrganization),
        (true, None) | (false, Some(_)) => {}
        (false, None) => return Err(UserError::NoOrganization),
    }
    let email = normalized(&new.email);
    if !is_address(&email) {
        return Err(UserError::Email(new.email));
    }
    let password_hash = hasher.hash(new.password).await?;
    let id = Uuid::now_v7();
    let mut tx = WorkerTx::begin(pool).await?;
    let chain = new.organization_id.unwrap_or(audit::OPERATORS);
    let chains = audit::lock_chains(tx.conn(), &[chain]).await?;
    if let Some(organization) = new.organization_id
        && audit::is_erased(tx.conn(), organization).await?
    {
        return Err(UserError::Erased(organization));
    }
    let created = store::insert_user(
        tx.conn(),
        id,
        &email,
        &forms(&new.email),
        &password_hash,
        new.role,
    )
    .await?;
    let Some(created_at) = created else {
        tx.rollback().await?;
        return join(pool, &email, new.organization_id, new.role, by).await;
    };
    if let Some(organization) = new.organization_id {
        let role = new.role.as_str();
        match store::insert_member(tx.conn(), organization, id, role).await? {
            Membership::Added => {}
            Membership::NoOrganization => return Err(UserError::Organization(organization)),
            Membership::Already(role) => return Err(UserError::AlreadyMember(email, role)),
        }
    }
    // Nothing can be taken out of the chain, so no address goes into it.
    let after = json!({"role": new.role.as_str()});
    let entry = by.entry(chain, "user_created", ("user", id), None, after);
    audit::record(&mut tx, &chains, &[entry]).await?;
    tx.commit().await?;
    Ok(Created::User(User {
        id,
        email,
        role: new.role.as_str().to_owned(),
        organization_id: new.organization_id,
        created_at,
        disabled_at: None,
    }))
}

/// Makes a user who is there a member, unless that changes nothing.
async fn join(
    pool: &PgPool,
    email: &str,
    organization_id: Option<Uuid>,
    role: Role,
    by: &By,
) -> Result<Created, UserError> {
    let exists = || UserError::Exists(email.to_owned());
    let organization = organization_id.ok_or_else(exists)?;
    let mut tx = WorkerTx::begin(pool).await?;
    let found = find(&mut tx, Which::Email(email)).await?;
    tx.rollback().await?;
    // Operators see all organizations, and belong to none.
    if Role::named(&found.role).is_some_and(Role::is_operator) {
        return Err(exists());
    }
    match add_member(pool, email, organization, role, by).await {
        Ok(user) => Ok(Created::Member(User {
            role: role.as_str().to_owned(),
            organization_id,
            ..user
        })),
        Err(UserError::AlreadyMember(..)) => Err(exists()),
        Err(error) => Err(error),
    }
}

/// Makes a user a member of another organization; the next login is for it.
pub async fn add_member(
    pool: &PgPool,
    email: &str,
    organization_id: Uuid,
    role: Role,
    by: &By,
) -> Result<User, UserError> {
    if role.is_operator() {
        return Err(UserError::OperatorWithOrganization);
    }
    let mut tx = WorkerTx::begin(pool).await?;
    let chains = audit::lock_chains(tx.conn(), &[organization_id]).await?;
    if audit::is_erased(tx.conn(), organization_id).await? {
        return Err(UserError::Erased(organization_id));
    }
    let user = find(&mut tx, Which::Email(email)).await?;
    match store::insert_member(tx.conn(), organization_id, user.id, role.as_str()).await? {
        Membership::Added => {}
        Membership::NoOrganization => return Err(UserError::Organization(organization_id)),
        Membership::Already(role) => return Err(UserError::AlreadyMember(user.email, role)),
    }
    let after = json!({"role": role.as_str()});
    let action = "member_added";
    let entry = by.entry(organization_id, action, ("user", user.id), None, after);
    audit::record(&mut tx, &chains, &[entry]).await?;
    tx.commit().await?;
    Ok(user)
}

/// Sets a user's password and ends all of the user's sessions. Returns the user, who may be
/// disabled.
pub async fn set_password(
    pool: &PgPool,
    hasher: &Hasher,
    user: Which<'_>,
    password: String,
    by: &By,
) -> Result<User, UserError> {
    let hash = hasher.hash(password).await?;
    change(pool, user, Change::Password(&hash, None), by).await
}

/// The same by the user, whose session with the token goes on.
pub(super) async fn set_own_password(
    pool: &PgPool,
    user_id: Uuid,
    hash: &str,
    token: &Hash,
    by: &By,
) -> Result<User, UserError> {
    let set = Change::Password(hash, Some(token));
    change(pool, Which::Id(user_id), set, by).await
}

/// Disables a user and ends all of the user's sessions.
pub async fn disable_user(pool: &PgPool, user: Which<'_>, by: &By) -> Result<User, UserError> {
    change(pool, user, Change::Disabled, by).await
}

/// Lets a disabled user log in again, with the password that the user had.
pub async fn enable_user(pool: &PgPool, user: Which<'_>, by: &By) -> Result<User, UserError> {
    change(pool, user, Change::Enabled, by).await
}

/// A user, by what the caller knows of them.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    Email(&'a str),
    Id(Uuid),
}

enum Change<'a> {
    /// With the session that goes on.
    Password(&'a str, Option<&'a Hash>),
    Disabled,
    Enabled,
}

impl Change<'_> {
    fn action(&self) -> (&'static str, serde_json::Value) {
        match self {
            Self::Password(..) => ("user_password_set", json!({})),
            Self::Disabled => ("user_disabled", json!({"disabled": true})),
            Self::Enabled => ("user_enabled", json!({"disabled": false})),
        }
    }
}

/// Whose chains the entries about a user are in: the user's organizations', or the operators'.
pub(super) async fn chains_of(tx: &mut WorkerTx, user_id: Uuid) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut organizations = store::organizations_of(tx.conn(), user_id).await?;
    if organizations.is_empty() {
        organizations.push(audit::OPERATORS);
    }
    Ok(organizations)
}

/// Changes a user, with an audit entry in each of the user's organizations, or in the
/// operators' own. Returns the user as before.
async fn change(
    pool: &PgPool,
    which: Which<'_>,
    change: Change<'_>,
    by: &By,
) -> Result<User, UserError> {
    let (action, after) = change.action();
    let mut tx = WorkerTx::begin(pool).await?;
    let user = find(&mut tx, which).await?;
    let organizations = chains_of(&mut tx, user.id).await?;
    let chains = audit::lock_chains(tx.conn(), &organizations).await?;
    store::lock_user(tx.conn(), user.id).await?;
    match change {
        Change::Password(hash, _) => store::update_password(tx.conn(), user.id, hash).await?,
        Change::Disabled => store::disable_user(tx.conn(), user.id).await?,
        Change::Enabled => store::enable_user(tx.conn(), user.id).await?,
    }
    let kept = match change {
        Change::Password(_, kept) => kept,
        Change::Disabled | Change::Enabled => None,
    };
    store::revoke_sessions_of(tx.conn(), user.id, kept).await?;
    let before = json!({"disabled": user.disabled_at.is_some()});
    let entries: Vec<NewEntry> = organizations
        .iter()
        .map(|id| {
            let before = Some(before.clone());
            by.entry(*id, action, ("user", user.id), before, after.clone())
        })
        .collect();
    audit::record(&mut tx, &chains, &entries).await?;
    tx.commit().await?;
    Ok(user)
}

pub(super) async fn find(tx: &mut WorkerTx, which: Which<'_>) -> Result<User, UserError> {
    let (forms, id) = match which {
        Which::Email(email) => (Some(forms(email)), None),
        Which::Id(id) => (None, Some(id)),
    };
    let filter = Filter {
        forms: forms.as_deref(),
        id,
        ..Filter::default()
    };
    let users = store::users(tx.conn(), filter).await?;
    users.into_iter().next().ok_or_else(|| {
        UserError::Unknown(match which {
            Which::Email(email) => email.to_owned(),
            Which::Id(id) => id.to_string(),
        })
    })
}

/// A user as the database has them now.
pub async fn user(pool: &PgPool, id: Uuid) -> Result<User, UserError> {
    let mut tx = WorkerTx::begin(pool).await?;
    find(&mut tx, Which::Id(id)).await
}

/// Lists all users, or those of an organization, oldest first.
pub async fn list_users(
    pool: &PgPool,
    organization: Option<Uuid>,
) -> Result<Vec<User>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let filter = Filter {
        organization,
        ..Filter::default()
    };
    store::users(tx.conn(), filter).await
}

/// Users who are no operators and belong to no organization: they cannot log in.
pub async fn homeless_users(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::homeless(tx.conn()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implausible_addresses_are_rejected() {
        for address in ["test@example.com", " Ünï@example.org ", "a@b"] {
            assert!(is_address(address), "{address}");
        }
        let long = format!("{}@example.com", "x".repeat(260));
        for other in ["", "@", "a@", "@b", "a b@c", "a\0@b", "a\r\n@b", &long] {
            assert!(!is_address(other), "{other:?}");
        }
        assert_eq!(normalized(" Test@Example.COM "), "test@example.com");
    }

    #[test]
    fn composed_and_decomposed_addresses_are_equal() {
        let composed = "jos\u{e9}@example.com";
        for typed in [
            composed,
            "jose\u{301}@example.com",
            "JOSE\u{301}@Example.com",
            " JOS\u{c9}@example.com",
        ] {
            assert_eq!(normalized(typed), composed, "{typed}");
            assert!(forms(typed).contains(&"jose\u{301}@example.com".to_owned()));
        }
        // The Kelvin sign becomes the letter; Hangul syllables are composed.
        assert_eq!(normalized("\u{212a}@b"), "k@b");
        assert_eq!(normalized("\u{1112}\u{1161}\u{11ab}@b"), "\u{d55c}@b");
        assert_eq!(forms("plain@example.com"), ["plain@example.com"]);
    }
}
