//! SQL for lists of operators.

use std::collections::HashMap;

use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::operator;
use super::sessions::IDLE_SECS;
use crate::tenancy::auth::OperatorUser;
use crate::tenancy::auth::lists::Part;

/// Lists operators, those who are disabled as well, oldest first; or one of them.
pub async fn list(
    conn: &mut PgConnection,
    only: Option<Uuid>,
    part: Part,
) -> Result<Vec<OperatorUser>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT u.id, u.email, u.operator, u.operator_reads, u.created_at, u.disabled_at,
                  u.password_hash IS NOT NULL AS "password!",
                  f.user_id IS NOT NULL AS "second_factor!",
                  s.open AS "open!", s.last_seen_at
             FROM users u
             LEFT JOIN operator_second_factors f ON f.user_id = u.id
             LEFT JOIN LATERAL (
               SELECT count(*) FILTER (WHERE revoked_at IS NULL AND expires_at > now()
                        AND last_used_at > now() - make_interval(secs => $2)) AS open,
                      max(last_used_at) AS last_seen_at
                 FROM user_sessions WHERE user_id = u.id) s ON true
            WHERE (u.operator OR u.operator_reads) AND ($1::uuid IS NULL OR u.id = $1)
              AND ($3::timestamptz IS NULL OR (u.created_at, u.id) > ($3, $4))
            ORDER BY u.created_at, u.id LIMIT $5"#,
        only,
        IDLE_SECS,
        part.after.map(|(at, _)| at.to_sqlx()) as _,
        part.after.map(|(_, id)| id),
        part.limit
    )
    .fetch_all(conn)
    .await?;
    let operators = rows.into_iter().filter_map(|row| {
        let role = operator(row.operator, row.operator_reads)?;
        Some(OperatorUser {
            id: row.id,
            email: row.email,
            role: role.as_str().to_owned(),
            created_at: row.created_at.to_jiff(),
            disabled_at: row.disabled_at.map(|at| at.to_jiff()),
            password: row.password,
            second_factor: row.second_factor,
            sessions: row.open,
            last_seen_at: row.last_seen_at.map(|at| at.to_jiff()),
        })
    });
    Ok(operators.collect())
}

/// The addresses of users among those with these ids.
pub async fn addresses(
    conn: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, String>, sqlx::Error> {
    let rows = sqlx::query!("SELECT id, email FROM users WHERE id = ANY($1)", ids)
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.email)).collect())
}

pub async fn has_password(conn: &mut PgConnection, user_id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM users WHERE id = $1 AND password_hash IS NOT NULL) AS "has!""#,
        user_id
    )
    .fetch_one(conn)
    .await
}
