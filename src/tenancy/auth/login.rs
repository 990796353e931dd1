//! Logging in: a password, and where an operator has a second factor, a code.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::admission::{self, LoginAdmission};
use super::password::{self, Hasher, PasswordError};
use super::second_factor::{self, Proof, sealed};
use super::sessions::Way;
use super::sign_in::{Session, enter_recovery_code, enter_sign_in, start_session};
use super::store::{self, Account};
use super::throttle;
use super::token::{self, Hash};
use super::{OperatorPolicy, Role, users};
use crate::audit::{self, Client};
use crate::db::WorkerTx;
use crate::server::signing::SharedSigningKey;
use crate::telemetry::metrics;

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("wrong e-mail address or password")]
    InvalidCredentials,
    #[error("a code is needed")]
    CodeNeeded,
    #[error("the code is wrong, or was used")]
    WrongCode,
    #[error("operators need a second factor here, and this one has none")]
    NoSecondFactor,
    #[error("operators sign in by the identity provider here")]
    ByProviderOnly,
    #[error("the step before is too long ago, or something has changed since")]
    BeginAgain,
    #[error("too many attempts")]
    Throttled { retry_after_secs: u32 },
    #[error("too many logins at once")]
    Busy,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What a right password comes to.
pub enum Begun {
    SignedIn(Session),
    /// A code is due: what its form sends along.
    CodeDue(String),
    /// A second factor is to be enrolled first: likewise.
    EnrolmentDue(String),
}

/// A right password, until the code comes. It is sealed, and in the browser's hands.
#[derive(Serialize, Deserialize)]
pub(super) struct Pending {
    pub user_id: Uuid,
    pub email: String,
    /// Of the password's hash: with another password, one begins again.
    password: String,
}

impl Pending {
    pub const CODE: &str = "sign-in code";
    pub const ENROLMENT: &str = "sign-in enrolment";
}

/// Logs users in.
#[derive(Clone)]
pub struct Logins {
    /// A pool of its own, so that a flood of logins exhausts no other.
    pub(super) pool: PgPool,
    pub(super) hasher: Hasher,
    admission: LoginAdmission,
    pub(super) policy: OperatorPolicy,
    pub(super) sealing: SharedSigningKey,
}

/// An attempt, counted as failed until it succeeds.
pub(super) struct LoginAttempt {
    keys: [Hash; 3],
    at: Timestamp,
}

impl Logins {
    pub fn new(pool: PgPool, policy: OperatorPolicy) -> Self {
        Self {
            sealing: SharedSigningKey::new(pool.clone(), "operators' sign-in"),
            pool,
            hasher: Hasher::default(),
            admission: LoginAdmission::default(),
            policy,
        }
    }

    /// Checks a password, and a code where one is due, and starts a session. An unknown address
    /// gets the same answer as a wrong password, after the same work.
    pub async fn log_in(
        &self,
        email: &str,
        password: String,
        code: Option<&str>,
        client: &Client,
    ) -> Result<Session, LoginError> {
        let done = async {
            match (self.try_begin(email, password, client).await?, code) {
                (Begun::SignedIn(session), _) => Ok(session),
                (Begun::EnrolmentDue(_), _) => Err(LoginError::NoSecondFactor),
                (Begun::CodeDue(_), None) => Err(LoginError::CodeNeeded),
                (Begun::CodeDue(pending), Some(code)) => {
                    self.try_finish(&pending, code, client).await
                }
            }
        };
        counted(done.await)
    }

    /// Checks a password. Where a step is due, the sign-in is counted with that.
    pub async fn begin(
        &self,
        email: &str,
        password: String,
        client: &Client,
    ) -> Result<Begun, LoginError> {
        match self.try_begin(email, password, client).await {
            Ok(due @ (Begun::CodeDue(_) | Begun::EnrolmentDue(_))) => Ok(due),
            done => counted(done),
        }
    }

