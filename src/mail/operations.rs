//! What operators do with mails: list them, try them again, see how they are doing.

use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::content::NO_ADDRESS;
use super::store::operators::{self as store, Filter, Mail};
use crate::audit::{self, Actor, NewEntry, OPERATORS};
use crate::db::WorkerTx;

pub use super::store::operators::State;

pub const RETRIED: &str = "mails_retried";

/// Mails, newest first.
pub async fn list(pool: &PgPool, filter: &Filter, limit: i64) -> Result<Vec<Mail>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::list(tx.conn(), filter, limit).await
}

/// Has mails tried again that were given up, or that wait. Returns those of `ids` that are.
pub async fn retry(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let locked = audit::lock_chains(tx.conn(), &[OPERATORS]).await?;
    let retried = store::retry(tx.conn(), ids).await?;
    if let Some(first) = retried.first() {
        let entry = NewEntry {
            organization_id: OPERATORS,
            action: RETRIED,
            actor: Actor::System,
            resource_type: "mail",
            resource_id: first.to_string(),
            before: None,
            after: Some(json!({"mails": retried})),
            metadata: json!({}),
            client: None,
            reason: None,
        };
        audit::record(&mut tx, &locked, &[entry]).await?;
    }
    tx.commit().await?;
    Ok(retried)
}

/// How mails are doing.
pub async fn state(pool: &PgPool) -> Result<State, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::state(tx.conn(), NO_ADDRESS).await
}
