//! SQL for operators' keys. It runs as billing_worker outside of any organization.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Hash, operator};
use crate::tenancy::auth::lists::Part;
use crate::tenancy::auth::{DoubtfulKey, OperatorKey, Role};

/// A valid operators' key.
#[derive(Debug, Clone)]
pub struct OperatorKeyRow {
    pub id: Uuid,
    pub role: Role,
    /// Whether `last_used_at` is out of date.
    pub stale: bool,
}

/// The role of a key, by its column.
fn role(reads_only: bool) -> Role {
    operator(!reads_only, reads_only).unwrap_or(Role::OperatorRead)
}

/// The valid keys among those with these hashes.
pub async fn of_hashes(
    conn: &mut PgConnection,
    keys: &[Hash],
) -> Result<Vec<(Hash, OperatorKeyRow)>, sqlx::Error> {
    let hashes: Vec<&[u8]> = keys.iter().map(|hash| hash.as_slice()).collect();
    let rows = sqlx::query!(
        r#"SELECT key_hash, id, reads_only,
                  coalesce(last_used_at < now() - interval '1 minute', true) AS "stale!"
             FROM operator_api_keys
            WHERE key_hash = ANY($1) AND revoked_at IS NULL
              AND (expires_at IS NULL OR expires_at > now())"#,
        &hashes as &[&[u8]]
    )
    .fetch_all(conn)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let key = OperatorKeyRow {
            id: row.id,
            role: role(row.reads_only),
            stale: row.stale,
        };
        Some((Hash::try_from(row.key_hash.as_slice()).ok()?, key))
    });
    Ok(found.collect())
}

/// Records that these keys are used, except those that another statement is changing.
pub async fn touch(conn: &mut PgConnection, keys: &[Uuid]) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "WITH due AS (
           SELECT k.id FROM operator_api_keys k
            WHERE k.id = ANY($1) AND coalesce(k.last_used_at < now() - interval '1 minute', true)
              FOR NO KEY UPDATE OF k SKIP LOCKED
         )
         UPDATE operator_api_keys k SET last_used_at = now() FROM due WHERE k.id = due.id",
        keys
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn insert(
    conn: &mut PgConnection,
    key: &OperatorKey,
    hash: &Hash,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO operator_api_keys
           (id, name, prefix, key_hash, reads_only, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        key.id,
        key.name,
        key.prefix,
        hash,
        key.role == Role::OperatorRead.as_str(),
        key.created_by,
        key.created_at.to_sqlx() as _,
        key.expires_at.map(jiff_sqlx::ToSqlx::to_sqlx) as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Revokes a key; false if there is none or it is already revoked.
pub async fn revoke(conn: &mut PgConnection, id: Uuid) -> Result<bool, sqlx::Error> {
    let revoked = sqlx::query_scalar!(
        "UPDATE operator_api_keys SET revoked_at = now()
          WHERE id = $1 AND revoked_at IS NULL RETURNING id",
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(revoked.is_some())
}

/// Lists operators' keys, oldest first.
pub async fn list(conn: &mut PgConnection, part: Part) -> Result<Vec<OperatorKey>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, name, prefix, reads_only, created_by, created_at, expires_at, revoked_at,
                last_used_at
           FROM operator_api_keys
          WHERE $1::timestamptz IS NULL OR (created_at, id) > ($1, $2)
          ORDER BY created_at, id LIMIT $3",
        part.after.map(|(at, _)| at.to_sqlx()) as _,
        part.after.map(|(_, id)| id),
        part.limit
    )
    .fetch_all(conn)
    .await?;
    let keys = rows.into_iter().map(|row| OperatorKey {
        id: row.id,
        name: row.name,
        prefix: row.prefix,
        role: role(row.reads_only).as_str().to_owned(),
        created_by: row.created_by,
        created_at: row.created_at.to_jiff(),
        expires_at: row.expires_at.map(|at| at.to_jiff()),
        revoked_at: row.revoked_at.map(|at| at.to_jiff()),
        last_used_at: row.last_used_at.map(|at| at.to_jiff()),
    });
    Ok(keys.collect())
}

/// The valid keys that were not used since `unused_since`, that were made before `made_before`
/// and have no end, or whose maker may not log in any more.
pub async fn doubtful(
    conn: &mut PgConnection,
    unused_since: Timestamp,
    made_before: Timestamp,
) -> Result<Vec<DoubtfulKey>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT k.name, k.prefix,
                  coalesce(k.last_used_at, k.created_at) < $1 AS "unused!",
                  k.expires_at IS NULL AND k.created_at < $2 AS "endless!",
                  u.id IS NOT NULL AS "orphaned!"
             FROM operator_api_keys k
             LEFT JOIN users u ON u.id = k.created_by
                  AND (u.disabled_at IS NOT NULL OR NOT (u.operator OR u.operator_reads))
            WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
              AND (coalesce(k.last_used_at, k.created_at) < $1
                   OR (k.expires_at IS NULL AND k.created_at < $2) OR u.id IS NOT NULL)
            ORDER BY k.created_at, k.id"#,
        unused_since.to_sqlx() as _,
        made_before.to_sqlx() as _
    )
    .fetch_all(conn)
    .await?;
    let keys = rows.into_iter().map(|row| DoubtfulKey {
        name: row.name,
        prefix: row.prefix,
        unused: row.unused,
        endless: row.endless,
        orphaned: row.orphaned,
    });
    Ok(keys.collect())
}
