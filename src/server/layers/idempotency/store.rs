//! The kept answers' SQL.

use axum::http::StatusCode;
use sqlx::postgres::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use super::Key;
use crate::db::TenantTx;
use crate::server::caller::Caller;

/// The right to answer a key's request, until it ends or another has it.
#[derive(Clone)]
pub struct Lease {
    organization_id: Uuid,
    /// As the key is stored: behind the caller's id where that belongs to no organization.
    stored_key: String,
    id: Uuid,
    /// Whose share the answer is kept in.
    pub share_of: Uuid,
}

impl Lease {
    pub fn new(caller: &Caller, key: &Key) -> Self {
        let stored_key = match caller.id {
            Some(id) if caller.organization_id.is_nil() => format!("{id} {}", key.as_str()),
            _ => key.as_str().to_owned(),
        };
        Self {
            organization_id: caller.organization_id,
            stored_key,
            id: Uuid::now_v7(),
            share_of: caller.share_of(),
        }
    }
}

/// An answer as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(String, String)>,
    /// None: it was too large.
    pub body: Option<Vec<u8>>,
}

impl Answer {
    /// Bytes of its headers and body.
    pub fn length(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len());
        headers.sum::<usize>() + self.body.as_ref().map_or(0, Vec::len)
    }
}

/// What came of claiming a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    Mine {
        is_new: bool,
    },
    Answered(Answer),
    InFlight,
    OtherRequest,
    /// The key is new, and there is no room for one.
    NoRoom,
}

/// Claims a key for the request of this fingerprint: a known one, or a new one if it
/// `may_be_new`.
pub async fn claim(
    pool: &PgPool,
    lease: &Lease,
    fingerprint: &[u8; 32],
    lease_secs: u32,
    may_be_new: bool,
) -> Result<Claim, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, lease.organization_id).await?;
    let claim = loop {
        if may_be_new && insert(&mut tx, lease, fingerprint, lease_secs).await? {
            break Claim::Mine { is_new: true };
        }
        // Purged in between: then it is nobody's.
        if let Some(claim) = claim_existing(&mut tx, lease, fingerprint, lease_secs).await? {
            break claim;
        }
        if !may_be_new {
            break Claim::NoRoom;
        }
    };
    tx.commit().await?;
    Ok(claim)
}

async fn insert(
    tx: &mut TenantTx,
    lease: &Lease,
    fingerprint: &[u8; 32],
    lease_secs: u32,
) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query_scalar!(
        "INSERT INTO request_idempotency (
           organization_id, idempotency_key, fingerprint, lease_id, lease_expires_at, expires_at)
         VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), now() + interval '24 hours')
         ON CONFLICT DO NOTHING RETURNING lease_id",
        lease.organization_id,
        lease.stored_key,
        &fingerprint[..],
        lease.id,
        f64::from(lease_secs)
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(inserted.is_some())
}

async fn claim_existing(
    tx: &mut TenantTx,
    lease: &Lease,
    fingerprint: &[u8; 32],
    lease_secs: u32,
) -> Result<Option<Claim>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT fingerprint, status, headers AS "headers: Json<Vec<(String, String)>>", body,
                  expires_at <= now() AS "expired!", lease_expires_at > now() AS "leased!"
             FROM request_idempotency
            WHERE organization_id = $1 AND idempotency_key = $2 FOR UPDATE"#,
        lease.organization_id,
        lease.stored_key
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    if !row.expired {
        if row.fingerprint != fingerprint {
            return Ok(Some(Claim::OtherRequest));
        }
        if let (Some(status), Some(Json(headers))) = (row.status, row.headers) {
            return Ok(Some(Claim::Answered(Answer {
                status: read_status(status)?,
                headers,
                body: row.body,
            })));
        }
        if row.leased {
            return Ok(Some(Claim::InFlight));
        }
    }
    sqlx::query!(
        "UPDATE request_idempotency
            SET fingerprint = $3, lease_id = $4, lease_expires_at = now() + make_interval(secs => $5),
                status = NULL, headers = NULL, body = NULL, expires_at = now() + interval '24 hours'
          WHERE organization_id = $1 AND idempotency_key = $2",
        lease.organization_id,
        lease.stored_key,
        &fingerprint[..],
        lease.id,
        f64::from(lease_secs)
    )
    .execute(tx.conn())
    .await?;
    Ok(Some(Claim::Mine { is_new: false }))
}

fn read_status(status: i16) -> Result<StatusCode, sqlx::Error> {
    let read = u16::try_from(status).ok().map(StatusCode::from_u16);
    read.and_then(Result::ok).ok_or_else(|| {
        sqlx::Error::Decode(format!("request_idempotency.status: {status} is no status").into())
    })
}

/// Holds the lease for longer; false: it is another's by now.
pub async fn renew(pool: &PgPool, lease: &Lease, lease_secs: u32) -> Result<bool, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, lease.organization_id).await?;
    let renewed = sqlx::query_scalar!(
        "UPDATE request_idempotency SET lease_expires_at = now() + make_interval(secs => $4)
          WHERE organization_id = $1 AND idempotency_key = $2 AND lease_id = $3
         RETURNING lease_id",
        lease.organization_id,
        lease.stored_key,
        lease.id,
        f64::from(lease_secs)
    )
    .fetch_optional(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(renewed.is_some())
}

/// Keeps the answer, unless the lease is another's by now.
pub async fn finish(pool: &PgPool, lease: &Lease, answer: &Answer) -> Result<(), sqlx::Error> {
    let mut tx = TenantTx::begin(pool, lease.organization_id).await?;
    sqlx::query!(
        "UPDATE request_idempotency SET status = $4, headers = $5, body = $6
          WHERE organization_id = $1 AND idempotency_key = $2 AND lease_id = $3",
        lease.organization_id,
        lease.stored_key,
        lease.id,
        i16::try_from(answer.status.as_u16()).map_err(|error| sqlx::Error::Encode(error.into()))?,
        Json(&answer.headers) as _,
        answer.body.as_deref()
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}

/// Gives the key back: the same request may use it at once.
pub async fn release(pool: &PgPool, lease: &Lease) -> Result<(), sqlx::Error> {
    let mut tx = TenantTx::begin(pool, lease.organization_id).await?;
    sqlx::query!(
        "UPDATE request_idempotency SET lease_expires_at = now()
          WHERE organization_id = $1 AND idempotency_key = $2 AND lease_id = $3",
        lease.organization_id,
        lease.stored_key,
        lease.id
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}
