//! SQL for service keys. It runs as billing_worker outside of any organization.

use std::collections::HashMap;

use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Hash;
use crate::tenancy::auth::ServiceKey;
use crate::tenancy::auth::lists::Part;
use crate::tenancy::names::FoundNames;

/// A valid service key.
#[derive(Debug, Clone)]
pub struct ServiceKeyRow {
    pub id: Uuid,
    pub scopes: Vec<String>,
    /// Whether `last_used_at` is out of date.
    pub stale: bool,
}

/// The valid service keys among those with these hashes, and the organizations that
/// their requests name: one statement, so that such a request waits no longer than
/// others.
pub async fn keys_and_names(
    conn: &mut PgConnection,
    keys: &[Hash],
    names: &[&str],
    ids: &[Uuid],
) -> Result<(HashMap<Hash, ServiceKeyRow>, FoundNames), sqlx::Error> {
    let hashes: Vec<&[u8]> = keys.iter().map(|hash| hash.as_slice()).collect();
    let rows = sqlx::query!(
        r#"SELECT key_hash AS "key_hash?", id AS "id!", scopes AS "scopes?", NULL::text AS "name?",
                  coalesce(last_used_at < now() - interval '1 minute', true) AS "flag!"
             FROM service_api_keys
            WHERE key_hash = ANY($1) AND revoked_at IS NULL
              AND (expires_at IS NULL OR expires_at > now())
           UNION ALL
           SELECT NULL, o.id, NULL, o.external_id, o.archived_at IS NOT NULL
             FROM organizations o WHERE o.external_id = ANY($2) AND o.erased_at IS NULL
           UNION ALL
           SELECT NULL, o.id, NULL, NULL, o.archived_at IS NOT NULL
             FROM organizations o WHERE o.id = ANY($3) AND o.erased_at IS NULL"#,
        &hashes as &[&[u8]],
        names as &[&str],
        ids
    )
    .fetch_all(conn)
    .await?;
    let (mut valid, mut named) = (HashMap::new(), FoundNames::default());
    for row in rows {
        match (row.key_hash, row.scopes, row.name) {
            (Some(hash), scopes, _) => {
                let Ok(hash) = Hash::try_from(hash.as_slice()) else {
                    continue;
                };
                let key = ServiceKeyRow {
                    id: row.id,
                    scopes: scopes.unwrap_or_default(),
                    stale: row.flag,
                };
                valid.insert(hash, key);
            }
            (None, _, Some(name)) => {
                named.by_external_id.insert(name, (row.id, row.flag));
            }
            (None, _, None) => {
                named.by_id.insert(row.id, row.flag);
            }
        }
    }
    Ok((valid, named))
}

/// Records that these keys are used, except those that another statement is changing.
pub async fn touch(conn: &mut PgConnection, keys: &[Uuid]) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "WITH due AS (
           SELECT k.id FROM service_api_keys k
            WHERE k.id = ANY($1) AND coalesce(k.last_used_at < now() - interval '1 minute', true)
              FOR NO KEY UPDATE OF k SKIP LOCKED
         )
         UPDATE service_api_keys k SET last_used_at = now() FROM due WHERE k.id = due.id",
        keys
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn insert(
    conn: &mut PgConnection,
    key: &ServiceKey,
    hash: &Hash,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO service_api_keys (id, name, prefix, key_hash, scopes, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        key.id,
        key.name,
        key.prefix,
        hash,
        &key.scopes,
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
        "UPDATE service_api_keys SET revoked_at = now()
          WHERE id = $1 AND revoked_at IS NULL RETURNING id",
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(revoked.is_some())
}

/// Lists service keys, oldest first.
pub async fn list(conn: &mut PgConnection, part: Part) -> Result<Vec<ServiceKey>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at
           FROM service_api_keys
          WHERE $1::timestamptz IS NULL OR (created_at, id) > ($1, $2)
          ORDER BY created_at, id LIMIT $3",
        part.after.map(|(at, _)| at.to_sqlx()) as _,
        part.after.map(|(_, id)| id),
        part.limit
    )
    .fetch_all(conn)
    .await?;
    let keys = rows.into_iter().map(|row| ServiceKey {
        id: row.id,
        name: row.name,
        prefix: row.prefix,
        scopes: row.scopes,
        created_at: row.created_at.to_jiff(),
        expires_at: row.expires_at.map(|at| at.to_jiff()),
        revoked_at: row.revoked_at.map(|at| at.to_jiff()),
        last_used_at: row.last_used_at.map(|at| at.to_jiff()),
    });
    Ok(keys.collect())
}
