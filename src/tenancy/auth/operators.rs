//! The operators themselves: who they are, and how they sign in.

use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::{Operator, store};
use crate::audit;
use crate::db::WorkerTx;

/// The audit actions of looks at operators.
pub const LISTED: &str = "operators_listed";
pub const SHOWN: &str = "operator_shown";

/// How many are shown at most.
const MOST: i64 = 500;

/// An operator as shown to the others.
#[derive(Debug, Clone)]
pub struct OperatorUser {
    pub id: Uuid,
    pub email: String,
    /// `operator` or `operator.read`
    pub role: String,
    pub created_at: Timestamp,
    pub disabled_at: Option<Timestamp>,
    /// Whether there is a password.
    pub password: bool,
    pub second_factor: bool,
    /// Sessions that have not ended.
    pub sessions: i64,
    pub last_seen_at: Option<Timestamp>,
}

/// Operators, oldest first, with a word of each one's sessions.
pub async fn list_operators(pool: &PgPool) -> Result<Vec<OperatorUser>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let operators = store::operators::list(tx.conn(), MOST).await?;
    tx.commit().await?;
    Ok(operators)
}

/// Whether a user has a password, which those of the identity provider have not.
pub async fn has_password(pool: &PgPool, user_id: Uuid) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let has = store::operators::has_password(tx.conn(), user_id).await?;
    tx.commit().await?;
    Ok(has)
}

/// Enters that an operator looked at something of the operators'.
pub async fn operator_looked(
    pool: &PgPool,
    operator: &Operator,
    (action, kind): (&'static str, &'static str),
    id: String,
) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let entry = operator.did(action, None, kind, id);
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await
}
