//! The operators themselves: who they are, and how they sign in.

use std::collections::HashMap;

use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::lists::Part;
use super::{Operator, store};
use crate::audit;
use crate::db::WorkerTx;

/// The audit actions of looks at operators.
pub const LISTED: &str = "operators_listed";
pub const SHOWN: &str = "operator_shown";

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
pub async fn list_operators(pool: &PgPool, part: Part) -> Result<Vec<OperatorUser>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let operators = store::operators::list(tx.conn(), None, part).await?;
    tx.commit().await?;
    Ok(operators)
}

/// One of them.
pub async fn find_operator(pool: &PgPool, id: Uuid) -> Result<Option<OperatorUser>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let found = store::operators::list(tx.conn(), Some(id), Part::default()).await?;
    tx.commit().await?;
    Ok(found.into_iter().next())
}

/// The addresses of users.
pub async fn addresses_of(
    pool: &PgPool,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, String>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let addresses = store::operators::addresses(tx.conn(), ids).await?;
    tx.commit().await?;
    Ok(addresses)
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
