//! SQL for users, sessions, API keys and login throttles. Most of it runs as
//! billing_worker, since requests cannot read these tables in their own
//! transactions.

pub mod oidc;
pub mod operator_keys;
pub mod operators;
pub mod portal_sessions;
pub mod second_factors;
pub mod service_keys;
pub mod sessions;
mod standing;
mod users;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::lists::Part;
use super::throttle::Counter;
use super::token::Hash;
use super::{ApiKey, Role};
use crate::db::TenantTx;
pub use sessions::{NewSession, SessionRow, revoke_session, revoke_sessions_of};
pub use standing::{disable_user, enable_user, homeless};
pub use users::{Filter, users};

/// The kind of operator that a user is, by the columns of `users`.
fn operator(operator: bool, reads: bool) -> Option<Role> {
    match (operator, reads) {
        (true, _) => Some(Role::Operator),
        (false, true) => Some(Role::OperatorRead),
        (false, false) => None,
    }
}

/// A valid API key.
#[derive(Debug, Clone)]
pub struct KeyRow {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub scopes: Vec<String>,
    /// Whether the organization is archived.
    pub archived: bool,
    /// Whether `last_used_at` is out of date.
    pub stale: bool,
}

/// The valid API keys among those with these hashes.
pub async fn keys_of_hashes(
    conn: &mut PgConnection,
    keys: &[Hash],
) -> Result<Vec<(Hash, KeyRow)>, sqlx::Error> {
    let keys: Vec<&[u8]> = keys.iter().map(|hash| hash.as_slice()).collect();
    let rows = sqlx::query!(
        r#"SELECT k.key_hash, k.organization_id, k.id, k.scopes,
                  o.archived_at IS NOT NULL AS "archived!",
                  coalesce(k.last_used_at < now() - interval '1 minute', true) AS "stale!"
             FROM api_keys k LEFT JOIN organizations o ON o.id = k.organization_id
            WHERE k.key_hash = ANY($1) AND k.revoked_at IS NULL
              AND (k.expires_at IS NULL OR k.expires_at > now())"#,
        &keys as &[&[u8]]
    )
    .fetch_all(conn)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let key = KeyRow {
            organization_id: row.organization_id,
            id: row.id,
            scopes: row.scopes,
            archived: row.archived,
            stale: row.stale,
        };
        Some((Hash::try_from(row.key_hash.as_slice()).ok()?, key))
    });
    Ok(found.collect())
}

/// The same for API keys, by organization and id.
pub async fn touch_keys(conn: &mut PgConnection, keys: &[(Uuid, Uuid)]) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let (organizations, ids): (Vec<Uuid>, Vec<Uuid>) = keys.iter().copied().unzip();
    sqlx::query!(
        "WITH due AS (
           SELECT k.organization_id, k.id
             FROM unnest($1::uuid[], $2::uuid[]) AS used(organization_id, id)
             JOIN api_keys k USING (organization_id, id)
            WHERE coalesce(k.last_used_at < now() - interval '1 minute', true)
              FOR NO KEY UPDATE OF k SKIP LOCKED
         )
         UPDATE api_keys k SET last_used_at = now()
           FROM due WHERE k.organization_id = due.organization_id AND k.id = due.id",
        &organizations,
        &ids
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A user who may log in.
pub struct Account {
    pub user_id: Uuid,
    pub password_hash: Option<String>,
    pub operator: Option<Role>,
    pub organization_id: Option<Uuid>,
    pub role: Option<String>,
    pub second_factor: bool,
}

impl Account {
    /// Of an operator who is known otherwise than by a password.
    pub fn operator(user_id: Uuid, role: Role) -> Self {
        Self {
            user_id,
            password_hash: None,
            operator: Some(role),
            organization_id: None,
            role: None,
            second_factor: false,
        }
    }

    /// What the user is where they log in.
    pub fn role(&self) -> Option<Role> {
        let member = || self.role.as_deref().and_then(Role::named);
        self.operator.or_else(member)
    }
}

