//! SQL for sessions of the customer pages. It runs as billing_worker.

use std::collections::HashMap;

use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Hash;
use crate::tenancy::auth::Role;
use crate::tenancy::auth::portal_sessions::NewSession;

/// A session of the customer pages.
#[derive(Debug, Clone)]
pub struct PortalRow {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub role: Role,
    /// The key that asked for it.
    pub service_key_id: Uuid,
    pub return_url: Option<String>,
    /// Whether the organization is archived.
    pub archived: bool,
}

pub async fn insert(
    conn: &mut PgConnection,
    new: &NewSession,
    code: &Hash,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO portal_sessions (organization_id, id, role, service_key_id, return_url,
                                      code_hash, code_expires_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        new.organization_id,
        new.id,
        new.role.as_str(),
        new.service_key_id,
        new.return_url,
        code,
        new.code_expires_at.to_sqlx() as _,
        new.expires_at.to_sqlx() as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The valid sessions among those with these hashes. A session ends with the key that asked
/// for it.
pub async fn sessions(
    conn: &mut PgConnection,
    tokens: &[Hash],
) -> Result<Vec<(Hash, PortalRow)>, sqlx::Error> {
    let tokens: Vec<&[u8]> = tokens.iter().map(|hash| hash.as_slice()).collect();
    let rows = sqlx::query!(
        r#"SELECT s.token_hash AS "token_hash!", s.organization_id, s.id, s.role,
                  s.service_key_id, s.return_url, o.archived_at IS NOT NULL AS "archived!"
             FROM portal_sessions s
             JOIN organizations o ON o.id = s.organization_id AND o.erased_at IS NULL
             JOIN service_api_keys k ON k.id = s.service_key_id AND k.revoked_at IS NULL
              AND (k.expires_at IS NULL OR k.expires_at > now())
            WHERE s.token_hash = ANY($1) AND s.ended_at IS NULL AND s.expires_at > now()"#,
        &tokens as &[&[u8]]
    )
    .fetch_all(conn)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let session = PortalRow {
            organization_id: row.organization_id,
            id: row.id,
            role: Role::named(&row.role)?,
            service_key_id: row.service_key_id,
            return_url: row.return_url,
            archived: row.archived,
        };
        Some((Hash::try_from(row.token_hash.as_slice()).ok()?, session))
    });
    Ok(found.collect())
}

/// What has become of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeState {
    Waits,
    Used,
    Expired,
}

/// A code that was used now, and what it stands for.
pub struct Opened {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub role: String,
    pub service_key_id: Uuid,
}

/// Uses a code, which becomes the session of `token`. `None` if it cannot be used.
pub async fn open(
    conn: &mut PgConnection,
    code: &Hash,
    token: &Hash,
) -> Result<Option<Opened>, sqlx::Error> {
    sqlx::query_as!(
        Opened,
        "UPDATE portal_sessions s SET token_hash = $2, opened_at = now()
           FROM service_api_keys k, organizations o
          WHERE s.code_hash = $1 AND s.opened_at IS NULL AND s.ended_at IS NULL
            AND s.code_expires_at > now() AND s.expires_at > now()
            AND k.id = s.service_key_id AND k.revoked_at IS NULL
            AND o.id = s.organization_id AND o.erased_at IS NULL
         RETURNING s.organization_id, s.id, s.role, s.service_key_id",
        code,
        token
    )
    .fetch_optional(conn)
    .await
}

/// What has become of codes that were given out.
pub async fn codes(
    conn: &mut PgConnection,
    codes: &[Hash],
) -> Result<HashMap<Hash, CodeState>, sqlx::Error> {
    let codes: Vec<&[u8]> = codes.iter().map(|hash| hash.as_slice()).collect();
    let rows = sqlx::query!(
        r#"SELECT code_hash AS "code_hash!", opened_at IS NOT NULL AS "used!",
                  ended_at IS NULL AND code_expires_at > now() AND expires_at > now() AS "waits!"
             FROM portal_sessions WHERE code_hash = ANY($1)"#,
        &codes as &[&[u8]]
    )
    .fetch_all(conn)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let state = match (row.used, row.waits) {
            (true, _) => CodeState::Used,
            (false, true) => CodeState::Waits,
            (false, false) => CodeState::Expired,
        };
        Some((Hash::try_from(row.code_hash.as_slice()).ok()?, state))
    });
    Ok(found.collect())
}

/// Ends a session; false if it has ended.
pub async fn end(conn: &mut PgConnection, token: &Hash) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query!(
        "UPDATE portal_sessions SET ended_at = now() WHERE token_hash = $1 AND ended_at IS NULL",
        token
    )
    .execute(conn)
    .await?;
    Ok(ended.rows_affected() > 0)
}
