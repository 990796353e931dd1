//! SQL for sessions. It runs as billing_worker outside of any organization.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Hash, operator};
use crate::audit::Client;
use crate::tenancy::auth::Role;
use crate::tenancy::auth::sessions::{OpenSession, Position, SignedInBy, id_of};

/// A valid session.
#[derive(Debug, Clone)]
pub struct SessionRow {
    pub user_id: Uuid,
    pub organization_id: Option<Uuid>,
    /// Which kind of operator it is, if it is one.
    pub operator: Option<Role>,
    /// The current role in the organization.
    pub role: Option<String>,
    /// Whether the organization is archived.
    pub archived: bool,
    /// Whether `last_used_at` is out of date.
    pub stale: bool,
    pub signed_in_by: SignedInBy,
    /// The identity provider, of a session that says so.
    pub issuer: Option<String>,
}

/// A session unused for this long has ended.
pub(super) const IDLE_SECS: f64 = 7_200.0;

/// The valid sessions among those with these hashes.
pub async fn find(
    conn: &mut PgConnection,
    tokens: &[Hash],
) -> Result<Vec<(Hash, SessionRow)>, sqlx::Error> {
    let tokens: Vec<&[u8]> = tokens.iter().map(|hash| hash.as_slice()).collect();
    let rows = sqlx::query!(
        r#"SELECT s.token_hash, s.user_id, s.for_organization_id AS organization_id, u.operator,
                  u.operator_reads,
                  m.role AS "role?", o.archived_at IS NOT NULL AS "archived!",
                  s.last_used_at < now() - interval '1 minute' AS "stale!", s.signed_in_by,
                  s.issuer
             FROM user_sessions s
             JOIN users u ON u.id = s.user_id AND u.disabled_at IS NULL
             LEFT JOIN organization_members m
               ON m.organization_id = s.for_organization_id AND m.user_id = s.user_id
             LEFT JOIN organizations o ON o.id = s.for_organization_id
            WHERE s.token_hash = ANY($1) AND s.revoked_at IS NULL AND s.expires_at > now()
              AND s.last_used_at > now() - make_interval(secs => $2)"#,
        &tokens as &[&[u8]],
        IDLE_SECS
    )
    .fetch_all(conn)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let session = SessionRow {
            user_id: row.user_id,
            organization_id: row.organization_id,
            operator: operator(row.operator, row.operator_reads),
            role: row.role,
            archived: row.archived,
            stale: row.stale,
            signed_in_by: SignedInBy::named(row.signed_in_by.as_deref()),
            issuer: row.issuer,
        };
        Some((Hash::try_from(row.token_hash.as_slice()).ok()?, session))
    });
    Ok(found.collect())
}

/// Records that these sessions are used, except those that another statement
/// is changing.
pub async fn touch(conn: &mut PgConnection, tokens: &[Hash]) -> Result<(), sqlx::Error> {
    if tokens.is_empty() {
        return Ok(());
    }
    let tokens: Vec<&[u8]> = tokens.iter().map(|hash| hash.as_slice()).collect();
    sqlx::query!(
        "WITH due AS (
           SELECT s.token_hash FROM user_sessions s
            WHERE s.token_hash = ANY($1) AND s.last_used_at < now() - interval '1 minute'
              FOR NO KEY UPDATE OF s SKIP LOCKED
         )
         UPDATE user_sessions s SET last_used_at = now()
           FROM due WHERE s.token_hash = due.token_hash",
        &tokens as &[&[u8]]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A session that begins.
pub struct NewSession<'a> {
    pub token: &'a Hash,
    pub user_id: Uuid,
    pub organization_id: Option<Uuid>,
    pub expires_at: Timestamp,
    pub signed_in_by: SignedInBy,
    pub issuer: Option<&'a str>,
    pub client: &'a Client,
}

