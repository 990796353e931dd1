//! Endpoints that nobody keeps by hand: that of the settings, and those that listen while a
//! command runs.

use std::time::Duration;

use reqwest::Url;
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::address;
use super::endpoints::{
    By, CREATED, EndpointError, OF_CONFIGURATION, REMOVED, clear, clear_batch, entry, found, remove,
};
use super::store::endpoints::{self as store, NewRow};
use crate::audit::{self, OPERATORS};
use crate::db::WorkerTx;

/// Enters the endpoint of the settings, or removes it where they name none.
pub async fn follow_settings(pool: &PgPool, url: Option<&Url>) -> Result<(), EndpointError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let known = store::list(tx.conn(), Some(&[OF_CONFIGURATION]))
        .await?
        .pop();
    let url = url.map(Url::as_str);
    if known.as_ref().map(|row| row.url.as_str()) == url {
        return Ok(());
    }
    let locked = audit::lock_chains(tx.conn(), &[OPERATORS]).await?;
    let known = match url {
        Some(_) => store::lock(tx.conn(), OF_CONFIGURATION).await?,
        None => store::lock_to_remove(tx.conn(), OF_CONFIGURATION).await?,
    };
    let entry = match (known, url) {
        (None, None) => return Ok(()),
        (Some(row), None) => {
            store::remove(tx.conn(), row.id).await?;
            entry(
                REMOVED,
                &row,
                Some(json!({"url": address::shown(&row.url)})),
                None,
                &By::SYSTEM,
            )
        }
        (known, Some(url)) => {
            let row = NewRow {
                id: OF_CONFIGURATION,
                organization_id: None,
                source: "configuration",
                url,
                description: Some("APPLICATION_WEBHOOK_URL"),
                types: &[],
                secret: None,
                lease_secs: None,
            };
            if known.is_some() || !store::insert(tx.conn(), &row).await? {
                store::set_url(tx.conn(), row.id, url).await?;
            }
            let row = found(tx.conn(), row.id).await?;
            let before = known.map(|known| json!({"url": address::shown(&known.url)}));
            entry(
                CREATED,
                &row,
                before,
                Some(json!({"url": address::shown(url)})),
                &By::SYSTEM,
            )
        }
    };
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    if url.is_none() {
        clear(pool, OF_CONFIGURATION).await?;
    }
    Ok(())
}

/// The number of endpoints that one sweep clears a batch of.
const CLEARED: i64 = 4;

/// Clears a part of what a crash left of removed endpoints. Returns whether it found any, so
/// that the caller does not scan all lanes for nothing.
pub async fn clear_some(pool: &PgPool) -> Result<bool, EndpointError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let uncleared = store::uncleared(tx.conn(), CLEARED).await?;
    tx.commit().await?;
    for id in &uncleared {
        clear_batch(pool, *id).await?;
    }
    Ok(!uncleared.is_empty())
}

/// Removes the endpoints that listen no more.
pub async fn sweep(pool: &PgPool) -> Result<(), EndpointError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let expired = store::expired(tx.conn()).await?;
    tx.commit().await?;
    for id in expired {
        match remove(pool, id, &By::SYSTEM).await {
            Ok(_) | Err(EndpointError::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Holds on to an endpoint that listens. Returns false if it is gone.
pub async fn renew(pool: &PgPool, id: Uuid, lease: Duration) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let renewed = store::renew(tx.conn(), id, lease.as_secs_f64()).await?;
    tx.commit().await?;
    Ok(renewed)
}