    async fn try_begin(
        &self,
        email: &str,
        password: String,
        client: &Client,
    ) -> Result<Begun, LoginError> {
        // Impossible passwords and addresses need no database and no hash.
        if password::check(&password).is_err() || !users::is_address(email) {
            return Err(LoginError::InvalidCredentials);
        }
        let attempt = self.attempt(&users::normalized(email), client).await?;
        let checked = async {
            // As it was typed: of two that differ in form alone, each keeps its own.
            let account = self.check(email, password).await?;
            let role = account.role().ok_or(LoginError::InvalidCredentials)?;
            self.begun(email, &account, role, &attempt.1, client).await
        };
        match checked.await {
            // The password was right, and nothing is done yet.
            Ok(due @ (Begun::CodeDue(_) | Begun::EnrolmentDue(_))) => {
                self.give_back(&attempt.1).await;
                Ok(due)
            }
            Err(
                error @ (LoginError::Busy | LoginError::Database(_) | LoginError::ByProviderOnly),
            ) => {
                self.give_back(&attempt.1).await;
                Err(error)
            }
            begun => begun,
        }
    }

    async fn begun(
        &self,
        email: &str,
        account: &Account,
        role: Role,
        attempt: &LoginAttempt,
        client: &Client,
    ) -> Result<Begun, LoginError> {
        let due = match role.is_operator() {
            true if !self.policy.passwords => return Err(LoginError::ByProviderOnly),
            true if account.second_factor => Some(Pending::CODE),
            true if self.policy.second_factor => Some(Pending::ENROLMENT),
            _ => None,
        };
        let Some(purpose) = due else {
            let way = Way::PASSWORD;
            let mut tx = self.hold(account, role).await?;
            let session = start_session(&mut tx, account, role, way, client).await?;
            enter_sign_in(&mut tx, &session, account.user_id, way, client).await?;
            succeed(&mut tx, attempt).await?;
            tx.commit().await?;
            return Ok(Begun::SignedIn(session));
        };
        let pending = Pending {
            user_id: account.user_id,
            email: email.to_owned(),
            password: mark_of(account),
        };
        let key = self.sealing.get().await?;
        let sealed = sealed::seal(key, purpose, &pending, Timestamp::now());
        Ok(match purpose {
            Pending::CODE => Begun::CodeDue(sealed),
            _ => Begun::EnrolmentDue(sealed),
        })
    }

    /// Checks the code that is due, and starts the session.
    pub async fn finish(
        &self,
        pending: &str,
        code: &str,
        client: &Client,
    ) -> Result<Session, LoginError> {
        counted(self.try_finish(pending, code, client).await)
    }

    async fn try_finish(
        &self,
        pending: &str,
        code: &str,
        client: &Client,
    ) -> Result<Session, LoginError> {
        let pending = self.pending(Pending::CODE, pending).await?;
        let name = format!("second factor {}", pending.user_id);
        let (_admitted, attempt) = self.attempt(&name, client).await?;
        let finished = async {
            let (account, role) = self.account_of(&pending).await?;
            let mut tx = self.hold(&account, role).await.map_err(begin_again)?;
            let proof =
                second_factor::prove(&mut tx, pending.user_id, code, Timestamp::now()).await?;
            let proof = proof.ok_or(LoginError::WrongCode)?;
            let way = Way::SECOND_FACTOR;
            let session = start_session(&mut tx, &account, role, way, client).await?;
            if proof == Proof::RecoveryCode {
                enter_recovery_code(&mut tx, pending.user_id, client).await?;
            }
            enter_sign_in(&mut tx, &session, account.user_id, way, client).await?;
            succeed(&mut tx, &attempt).await?;
            tx.commit().await?;
            Ok::<_, LoginError>(session)
        };
        let finished = finished.await;
        match &finished {
            Ok(_) => self.forgive(&pending.email, client).await,
            Err(LoginError::Database(_)) => self.give_back(&attempt).await,
            Err(_) => {}
        }
        finished
    }

    /// What was sealed when the password was right.
    pub(super) async fn pending(
        &self,
        purpose: &str,
        pending: &str,
    ) -> Result<Pending, LoginError> {
        let key = self.sealing.get().await?;
        let opened = sealed::open(key, purpose, pending, Timestamp::now());
        opened.ok_or(LoginError::BeginAgain)
    }

