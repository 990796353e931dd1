//! Operators' second factor: a code of an authenticator beside the password, and recovery codes
//! for who has lost it. Who signs in by the identity provider has theirs there.

pub mod recovery;
pub mod sealed;
pub mod totp;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::store::{self, second_factors};
use super::token::Hash;
use super::users::{Which, find};
use super::{By, User, UserError};
use crate::audit::{self, NewEntry};
use crate::db::WorkerTx;

/// The audit actions about second factors.
pub const ENROLLED: &str = "second_factor_enrolled";
pub const REMOVED: &str = "second_factor_removed";
pub const RESET: &str = "second_factor_reset";
pub const CODES_MADE: &str = "recovery_codes_made";
pub const CODE_USED: &str = "recovery_code_used";

/// A user's second factor, as the user sees it.
#[derive(Debug, Clone, Copy)]
pub struct SecondFactor {
    pub since: Timestamp,
    pub recovery_codes: i64,
}

/// A secret that is shown, and not yet in use.
pub struct Proposal {
    /// As one types it.
    pub secret: String,
    /// What a picture of it says.
    pub uri: String,
    /// What its form sends along.
    pub sealed: String,
}

/// What a proposal's form has sealed.
#[derive(Serialize, Deserialize)]
pub(super) struct Proposed {
    pub user_id: Uuid,
    pub secret: String,
}

impl Proposed {
    pub const PURPOSE: &str = "second factor";

    pub fn new(user_id: Uuid) -> Self {
        let secret = hex::encode(rand::random::<[u8; totp::SECRET_BYTES]>());
        Self { user_id, secret }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        let bytes = hex::decode(&self.secret).ok()?;
        (bytes.len() == totp::SECRET_BYTES).then_some(bytes)
    }

    /// The step of the first code, if it is right.
    pub fn first_step(&self, code: &str, now: Timestamp) -> Option<(Vec<u8>, i64)> {
        let secret = self.bytes()?;
        let step = totp::step_of(&secret, &typed(code), 0, now)?;
        Some((secret, step))
    }

    pub fn shown(&self, email: &str, sealed: String) -> Option<Proposal> {
        let secret = self.bytes()?;
        Some(Proposal {
            secret: totp::base32(&secret),
            uri: totp::uri(&secret, email),
            sealed,
        })
    }
}

/// A one-time code without the spaces that authenticators show.
fn typed(code: &str) -> String {
    code.chars().filter(|c| !c.is_whitespace()).collect()
}

/// What proved the second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Code,
    RecoveryCode,
}

/// Uses a code up; none if it is wrong or was used.
pub(super) async fn prove(
    tx: &mut WorkerTx,
    user_id: Uuid,
    code: &str,
    now: Timestamp,
) -> Result<Option<Proof>, sqlx::Error> {
    let Some(factor) = second_factors::lock(tx.conn(), user_id).await? else {
        return Ok(None);
    };
    if let Some(step) = totp::step_of(&factor.secret, &typed(code), factor.last_step, now) {
        second_factors::use_step(tx.conn(), user_id, step).await?;
        return Ok(Some(Proof::Code));
    }
    let Some(hash) = recovery::hash(user_id, code) else {
        return Ok(None);
    };
    let used = second_factors::use_recovery_code(tx.conn(), user_id, &hash).await?;
    Ok(used.then_some(Proof::RecoveryCode))
}

/// Puts new recovery codes in the place of those that there were. They are shown once.
pub(super) async fn renew_codes(
    tx: &mut WorkerTx,
    user_id: Uuid,
) -> Result<Vec<String>, sqlx::Error> {
    let codes: Vec<String> = (0..recovery::CODES).map(|_| recovery::new()).collect();
    let hashes = codes
        .iter()
        .filter_map(|code| recovery::hash(user_id, code));
    let hashes: Vec<Hash> = hashes.collect();
    second_factors::replace_recovery_codes(tx.conn(), user_id, &hashes).await?;
    Ok(codes)
}

/// A user's second factor, if they have one.
pub async fn second_factor(
    pool: &PgPool,
    user_id: Uuid,
) -> Result<Option<SecondFactor>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let found = second_factors::state(tx.conn(), user_id).await?;
    tx.commit().await?;
    Ok(found.map(|(since, recovery_codes)| SecondFactor {
        since,
        recovery_codes,
    }))
}

/// Removes the second factor of a user who has lost it, and ends their sessions. False if there
/// is none.
pub async fn reset_second_factor(
    pool: &PgPool,
    which: Which<'_>,
    by: &By,
) -> Result<(User, bool), UserError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let user = find(&mut tx, which).await?;
    let chains = audit::lock_chains(tx.conn(), &[audit::OPERATORS]).await?;
    store::lock_user(tx.conn(), user.id).await?;
    if !second_factors::delete(tx.conn(), user.id).await? {
        return Ok((user, false));
    }
    store::revoke_sessions_of(tx.conn(), user.id, None).await?;
    let after = json!({"secondFactor": false});
    audit::record(&mut tx, &chains, &[entry(by, RESET, user.id, after)]).await?;
    tx.commit().await?;
    Ok((user, true))
}

/// An entry of the operators' chain.
pub(super) fn entry(
    by: &By,
    action: &'static str,
    user_id: Uuid,
    after: serde_json::Value,
) -> NewEntry {
    by.entry(audit::OPERATORS, action, ("user", user_id), None, after)
}
