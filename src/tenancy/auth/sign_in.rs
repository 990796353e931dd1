//! Sessions begin and end: what is written of them, and what of it is in the audit log.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::second_factor;
use super::sessions::{self, SignedInBy, Way};
use super::store::{self, Account, NewSession};
use super::token::{self, Credential};
use super::{By, Role};
use crate::audit::{self, Client};
use crate::db::WorkerTx;

/// The lifetime of a token, used or not.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// The same where the identity provider has the last word on who is an operator.
const LIFETIME_BY_PROVIDER: SignedDuration = SignedDuration::from_hours(8);
/// The audit actions of operators who sign in and out.
pub const SIGNED_IN: &str = "operator_signed_in";
pub const SIGNED_OUT: &str = "operator_signed_out";

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

/// The session of an account.
pub(super) async fn start_session(
    tx: &mut WorkerTx,
    account: &Account,
    role: Role,
    way: Way<'_>,
    client: &Client,
) -> Result<Session, sqlx::Error> {
    let organization_id = account.organization_id.filter(|_| !role.is_operator());
    let token = token::new_session();
    let expires_at = Timestamp::now()
        + match way.by {
            SignedInBy::Oidc => LIFETIME_BY_PROVIDER,
            SignedInBy::Password | SignedInBy::SecondFactor => LIFETIME,
        };
    let new = NewSession {
        token: &token::hash(&token),
        user_id: account.user_id,
        organization_id,
        expires_at,
        signed_in_by: way.by,
        issuer: way.issuer,
        client,
    };
    store::sessions::insert(tx.conn(), new).await?;
    Ok(Session {
        token,
        expires_at,
        organization_id,
        role,
    })
}

/// Enters that an operator signed in. Of others nothing is entered.
pub(super) async fn enter_sign_in(
    tx: &mut WorkerTx,
    session: &Session,
    user_id: Uuid,
    way: Way<'_>,
    client: &Client,
) -> Result<(), sqlx::Error> {
    if !session.role.is_operator() {
        return Ok(());
    }
    let mut after = json!({
        "session": sessions::id_of_token(&session.token),
        "by": way.by.as_str(),
        "role": session.role.as_str(),
    });
    if let Some(issuer) = way.issuer {
        after["issuer"] = issuer.into();
    }
    let by = By::user(user_id, client);
    let entry = second_factor::entry(&by, SIGNED_IN, user_id, after);
    audit::record_one(tx, entry).await
}

pub(super) async fn enter_recovery_code(
    tx: &mut WorkerTx,
    user_id: Uuid,
    client: &Client,
) -> Result<(), sqlx::Error> {
    let left = store::second_factors::state(tx.conn(), user_id).await?;
    let after = json!({"left": left.map(|(_, left)| left)});
    let by = By::user(user_id, client);
    let entry = second_factor::entry(&by, second_factor::CODE_USED, user_id, after);
    audit::record_one(tx, entry).await
}

/// Ends the session of a token, on every replica.
pub async fn log_out(pool: &PgPool, token: &str, client: &Client) -> Result<(), sqlx::Error> {
    if let Some(Credential::Session(hash)) = token::parse(token) {
        let mut tx = WorkerTx::begin(pool).await?;
        let of = store::sessions::find(tx.conn(), &[hash]).await?;
        let of = of.into_iter().next().map(|(_, session)| session);
        let operator = of.filter(|session| session.operator.is_some());
        if operator.is_some() {
            // Before the session, as everywhere.
            audit::lock_chains(tx.conn(), &[audit::OPERATORS]).await?;
        }
        if store::revoke_session(tx.conn(), &hash).await?
            && let Some(session) = operator
        {
            let by = By::user(session.user_id, client);
            let after = json!({"session": sessions::id_of(&hash)});
            let entry = second_factor::entry(&by, SIGNED_OUT, session.user_id, after);
            audit::record_one(&mut tx, entry).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}