    /// The account of a right password, which is what it was.
    pub(super) async fn account_of(
        &self,
        pending: &Pending,
    ) -> Result<(Account, Role), LoginError> {
        let account = self.account(&pending.email).await?;
        let account = account.filter(|account| account.user_id == pending.user_id);
        let account = account.filter(|account| mark_of(account) == pending.password);
        let account = account.ok_or(LoginError::BeginAgain)?;
        let role = account.operator.filter(|_| self.policy.passwords);
        Ok((account, role.ok_or(LoginError::BeginAgain)?))
    }

    /// A transaction in which a session of the account can begin: the account is locked, and
    /// still what it was when the password was checked.
    pub(super) async fn hold(&self, account: &Account, role: Role) -> Result<WorkerTx, LoginError> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        if role.is_operator() {
            // Before the account, as everywhere.
            audit::lock_chains(tx.conn(), &[audit::OPERATORS]).await?;
        }
        match store::hold(tx.conn(), account).await? {
            true => Ok(tx),
            false => Err(LoginError::InvalidCredentials),
        }
    }

    async fn account(&self, email: &str) -> Result<Option<Account>, sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let account = store::account(tx.conn(), &users::forms(email)).await?;
        tx.commit().await?;
        Ok(account)
    }

    /// The account, if the password is its.
    pub(super) async fn check(&self, email: &str, password: String) -> Result<Account, LoginError> {
        let account = self.account(email).await?;
        let hash = account
            .as_ref()
            .and_then(|account| account.password_hash.clone());
        let matches = self.hasher.verify(password, hash).await;
        let matches = matches.map_err(|error| match error {
            PasswordError::Busy => LoginError::Busy,
            PasswordError::Unusable => LoginError::InvalidCredentials,
        })?;
        account
            .filter(|_| matches)
            .ok_or(LoginError::InvalidCredentials)
    }

    /// Lets an attempt in and counts it, until the guard is dropped.
    pub(super) async fn attempt(
        &self,
        name: &str,
        client: &Client,
    ) -> Result<(admission::AdmittedLogin, LoginAttempt), LoginError> {
        let keys = counters_of(name, client);
        let admitted = self.admission.admit(&keys[0], &keys[1])?;
        Ok((admitted, self.count_attempt(keys).await?))
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

    /// Stops counting an attempt that failed for our own reasons, or is not yet done.
    pub(super) async fn give_back(&self, attempt: &LoginAttempt) {
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

/// Of a step after the password: what has changed since is no fault of the code's.
pub(super) fn begin_again(error: LoginError) -> LoginError {
    match error {
        LoginError::InvalidCredentials => LoginError::BeginAgain,
        other => other,
    }
}

fn counted<T>(done: Result<T, LoginError>) -> Result<T, LoginError> {
    metrics::login(match &done {
        Ok(_) => "succeeded",
        Err(
            LoginError::InvalidCredentials
            | LoginError::CodeNeeded
            | LoginError::WrongCode
            | LoginError::NoSecondFactor
            | LoginError::ByProviderOnly
            | LoginError::BeginAgain,
        ) => "failed",
        Err(LoginError::Throttled { .. } | LoginError::Busy) => "throttled",
        Err(LoginError::Database(_)) => "unavailable",
    });
    done
}

/// A mark of the account's password, which tells nothing of it.
fn mark_of(account: &Account) -> String {
    let hash = account.password_hash.as_deref().unwrap_or_default();
    hex::encode(&token::hash(hash)[..16])
}

pub(super) async fn succeed(tx: &mut WorkerTx, attempt: &LoginAttempt) -> Result<(), sqlx::Error> {
    let (mut counters, now) = store::lock_counters(tx.conn(), &attempt.keys).await?;
    throttle::succeed(&mut counters, attempt.at, now);
    store::write_counters(tx.conn(), &attempt.keys, &counters).await
}

/// The keys of an attempt's counters [pair, address, account]. They are hashes,
/// so that no list of attempted logins is stored.
pub(super) fn counters_of(name: &str, client: &Client) -> [Hash; 3] {
    let from = client.ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    // An IPv6 subscriber has a whole /64 network.
    let from = match from.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    };
    [
        token::hash(&format!("pair {from} {name}")),
        token::hash(&format!("address {from}")),
        token::hash(&format!("account {name}")),
    ]
}
