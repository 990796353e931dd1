//! Sessions as their users and operators see them: where each is from, and ending it on every
//! replica at once.
//!
//! Whoever changes a user or a session locks in one order: the audit chains, then the user, then
//! second factor, sessions and counters. A session begins under the user's lock, and only if
//! what was checked before is still so: none outlives a change of password that it did not see.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use uuid::{Uuid, uuid};

use super::token::{self, Hash};
use super::{By, store};
use crate::audit;
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::pagination::page::{Limit, ListQuery, Listed, Page};
use crate::server::problem::Problem;

/// The audit actions about sessions.
pub const ENDED: &str = "user_session_ended";
pub const ALL_ENDED: &str = "user_sessions_ended";

/// How a session was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedInBy {
    Password,
    /// A password and a one-time code.
    SecondFactor,
    /// The operators' identity provider.
    Oidc,
}

impl SignedInBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::SecondFactor => "second_factor",
            Self::Oidc => "oidc",
        }
    }

    /// Sessions of replicas of an earlier version say nothing: a password is all they took.
    pub fn named(name: Option<&str>) -> Self {
        let known = [Self::SecondFactor, Self::Oidc].into_iter();
        let mut known = known.filter(|by| Some(by.as_str()) == name);
        known.next().unwrap_or(Self::Password)
    }
}

/// The same, with the identity provider that vouches.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    pub by: SignedInBy,
    pub issuer: Option<&'a str>,
}

impl<'a> Way<'a> {
    pub const PASSWORD: Self = Self {
        by: SignedInBy::Password,
        issuer: None,
    };
    pub const SECOND_FACTOR: Self = Self {
        by: SignedInBy::SecondFactor,
        issuer: None,
    };

    pub const fn provider(issuer: &'a str) -> Self {
        Self {
            by: SignedInBy::Oidc,
            issuer: Some(issuer),
        }
    }
}

/// A session that has not ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = UserSession)]
#[serde(rename_all = "camelCase")]
pub struct OpenSession {
    pub id: Uuid,
    /// What it is found again by in a list.
    #[serde(skip)]
    pub(super) order: String,
    /// `password`, `second_factor` or `oidc`
    pub signed_in_by: &'static str,
    /// Of one by the identity provider: its issuer.
    #[schema(required)]
    pub issuer: Option<String>,
    #[schema(required)]
    pub ip_address: Option<String>,
    #[schema(required)]
    pub user_agent: Option<String>,
    pub created_at: Timestamp,
    /// Accurate to the minute.
    pub last_used_at: Timestamp,
    pub expires_at: Timestamp,
}

/// A session's position in the list, newest first.
pub type Position = (Timestamp, String);

impl Listed for OpenSession {
    type Position = Position;

    fn position(&self) -> Position {
        (self.created_at, self.order.clone())
    }
}

const NAMESPACE: Uuid = uuid!("c5a1f1f0-4e55-5c5e-9d0b-6f6b1f7f2a10");

/// What a session is called, which tells nothing of its token.
pub fn id_of(token: &Hash) -> Uuid {
    Uuid::new_v5(&NAMESPACE, token)
}

/// The same of a token.
pub fn id_of_token(text: &str) -> Uuid {
    id_of(&token::hash(text))
}

/// A page of a user's sessions, the newest first.
pub async fn open_sessions(
    shared: &Shared,
    user_id: Uuid,
    query: &impl ListQuery,
) -> Result<Page<OpenSession>, Problem> {
    let of = OfUser(user_id, query);
    let page = shared.page(Uuid::nil(), "sessions", &of).await?;
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let after = page.after.as_ref();
    let open = store::sessions::open(tx.conn(), user_id, after, page.rows()).await?;
    tx.commit().await?;
    Ok(page.of(open))
}

/// How many sessions of a user have not ended.
pub async fn count_sessions(pool: &PgPool, user_id: Uuid) -> Result<i64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::sessions::count_open(tx.conn(), user_id).await?;
    tx.commit().await?;
    Ok(open)
}

/// A list of one user's: its cursors continue no other's.
struct OfUser<'a, Q>(Uuid, &'a Q);

impl<Q: ListQuery> ListQuery for OfUser<'_, Q> {
    fn limit(&self) -> Limit {
        self.1.limit()
    }

    fn cursor(&self) -> Option<&str> {
        self.1.cursor()
    }

    fn filters(&self) -> Value {
        json!(self.0)
    }
}

/// Ends one of a user's sessions, on every replica at once; false if there is none.
pub async fn end_session(
    pool: &PgPool,
    user_id: Uuid,
    session: Uuid,
    by: &By,
) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let organizations = super::users::chains_of(&mut tx, user_id).await?;
    let chains = audit::lock_chains(tx.conn(), &organizations).await?;
    let open = store::sessions::open_hashes(tx.conn(), user_id).await?;
    let Some(token) = open.into_iter().find(|token| id_of(token) == session) else {
        return Ok(false);
    };
    if !store::revoke_session(tx.conn(), &token).await? {
        return Ok(false);
    }
    let after = json!({"session": session});
    let entries = organizations
        .iter()
        .map(|of| by.entry(*of, ENDED, ("user", user_id), None, after.clone()));
    audit::record(&mut tx, &chains, &Vec::from_iter(entries)).await?;
    tx.commit().await?;
    Ok(true)
}

/// Ends a user's sessions, but for the one with the token that is kept.
pub async fn end_sessions(
    pool: &PgPool,
    user_id: Uuid,
    kept: Option<&str>,
    by: &By,
) -> Result<u64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let organizations = super::users::chains_of(&mut tx, user_id).await?;
    let chains = audit::lock_chains(tx.conn(), &organizations).await?;
    let kept = kept.map(token::hash);
    let ended = store::revoke_sessions_of(tx.conn(), user_id, kept.as_ref()).await?;
    let after = json!({"sessions": ended, "otherThanOwn": kept.is_some()});
    let entries = organizations
        .iter()
        .map(|of| by.entry(*of, ALL_ENDED, ("user", user_id), None, after.clone()));
    audit::record(&mut tx, &chains, &Vec::from_iter(entries)).await?;
    tx.commit().await?;
    Ok(ended)
}