pub async fn insert(conn: &mut PgConnection, new: NewSession<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH old AS (
           SELECT token_hash FROM user_sessions WHERE expires_at < now() - interval '1 day'
            LIMIT 100 FOR UPDATE SKIP LOCKED
         ), gone AS (
           DELETE FROM user_sessions s USING old WHERE s.token_hash = old.token_hash
         )
         INSERT INTO user_sessions
           (token_hash, user_id, for_organization_id, expires_at, signed_in_by, ip_address,
            user_agent, issuer)
         VALUES ($1, $2, $3, $4, $5, ($6::text)::inet, $7, $8)",
        new.token,
        new.user_id,
        new.organization_id,
        new.expires_at.to_sqlx() as _,
        new.signed_in_by.as_str(),
        new.client.ip.map(|ip| ip.to_string()),
        new.client.user_agent,
        new.issuer
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A user's sessions that have not ended, the newest first, from behind a position on.
pub async fn open(
    conn: &mut PgConnection,
    user_id: Uuid,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<OpenSession>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT token_hash, created_at, last_used_at, expires_at, signed_in_by, issuer,
                  host(ip_address) AS ip_address, user_agent
             FROM user_sessions
            WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
              AND last_used_at > now() - make_interval(secs => $2)
              AND ($3::timestamptz IS NULL
                   OR (created_at, left(encode(token_hash, 'hex'), 16)) < ($3, $4))
            ORDER BY created_at DESC, left(encode(token_hash, 'hex'), 16) DESC LIMIT $5"#,
        user_id,
        IDLE_SECS,
        after.map(|after| after.0.to_sqlx()) as _,
        after.map(|after| after.1.as_str()),
        limit
    )
    .fetch_all(conn)
    .await?;
    let open = rows.into_iter().filter_map(|row| {
        let hash = Hash::try_from(row.token_hash.as_slice()).ok()?;
        Some(OpenSession {
            id: id_of(&hash),
            order: hex::encode(&hash[..8]),
            signed_in_by: SignedInBy::named(row.signed_in_by.as_deref()).as_str(),
            issuer: row.issuer,
            ip_address: row.ip_address,
            user_agent: row.user_agent,
            created_at: row.created_at.to_jiff(),
            last_used_at: row.last_used_at.to_jiff(),
            expires_at: row.expires_at.to_jiff(),
        })
    });
    Ok(open.collect())
}

/// How many sessions of a user have not ended.
pub async fn count_open(conn: &mut PgConnection, user_id: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM user_sessions
            WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
              AND last_used_at > now() - make_interval(secs => $2)"#,
        user_id,
        IDLE_SECS
    )
    .fetch_one(conn)
    .await
}

/// The hashes of a user's sessions that have not ended.
pub async fn open_hashes(conn: &mut PgConnection, user_id: Uuid) -> Result<Vec<Hash>, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        "SELECT token_hash FROM user_sessions
          WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
            AND last_used_at > now() - make_interval(secs => $2)",
        user_id,
        IDLE_SECS
    )
    .fetch_all(conn)
    .await?;
    let hashes = rows
        .iter()
        .filter_map(|hash| Hash::try_from(hash.as_slice()).ok());
    Ok(hashes.collect())
}

/// Ends a session; false if there is none or it has ended.
pub async fn revoke_session(conn: &mut PgConnection, token: &Hash) -> Result<bool, sqlx::Error> {
    let revoked = sqlx::query_scalar!(
        "UPDATE user_sessions SET revoked_at = now()
          WHERE token_hash = $1 AND revoked_at IS NULL RETURNING user_id",
        token
    )
    .fetch_optional(conn)
    .await?;
    Ok(revoked.is_some())
}

/// Ends a user's sessions, but for the one that is kept. Returns how many.
pub async fn revoke_sessions_of(
    conn: &mut PgConnection,
    user_id: Uuid,
    kept: Option<&Hash>,
) -> Result<u64, sqlx::Error> {
    let revoked = sqlx::query!(
        "UPDATE user_sessions SET revoked_at = now()
          WHERE user_id = $1 AND revoked_at IS NULL AND token_hash IS DISTINCT FROM $2",
        user_id,
        kept.map(<[u8; 32]>::as_slice)
    )
    .execute(conn)
    .await?;
    Ok(revoked.rows_affected())
}

/// Says how a session was begun, once more was asked for in it.
pub async fn signed_in_by(
    conn: &mut PgConnection,
    token: &Hash,
    by: SignedInBy,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE user_sessions SET signed_in_by = $2 WHERE token_hash = $1",
        token,
        by.as_str()
    )
    .execute(conn)
    .await?;
    Ok(())
}
