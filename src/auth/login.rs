//! Logging in and out.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::password::{self, Hasher, PasswordError};
use super::throttle;
use super::token::{self, Hash, Presented};
use super::{Role, store, users};
use crate::db::WorkerTx;
use crate::metrics;

/// How long a token is good for, used or not.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// A new session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Shown once.
    pub token: String,
    pub expires_at: Timestamp,
    /// None: an operator's.
    pub organization_id: Option<Uuid>,
    pub role: Role,
}

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("the address or the password is wrong")]
    InvalidCredentials,
    #[error("too many attempts")]
    Throttled { retry_after_secs: u32 },
    #[error("too many logins at once")]
    Busy,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Checks a password and starts a session. An address that nobody has is
/// answered as a wrong password is, after the same work.
pub async fn log_in(
    pool: &PgPool,
    hasher: &Hasher,
    email: &str,
    password: String,
    from: IpAddr,
) -> Result<Session, LoginError> {
    let result = try_log_in(pool, hasher, email, password, from).await;
    metrics::login(match &result {
        Ok(_) => "succeeded",
        Err(LoginError::InvalidCredentials) => "failed",
        Err(LoginError::Throttled { .. } | LoginError::Busy) => "throttled",
        Err(LoginError::Database(_)) => "unavailable",
    });
    result
}

async fn try_log_in(
    pool: &PgPool,
    hasher: &Hasher,
    email: &str,
    password: String,
    from: IpAddr,
) -> Result<Session, LoginError> {
    // What nobody can have as a password is compared with nothing.
    if password::check(&password).is_err() || !users::is_address(email) {
        return Err(LoginError::InvalidCredentials);
    }
    let keys = counters_of(&users::folded(email), from);
    count_attempt(pool, &keys).await?;

    let mut tx = WorkerTx::begin(pool).await?;
    let account = store::account(tx.conn(), &users::forms(email)).await?;
    tx.commit().await?;
    let hash = account
        .as_ref()
        .and_then(|account| account.password_hash.clone());
    let matches = hasher
        .verify(password, hash)
        .await
        .map_err(|error| match error {
            PasswordError::Busy => LoginError::Busy,
            PasswordError::Unusable => LoginError::InvalidCredentials,
        })?;
    let account = account
        .filter(|_| matches)
        .ok_or(LoginError::InvalidCredentials)?;
    let role = if account.operator {
        Role::Operator
    } else {
        let role = account.role.as_deref().and_then(Role::named);
        role.ok_or(LoginError::InvalidCredentials)?
    };
    let organization_id = account.organization_id.filter(|_| !account.operator);

    let token = token::new_session();
    let expires_at = Timestamp::now() + LIFETIME;
    let mut tx = WorkerTx::begin(pool).await?;
    let hash = token::hash(&token);
    store::insert_session(
        tx.conn(),
        &hash,
        account.user_id,
        organization_id,
        expires_at,
    )
    .await?;
    store::clear_counters(tx.conn(), &keys[0], &keys[2]).await?;
    tx.commit().await?;
    Ok(Session {
        token,
        expires_at,
        organization_id,
        role,
    })
}

/// The counters [pair, address, account] of an attempt, as hashes: no list of
/// who tried to log in is kept.
fn counters_of(email: &str, from: IpAddr) -> [Hash; 3] {
    // An IPv6 subscriber has a whole network of addresses.
    let from = match from.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    };
    [
        token::hash(&format!("pair {from} {email}")),
        token::hash(&format!("address {from}")),
        token::hash(&format!("account {email}")),
    ]
}

async fn count_attempt(pool: &PgPool, keys: &[Hash; 3]) -> Result<(), LoginError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let (mut counters, now) = store::lock_counters(tx.conn(), keys).await?;
    match throttle::attempt(&mut counters, now) {
        Ok(()) => {
            store::write_counters(tx.conn(), keys, &counters).await?;
            tx.commit().await?;
            Ok(())
        }
        Err(until) => {
            let wait = until.duration_since(now).as_secs().clamp(0, 3_600) + 1;
            Err(LoginError::Throttled {
                retry_after_secs: u32::try_from(wait).unwrap_or(1),
            })
        }
    }
}

/// Ends the session of a token, on every replica.
pub async fn log_out(pool: &PgPool, token: &str) -> Result<(), sqlx::Error> {
    if let Some(Presented::Session(hash)) = token::read(token) {
        let mut tx = WorkerTx::begin(pool).await?;
        store::revoke_session(tx.conn(), &hash).await?;
        tx.commit().await?;
    }
    Ok(())
}