/// Finds the account with the first of an address's `forms` that exists, and the
/// organization it joined last.
pub async fn account(
    conn: &mut PgConnection,
    forms: &[String],
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT u.id AS user_id, u.password_hash, u.operator, u.operator_reads,
                  m.organization_id AS "organization_id?", m.role AS "role?",
                  f.user_id IS NOT NULL AS "second_factor!"
             FROM users u
             LEFT JOIN operator_second_factors f ON f.user_id = u.id
             LEFT JOIN LATERAL (SELECT organization_id, role FROM organization_members
                                 WHERE user_id = u.id ORDER BY created_at DESC, organization_id LIMIT 1) m
               ON true
            WHERE lower(u.email) = ANY($1) AND u.disabled_at IS NULL
            ORDER BY array_position($1, lower(u.email)) LIMIT 1"#,
        forms
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Account {
        user_id: row.user_id,
        password_hash: row.password_hash,
        operator: operator(row.operator, row.operator_reads),
        organization_id: row.organization_id,
        role: row.role,
        second_factor: row.second_factor,
    }))
}

/// Locks an account against changes, and says whether it is what it was when it was read.
pub async fn hold(conn: &mut PgConnection, account: &Account) -> Result<bool, sqlx::Error> {
    sqlx::query!(
        "SELECT id FROM users WHERE id = $1 FOR SHARE",
        account.user_id
    )
    .fetch_optional(&mut *conn)
    .await?;
    // Another statement: the one that waits for the lock sees other tables as they were before.
    let now = sqlx::query!(
        r#"SELECT u.password_hash, u.operator, u.operator_reads,
                  EXISTS (SELECT FROM operator_second_factors f WHERE f.user_id = u.id)
                    AS "second_factor!"
             FROM users u WHERE u.id = $1 AND u.disabled_at IS NULL"#,
        account.user_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(now.is_some_and(|now| {
        now.password_hash == account.password_hash
            && operator(now.operator, now.operator_reads) == account.operator
            && now.second_factor == account.second_factor
    }))
}

/// Locks a user's row against others that change how the user signs in.
pub async fn lock_user(conn: &mut PgConnection, user_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE",
        user_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(())
}

/// Locks the counters of `keys`, creating missing ones, and returns them in the
/// order of `keys` with the database's time.
pub async fn lock_counters(
    conn: &mut PgConnection,
    keys: &[Hash; 3],
) -> Result<([Counter; 3], Timestamp), sqlx::Error> {
    let mut sorted: Vec<&[u8]> = keys.iter().map(<[u8; 32]>::as_slice).collect();
    sorted.sort_unstable();
    sqlx::query!(
        "INSERT INTO login_throttles (throttle_key) SELECT * FROM unnest($1::bytea[])
         ON CONFLICT DO NOTHING",
        &sorted as &[&[u8]]
    )
    .execute(&mut *conn)
    .await?;
    let rows = sqlx::query!(
        r#"SELECT throttle_key, failures, last_attempt_at, blocked_until, succeeded_at,
                  clock_timestamp() AS "now!"
             FROM login_throttles WHERE throttle_key = ANY($1) ORDER BY throttle_key FOR UPDATE"#,
        &sorted as &[&[u8]]
    )
    .fetch_all(conn)
    .await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.now.to_jiff();
    let mut counters = [Counter::new(now); 3];
    for (key, counter) in keys.iter().zip(&mut counters) {
        let row = rows
            .iter()
            .find(|row| row.throttle_key == key)
            .ok_or(sqlx::Error::RowNotFound)?;
        *counter = Counter {
            failures: row.failures,
            last_attempt_at: row.last_attempt_at.to_jiff(),
            blocked_until: row.blocked_until.map(|at| at.to_jiff()),
            succeeded_at: row.succeeded_at.map(|at| at.to_jiff()),
        };
    }
    Ok((counters, now))
}

pub async fn write_counters(
    conn: &mut PgConnection,
    keys: &[Hash; 3],
    counters: &[Counter; 3],
) -> Result<(), sqlx::Error> {
    for (key, counter) in keys.iter().zip(counters) {
        sqlx::query!(
            "UPDATE login_throttles
                SET failures = $2, last_attempt_at = $3, blocked_until = $4, succeeded_at = $5
              WHERE throttle_key = $1",
            key,
            counter.failures,
            counter.last_attempt_at.to_sqlx() as _,
            counter.blocked_until.map(jiff_sqlx::ToSqlx::to_sqlx) as _,
            counter.succeeded_at.map(jiff_sqlx::ToSqlx::to_sqlx) as _
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Inserts a user; `None` if the address is taken, in any of its `forms`.
pub async fn insert_user(
    conn: &mut PgConnection,
    id: Uuid,
    email: &str,
    forms: &[String],
    password_hash: &str,
    role: Role,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let created = sqlx::query_scalar!(
        "INSERT INTO users (id, email, password_hash, password_changed_at, operator, operator_reads)
         SELECT $1, $2, $3, now(), $4, $5
          WHERE NOT EXISTS (SELECT FROM users WHERE lower(email) = ANY($6))
         ON CONFLICT DO NOTHING RETURNING created_at",
        id,
        email,
        password_hash,
        role == Role::Operator,
        role == Role::OperatorRead,
        forms
    )
    .fetch_optional(conn)
    .await?;
    Ok(created.map(|at| at.to_jiff()))
}

/// The outcome of adding a member.
pub enum Membership {
    Added,
    /// The user is already a member, with this role.
    Already(String),
    NoOrganization,
}

/// Adds a user to an organization.
pub async fn insert_member(
    conn: &mut PgConnection,
    organization_id: Uuid,
    user_id: Uuid,
    role: &str,
) -> Result<Membership, sqlx::Error> {
    let inserted = sqlx::query_scalar!(
        "INSERT INTO organization_members (organization_id, user_id, role)
         SELECT id, $2, $3 FROM organizations WHERE id = $1
         ON CONFLICT DO NOTHING RETURNING user_id",
        organization_id,
        user_id,
        role
    )
    .fetch_optional(&mut *conn)
    .await?;
    if inserted.is_some() {
        return Ok(Membership::Added);
    }
    let role = sqlx::query_scalar!(
        "SELECT role FROM organization_members WHERE organization_id = $1 AND user_id = $2",
        organization_id,
        user_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(role.map_or(Membership::NoOrganization, Membership::Already))
}

/// The organizations a user belongs to.
pub async fn organizations_of(
    conn: &mut PgConnection,
    user_id: Uuid,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT organization_id FROM organization_members WHERE user_id = $1 ORDER BY 1",
        user_id
    )
    .fetch_all(conn)
    .await
}

pub async fn update_password(
    conn: &mut PgConnection,
    user_id: Uuid,
    hash: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE users SET password_hash = $2, password_changed_at = now() WHERE id = $1",
        user_id,
        hash
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts a key; false if the organization does not exist.
pub async fn insert_key(tx: &mut TenantTx, key: &ApiKey, hash: &Hash) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query_scalar!(
        "INSERT INTO api_keys (organization_id, id, name, prefix, key_hash, scopes, created_at, expires_at)
         SELECT o.id, $2, $3, $4, $5, $6, $7, $8 FROM organizations o WHERE o.id = $1 RETURNING id",
        key.organization_id,
        key.id,
        key.name,
        key.prefix,
        hash,
        &key.scopes,
        key.created_at.to_sqlx() as _,
        key.expires_at.map(jiff_sqlx::ToSqlx::to_sqlx) as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(inserted.is_some())
}

/// Revokes a key; false if there is none or it is already revoked.
pub async fn revoke_key(tx: &mut TenantTx, id: Uuid) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let revoked = sqlx::query_scalar!(
        "UPDATE api_keys SET revoked_at = now()
          WHERE organization_id = $1 AND id = $2 AND revoked_at IS NULL RETURNING id",
        organization_id,
        id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(revoked.is_some())
}

pub async fn keys(tx: &mut TenantTx, part: Part) -> Result<Vec<ApiKey>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let rows = sqlx::query!(
        "SELECT id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at
           FROM api_keys
          WHERE organization_id = $1
            AND ($2::timestamptz IS NULL OR (created_at, id) > ($2, $3))
          ORDER BY created_at, id LIMIT $4",
        organization_id,
        part.after.map(|(at, _)| at.to_sqlx()) as _,
        part.after.map(|(_, id)| id),
        part.limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ApiKey {
            id: row.id,
            organization_id,
            name: row.name,
            prefix: row.prefix,
            scopes: row.scopes,
            created_at: row.created_at.to_jiff(),
            expires_at: row.expires_at.map(|at| at.to_jiff()),
            revoked_at: row.revoked_at.map(|at| at.to_jiff()),
            last_used_at: row.last_used_at.map(|at| at.to_jiff()),
        })
        .collect())
}
