//! Logging in and out.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::admission::{self, LoginAdmission};
use super::password::{self, Hasher, PasswordError};
use super::throttle;
use super::token::{self, Credential, Hash};
use super::{Role, store, users};
use crate::db::WorkerTx;
use crate::telemetry::metrics;

/// The lifetime of a token, used or not.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// A new session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Shown once.
    pub token: String,
    pub expires_at: Timestamp,
    /// `None` for an operator.
    pub organization_id: Option<Uuid>,
    pub role: Role,
}

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("wrong e-mail address or password")]
    InvalidCredentials,
    #[error("too many attempts")]
    Throttled { retry_after_secs: u32 },
    #[error("too many logins at once")]
    Busy,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Logs users in.
#[derive(Clone)]
pub struct Logins {
    /// A pool of its own, so that a flood of logins exhausts no other.
    pool: PgPool,
    hasher: Hasher,
    admission: LoginAdmission,
}

/// An attempt, counted as failed until it succeeds.
struct LoginAttempt {
    keys: [Hash; 3],
    at: Timestamp,
}

impl Logins {
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            hasher: Hasher::default(),
            admission: LoginAdmission::default(),
        }
    }

    /// Checks a password and starts a session. An unknown address gets the same
    /// answer as a wrong password, after the same work.
    pub async fn log_in(
        &self,
        email: &str,
        password: String,
        from: IpAddr,
    ) -> Result<Session, LoginError> {
        let result = self.try_log_in(email, password, from).await;
        metrics::login(match &result {
            Ok(_) => "succeeded",
            Err(LoginError::InvalidCredentials) => "failed",
            Err(LoginError::Throttled { .. } | LoginError::Busy) => "throttled",
            Err(LoginError::Database(_)) => "unavailable",
        });
        result
    }

    async fn try_log_in(
        &self,
        email: &str,
        password: String,
        from: IpAddr,
    ) -> Result<Session, LoginError> {
        // Impossible passwords and addresses need no database and no hash.
        if password::check(&password).is_err() || !users::is_address(email) {
            return Err(LoginError::InvalidCredentials);
        }
        let keys = counters_of(&users::normalized(email), from);
        let _admitted = self.admission.admit(&keys[0], &keys[1])?;
        let attempt = self.count_attempt(keys).await?;
        match self.check(email, password, &attempt).await {
            Err(error @ (LoginError::Busy | LoginError::Database(_))) => {
                self.give_back(&attempt).await;
                Err(error)
            }
            checked => checked,
        }
    }

    async fn check(
        &self,
        email: &str,
        password: String,
        attempt: &LoginAttempt,
    ) -> Result<Session, LoginError> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let account = store::account(tx.conn(), &users::forms(email)).await?;
        tx.commit().await?;
        let hash = account
            .as_ref()
            .and_then(|account| account.password_hash.clone());
        let matches = self.hasher.verify(password, hash).await;
        let matches = matches.map_err(|error| match error {
            PasswordError::Busy => LoginError::Busy,
            PasswordError::Unusable => LoginError::InvalidCredentials,
        })?;
        let account = account
            .filter(|_| matches)
            .ok_or(LoginError::InvalidCredentials)?;
        self.start_session(&account, attempt).await
    }

    async fn start_session(
        &self,
        account: &store::Account,
        attempt: &LoginAttempt,
    ) -> Result<Session, LoginError> {
        let member = || account.role.as_deref().and_then(Role::named);
        let role = account.operator.or_else(member);
        let role = role.ok_or(LoginError::InvalidCredentials)?;
        let organization_id = account.organization_id.filter(|_| !role.is_operator());
        let token = token::new_session();
        let expires_at = Timestamp::now() + LIFETIME;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let hash = token::hash(&token);
        store::insert_session(
            tx.conn(),
            &hash,
            account.user_id,
            organization_id,
            expires_at,
        )
        .await?;
        let (mut counters, now) = store::lock_counters(tx.conn(), &attempt.keys).await?;
        throttle::succeed(&mut counters, attempt.at, now);
        store::write_counters(tx.conn(), &attempt.keys, &counters).await?;
        tx.commit().await?;
        Ok(Session {
            token,
            expires_at,
            organization_id,
            role,
        })
    }

    async fn count_attempt(&self, keys: [Hash; 3]) -> Result<LoginAttempt, LoginError> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let (mut counters, now) = store::lock_counters(tx.conn(), &keys).await?;
        match throttle::attempt(&mut counters, now) {
            Ok(()) => {
                store::write_counters(tx.conn(), &keys, &counters).await?;
                tx.commit().await?;
                Ok(LoginAttempt { keys, at: now })
            }
            Err(blocked) => {
                tx.rollback().await?;
                let wait = |until: Timestamp| {
                    Duration::try_from(until.duration_since(now)).unwrap_or_default()
                };
                if let Some(until) = blocked.address_until {
                    self.admission.remember_block(&keys[1], wait(until));
                }
                self.admission.remember_block(&keys[0], wait(blocked.until));
                Err(admission::throttled(wait(blocked.until)))
            }
        }
    }

    /// Stops counting an attempt that failed for our own reasons.
    async fn give_back(&self, attempt: &LoginAttempt) {
        let giving = async {
            let mut tx = WorkerTx::begin(&self.pool).await?;
            let (mut counters, _) = store::lock_counters(tx.conn(), &attempt.keys).await?;
            for (counter, rule) in counters.iter_mut().zip(throttle::RULES) {
                counter.give_back(rule, attempt.at);
            }
            store::write_counters(tx.conn(), &attempt.keys, &counters).await?;
            tx.commit().await
        };
        if let Err::<(), sqlx::Error>(error) = giving.await {
            tracing::warn!(%error, "an unfinished login attempt stays counted as failed");
        }
    }
}

/// The keys of an attempt's counters [pair, address, account]. They are hashes,
/// so that no list of attempted logins is stored.
fn counters_of(email: &str, from: IpAddr) -> [Hash; 3] {
    // An IPv6 subscriber has a whole /64 network.
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

/// Ends the session of a token, on every replica.
pub async fn log_out(pool: &PgPool, token: &str) -> Result<(), sqlx::Error> {
    if let Some(Credential::Session(hash)) = token::parse(token) {
        let mut tx = WorkerTx::begin(pool).await?;
        store::revoke_session(tx.conn(), &hash).await?;
        tx.commit().await?;
    }
    Ok(())
}
