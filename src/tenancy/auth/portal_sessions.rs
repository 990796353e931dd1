//! Sessions of the customer pages. A service key asks for one, for an organization and a role,
//! and gets an address with a one-time code. The browser that opens it has the session, in a
//! cookie. Both are stored by their hashes.

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::store::portal_sessions::{self as store, CodeState};
use super::store::sessions::{self, SessionRow};
use super::token::{self, Credential, Hash};
use super::{Product, Role};
use crate::audit::{self, Actor, Client, NewEntry};
use crate::batch::lookup::Grouped;
use crate::db::{self, WorkerTx};
use crate::server::problem::Problem;

/// The audit actions about sessions of the customer pages.
pub const ACTIONS: [&str; 3] = [CREATED, OPENED, ENDED];
const CREATED: &str = "portal_session_created";
const OPENED: &str = "portal_session_opened";
const ENDED: &str = "portal_session_ended";

/// How long a code can be opened, at most: the browser is on its way already.
pub const CODE_SECS: u32 = 300;
/// How long a session lasts, with its code: by default, and at most.
pub const DEFAULT_SECS: u32 = 3_600;
pub const MOST_SECS: u32 = 86_400;

/// A session that is asked for.
pub struct NewSession {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub role: Role,
    pub service_key_id: Uuid,
    pub return_url: Option<String>,
    pub code_expires_at: Timestamp,
    pub expires_at: Timestamp,
}

impl NewSession {
    pub fn of(
        product: &Product,
        organization_id: Uuid,
        role: Role,
        (return_url, ttl_secs): (Option<String>, u32),
        now: Timestamp,
    ) -> Self {
        let after = |secs: u32| now + SignedDuration::from_secs(secs.into());
        Self {
            organization_id,
            id: Uuid::now_v7(),
            role,
            service_key_id: product.key_id,
            return_url,
            code_expires_at: after(CODE_SECS.min(ttl_secs)),
            expires_at: after(ttl_secs),
        }
    }
}

/// Enters a session, and returns its code, which is shown once.
pub async fn create(
    pool: &PgPool,
    product: Product,
    new: &NewSession,
) -> Result<String, sqlx::Error> {
    let code = token::new_portal_code();
    let mut tx = WorkerTx::begin(pool).await?;
    let after = json!({"role": new.role.as_str(), "expiresAt": new.expires_at});
    let entry = entry(CREATED, new.organization_id, new.id, product.key_id, after);
    let entry = NewEntry {
        client: Some(product.client),
        ..entry
    };
    // First, so that an organization that is being erased is seen as it is.
    audit::record_one(&mut tx, entry).await?;
    store::insert(tx.conn(), new, &token::hash(&code)).await?;
    tx.commit().await?;
    Ok(code)
}

/// Why a code opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unopened {
    /// Nobody was given it, or it is long gone.
    Unknown,
    Used,
    Expired,
}

/// Codes as they are now. Anybody can try one: they are looked up together, by the connections
/// of credentials, and only one that waits to be opened takes a transaction.
#[derive(Clone)]
pub struct Codes(Grouped<Hash, CodeState>);

impl Codes {
    /// `pool` has connections that are billing_worker from the start.
    pub fn new(pool: PgPool) -> Self {
        Self(Grouped::new(move |codes: Vec<Hash>| {
            let pool = pool.clone();
            Box::pin(async move {
                let mut conn = db::acquire(&pool).await?;
                store::codes(&mut conn, &codes).await
            })
        }))
    }

    async fn find(&self, code: Hash) -> Result<Option<CodeState>, Problem> {
        let found = self.0.find(code).await;
        found.map_err(|error| Problem::from(&*error))
    }
}

/// Uses a code: the session that it becomes is returned as a token, for a cookie.
pub async fn open(
    pool: &PgPool,
    codes: &Codes,
    code: &str,
    client: &Client,
) -> Result<Result<String, Unopened>, Problem> {
    let Some(code) = token::parse_code(code) else {
        return Ok(Err(Unopened::Unknown));
    };
    match codes.find(code).await? {
        Some(CodeState::Waits) => {}
        Some(CodeState::Used) => return Ok(Err(Unopened::Used)),
        Some(CodeState::Expired) => return Ok(Err(Unopened::Expired)),
        None => return Ok(Err(Unopened::Unknown)),
    }
    let session = token::new_portal_session();
    let mut tx = WorkerTx::begin(pool).await?;
    let opened = store::open(tx.conn(), &code, &token::hash(&session)).await?;
    let Some(opened) = opened else {
        // Another was faster, or the key that asked for it was revoked.
        drop(tx);
        let used = codes.find(code).await? == Some(CodeState::Used);
        return Ok(Err(if used {
            Unopened::Used
        } else {
            Unopened::Expired
        }));
    };
    // Its key may have expired: nothing is opened that has ended already.
    let valid = store::sessions(tx.conn(), &[token::hash(&session)]).await?;
    if valid.is_empty() {
        return Ok(Err(Unopened::Expired));
    }
    let entry = NewEntry {
        client: Some(client.clone()),
        ..entry(
            OPENED,
            opened.organization_id,
            opened.id,
            opened.service_key_id,
            json!({"role": opened.role}),
        )
    };
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(Ok(session))
}

