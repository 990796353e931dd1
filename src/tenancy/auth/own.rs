//! What an operator changes of their own sign-in: the password and the second factor. Each asks
//! for a password or a code first, whose attempts are counted like those to log in.

use jiff::Timestamp;
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::login::{self, LoginError, Logins, Pending};
use super::password::PasswordError;
use super::second_factor::{self, Proof, Proposal, Proposed, sealed};
use super::sessions::{SignedInBy, Way};
use super::sign_in::{self, Session};
use super::store::second_factors;
use super::users::{set_own_password, user};
use super::{By, UserError, password, store, throttle, token};
use crate::audit::{self, Client};
use crate::db::WorkerTx;
use crate::telemetry::metrics;

/// An operator, and the session in which they ask.
pub struct Own<'a> {
    pub user_id: Uuid,
    pub token: &'a str,
    pub client: &'a Client,
}

#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    #[error("the password is wrong")]
    WrongPassword,
    #[error("the code is wrong, or was used")]
    WrongCode,
    #[error("the two new passwords differ")]
    Differ,
    #[error("the form is too old")]
    BeginAgain,
    #[error("there is a second factor already")]
    AlreadyThere,
    #[error("operators need a second factor here")]
    Required,
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Login(LoginError),
}

impl From<LoginError> for OwnError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::InvalidCredentials => Self::WrongPassword,
            LoginError::WrongCode => Self::WrongCode,
            LoginError::BeginAgain => Self::BeginAgain,
            other => Self::Login(other),
        }
    }
}

impl From<sqlx::Error> for OwnError {
    fn from(error: sqlx::Error) -> Self {
        Self::Login(LoginError::Database(error))
    }
}

impl Logins {
    /// Changes the operator's password, and ends their other sessions.
    pub async fn change_password(
        &self,
        own: Own<'_>,
        current: String,
        new: String,
    ) -> Result<(), OwnError> {
        password::check(&new)?;
        self.confirm_password(&own, current).await?;
        let hash = self.hasher.hash(new).await?;
        let (by, kept) = (By::user(own.user_id, own.client), token::hash(own.token));
        set_own_password(&self.pool, own.user_id, &hash, &kept, &by)
            .await
            .map_err(own_error)?;
        Ok(())
    }