/// Enters that one of an organization's own users has signed in to the pages.
pub async fn signed_in(pool: &PgPool, token: &str, client: &Client) -> Result<(), sqlx::Error> {
    let Some(Credential::Session(hash)) = token::parse(token) else {
        return Ok(());
    };
    let mut tx = WorkerTx::begin(pool).await?;
    if let Some((organization, session)) = own_session(&mut tx, &hash).await? {
        let after = json!({"role": session.role});
        let entry = of_user(
            OPENED,
            organization,
            (session.user_id, &hash),
            after,
            client,
        );
        audit::record_one(&mut tx, entry).await?;
    }
    tx.commit().await
}

/// A session of a user of an organization's own, which is still open.
async fn own_session(
    tx: &mut WorkerTx,
    hash: &Hash,
) -> Result<Option<(Uuid, SessionRow)>, sqlx::Error> {
    let found = sessions::find(tx.conn(), &[*hash]).await?;
    let found = found.into_iter().next().map(|(_, session)| session);
    let found = found.filter(|session| session.operator.is_none());
    Ok(found.and_then(|session| Some((session.organization_id?, session))))
}

/// Ends the session of a cookie's token, whichever kind it is, on every replica.
pub async fn end(pool: &PgPool, token: &str, client: &Client) -> Result<(), sqlx::Error> {
    match token::parse_portal(token) {
        Some(Credential::Portal(hash)) => end_opened(pool, &hash, client).await,
        Some(Credential::Session(hash)) => end_own(pool, token, &hash, client).await,
        Some(_) | None => Ok(()),
    }
}

async fn end_opened(pool: &PgPool, hash: &Hash, client: &Client) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let found = store::sessions(tx.conn(), &[*hash]).await?;
    if let Some((_, session)) = found.into_iter().next() {
        // Before the session, as everywhere.
        let chains = audit::lock_chains(tx.conn(), &[session.organization_id]).await?;
        if store::end(tx.conn(), hash).await? {
            let after = json!({"role": session.role.as_str()});
            let (organization, key) = (session.organization_id, session.service_key_id);
            let entry = NewEntry {
                client: Some(client.clone()),
                ..entry(ENDED, organization, session.id, key, after)
            };
            audit::record(&mut tx, &chains, &[entry]).await?;
        }
    }
    tx.commit().await
}

async fn end_own(
    pool: &PgPool,
    token: &str,
    hash: &Hash,
    client: &Client,
) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let Some((organization, session)) = own_session(&mut tx, hash).await? else {
        tx.rollback().await?;
        return super::log_out(pool, token, client).await;
    };
    let chains = audit::lock_chains(tx.conn(), &[organization]).await?;
    if super::store::revoke_session(tx.conn(), hash).await? {
        let after = json!({"role": session.role});
        let entry = of_user(ENDED, organization, (session.user_id, hash), after, client);
        audit::record(&mut tx, &chains, &[entry]).await?;
    }
    tx.commit().await
}

/// An entry about a session of a user who signed in with a password.
fn of_user(
    action: &'static str,
    organization: Uuid,
    (user, hash): (Uuid, &Hash),
    after: serde_json::Value,
    client: &Client,
) -> NewEntry {
    let session = super::sessions::id_of(hash);
    NewEntry {
        actor: Actor::User(user),
        client: Some(client.clone()),
        ..entry(action, organization, session, user, after)
    }
}

fn entry(
    action: &'static str,
    organization_id: Uuid,
    id: Uuid,
    service_key: Uuid,
    after: serde_json::Value,
) -> NewEntry {
    NewEntry {
        organization_id,
        action,
        actor: Actor::ApiKey(service_key),
        resource_type: "portal_session",
        resource_id: id.to_string(),
        before: None,
        after: Some(after),
        metadata: json!({}),
        client: None,
        reason: None,
    }
}

/// For whom the customer pages are shown: beside `Principal`, what only they need.
#[derive(Debug, Clone)]
pub struct PortalVisitor {
    pub role: Role,
    /// Whether the organization is archived, and only read.
    pub archived: bool,
    /// Where the product wants them back.
    pub return_url: Option<String>,
    /// Whether the product vouches for them, rather than a password.
    pub by_code: bool,
}

/// Nobody but an organization's own may open its pages.
pub(super) fn role_of(name: &str) -> Result<Role, Problem> {
    let role = Role::named(name).filter(|role| !role.is_operator());
    role.ok_or_else(|| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "role_invalid",
            format!(
                "role: {} is none of an organization's; expected owner, billing_manager or member",
                crate::server::problem::shown(name)
            ),
        )
        .with("field", json!("role"))
    })
}