    async fn confirm_password(&self, own: &Own<'_>, current: String) -> Result<(), OwnError> {
        if password::check(&current).is_err() {
            return Err(OwnError::WrongPassword);
        }
        let email = user(&self.pool, own.user_id)
            .await
            .map_err(own_error)?
            .email;
        let (_admitted, attempt) = self.attempt(&email, own.client).await?;
        match self.check(&email, current).await {
            Ok(_) => {
                let mut tx = WorkerTx::begin(&self.pool).await?;
                login::succeed(&mut tx, &attempt).await?;
                Ok(tx.commit().await?)
            }
            Err(error @ (LoginError::Busy | LoginError::Database(_))) => {
                self.give_back(&attempt).await;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A new secret for an authenticator, which is not in use until a code of it comes.
    pub async fn propose(&self, user_id: Uuid, email: &str) -> Result<Proposal, sqlx::Error> {
        let proposed = Proposed::new(user_id);
        let key = self.sealing.get().await?;
        let sealed = sealed::seal(key, Proposed::PURPOSE, &proposed, Timestamp::now());
        let shown = proposed.shown(email, sealed);
        Ok(shown.expect("a new secret has its form"))
    }

    /// The same secret again, where a form of it came back; a new one where that is too old.
    pub async fn proposed_again(
        &self,
        user_id: Uuid,
        email: &str,
        proposal: &str,
    ) -> Result<Proposal, sqlx::Error> {
        let key = self.sealing.get().await?;
        let now = Timestamp::now();
        let proposed: Option<Proposed> = sealed::open(key, Proposed::PURPOSE, proposal, now);
        let own = proposed.filter(|proposed| proposed.user_id == user_id);
        match own.and_then(|proposed| proposed.shown(email, proposal.to_owned())) {
            Some(shown) => Ok(shown),
            None => self.propose(user_id, email).await,
        }
    }

    /// The same for who has given the password, and needs a second factor to go on.
    pub async fn propose_to(&self, pending: &str, before: &str) -> Result<Proposal, LoginError> {
        let pending = self.pending(Pending::ENROLMENT, pending).await?;
        let proposed = self.proposed_again(pending.user_id, &pending.email, before);
        Ok(proposed.await?)
    }

    /// The secret that was proposed, if the first code of it is right.
    async fn first_code(
        &self,
        user_id: Uuid,
        proposal: &str,
        code: &str,
        now: Timestamp,
    ) -> Result<(Vec<u8>, i64), OwnError> {
        let key = self.sealing.get().await?;
        let proposed: Option<Proposed> = sealed::open(key, Proposed::PURPOSE, proposal, now);
        let proposed = proposed.filter(|proposed| proposed.user_id == user_id);
        let proposed = proposed.ok_or(OwnError::BeginAgain)?;
        proposed.first_step(code, now).ok_or(OwnError::WrongCode)
    }

    /// Begins to use a second factor, and ends the operator's other sessions. Returns the
    /// recovery codes, which are shown once.
    pub async fn enrol(
        &self,
        own: Own<'_>,
        current: String,
        proposal: &str,
        code: &str,
    ) -> Result<Vec<String>, OwnError> {
        let now = Timestamp::now();
        let (secret, step) = self.first_code(own.user_id, proposal, code, now).await?;
        self.confirm_password(&own, current).await?;
        let mut tx = changing(&self.pool, own.user_id).await?;
        let codes = begin_to_use(&mut tx, own.user_id, &secret, step, own.client).await?;
        let kept = token::hash(own.token);
        store::revoke_sessions_of(tx.conn(), own.user_id, Some(&kept)).await?;
        let by = SignedInBy::SecondFactor;
        store::sessions::signed_in_by(tx.conn(), &kept, by).await?;
        tx.commit().await?;
        Ok(codes)
    }

    /// The same at sign-in, which it completes.
    pub async fn enrol_and_finish(
        &self,
        pending: &str,
        proposal: &str,
        code: &str,
        client: &Client,
    ) -> Result<(Session, Vec<String>), OwnError> {
        let pending = self.pending(Pending::ENROLMENT, pending).await?;
        let (account, role) = self.account_of(&pending).await?;
        let (now, id) = (Timestamp::now(), account.user_id);
        let (secret, step) = self.first_code(id, proposal, code, now).await?;
        let mut tx = changing(&self.pool, id).await?;
        if !store::hold(tx.conn(), &account).await? {
            return Err(OwnError::BeginAgain);
        }
        let codes = begin_to_use(&mut tx, id, &secret, step, client).await?;
        store::revoke_sessions_of(tx.conn(), id, None).await?;
        let way = Way::SECOND_FACTOR;
        let session = sign_in::start_session(&mut tx, &account, role, way, client).await?;
        sign_in::enter_sign_in(&mut tx, &session, id, way, client).await?;
        tx.commit().await?;
        self.forgive(&pending.email, client).await;
        metrics::login("succeeded");
        Ok((session, codes))
    }

    /// Forgets the wrong passwords before a sign-in, once the second factor has come. Not in its
    /// transaction, which holds other counters.
    pub(super) async fn forgive(&self, email: &str, client: &Client) {
        let keys = login::counters_of(&super::users::normalized(email), client);
        let forgiving = async {
            let mut tx = WorkerTx::begin(&self.pool).await?;
            let (mut counters, now) = store::lock_counters(tx.conn(), &keys).await?;
            throttle::forgive(&mut counters, now);
            store::write_counters(tx.conn(), &keys, &counters).await?;
            tx.commit().await
        };
        if let Err::<(), sqlx::Error>(error) = forgiving.await {
            tracing::warn!(%error, "wrong passwords before a sign-in stay counted");
        }
    }

    /// Makes new recovery codes, for a code. Those of before end.
    pub async fn new_recovery_codes(
        &self,
        own: Own<'_>,
        code: &str,
    ) -> Result<Vec<String>, OwnError> {
        let mut tx = self.proven(&own, code).await?;
        let codes = second_factor::renew_codes(&mut tx, own.user_id).await?;
        let made = second_factor::CODES_MADE;
        enter(&mut tx, made, &own, json!({"codes": codes.len()})).await?;
        tx.commit().await?;
        Ok(codes)
    }

    /// Stops using the second factor, for a code.
    pub async fn remove_second_factor(&self, own: Own<'_>, code: &str) -> Result<(), OwnError> {
        if self.policy.second_factor {
            return Err(OwnError::Required);
        }
        let mut tx = self.proven(&own, code).await?;
        second_factors::delete(tx.conn(), own.user_id).await?;
        let removed = second_factor::REMOVED;
        enter(&mut tx, removed, &own, json!({"secondFactor": false})).await?;
        Ok(tx.commit().await?)
    }

    /// A transaction in which a code of the operator's was used.
    async fn proven(&self, own: &Own<'_>, code: &str) -> Result<WorkerTx, OwnError> {
        let name = format!("second factor {}", own.user_id);
        let (_admitted, attempt) = self.attempt(&name, own.client).await?;
        let mut tx = changing(&self.pool, own.user_id).await?;
        let proof = second_factor::prove(&mut tx, own.user_id, code, Timestamp::now()).await?;
        let proof = proof.ok_or(OwnError::WrongCode)?;
        if proof == Proof::RecoveryCode {
            sign_in::enter_recovery_code(&mut tx, own.user_id, own.client).await?;
        }
        login::succeed(&mut tx, &attempt).await?;
        Ok(tx)
    }
}

/// A transaction that changes how an operator signs in: no session of theirs begins meanwhile
/// that does not see it.
async fn changing(pool: &PgPool, user_id: Uuid) -> Result<WorkerTx, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    audit::lock_chains(tx.conn(), &[audit::OPERATORS]).await?;
    store::lock_user(tx.conn(), user_id).await?;
    Ok(tx)
}

async fn begin_to_use(
    tx: &mut WorkerTx,
    user_id: Uuid,
    secret: &[u8],
    step: i64,
    client: &Client,
) -> Result<Vec<String>, OwnError> {
    if !second_factors::insert(tx.conn(), user_id, secret, step).await? {
        return Err(OwnError::AlreadyThere);
    }
    let codes = second_factor::renew_codes(tx, user_id).await?;
    let by = By::user(user_id, client);
    let after = json!({"secondFactor": true, "recoveryCodes": codes.len()});
    let entry = second_factor::entry(&by, second_factor::ENROLLED, user_id, after);
    audit::record_one(tx, entry).await?;
    Ok(codes)
}

async fn enter(
    tx: &mut WorkerTx,
    action: &'static str,
    own: &Own<'_>,
    after: serde_json::Value,
) -> Result<(), sqlx::Error> {
    let by = By::user(own.user_id, own.client);
    let entry = second_factor::entry(&by, action, own.user_id, after);
    audit::record_one(tx, entry).await
}

fn own_error(error: UserError) -> OwnError {
    match error {
        UserError::Database(error) => error.into(),
        UserError::Password(error) => error.into(),
        _ => OwnError::BeginAgain,
    }
}
