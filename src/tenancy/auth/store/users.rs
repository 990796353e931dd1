//! SQL for lists of users.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::tenancy::auth::User;

/// Which users are listed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    pub organization: Option<Uuid>,
    /// Those whose address is one of these, in their order.
    pub forms: Option<&'a [String]>,
    pub id: Option<Uuid>,
    /// From behind this time, user and organization.
    pub after: Option<(Timestamp, Uuid, Uuid)>,
    /// None: all.
    pub limit: Option<i64>,
}

/// Lists users, oldest first, each once for each of their organizations.
pub async fn users(conn: &mut PgConnection, filter: Filter<'_>) -> Result<Vec<User>, sqlx::Error> {
    let (created_at, user, organization) = match filter.after {
        Some((at, user, organization)) => (Some(at.to_sqlx()), Some(user), Some(organization)),
        None => (None, None, None),
    };
    let rows = sqlx::query!(
        r#"SELECT u.id, u.email, u.created_at, u.disabled_at,
                  m.organization_id AS "organization_id?",
                  CASE WHEN u.operator THEN 'operator' WHEN u.operator_reads THEN 'operator.read'
                       ELSE coalesce(m.role, '') END AS "role!"
             FROM users u LEFT JOIN organization_members m ON m.user_id = u.id
            WHERE ($1::uuid IS NULL OR m.organization_id = $1)
              AND ($2::text[] IS NULL OR lower(u.email) = ANY($2))
              AND ($3::uuid IS NULL OR u.id = $3)
              AND ($4::timestamptz IS NULL
                   OR (u.created_at, u.id, coalesce(m.organization_id, $7)) > ($4, $5, $6))
            ORDER BY array_position($2, lower(u.email)), u.created_at, u.id,
                     coalesce(m.organization_id, $7)
            LIMIT $8"#,
        filter.organization,
        filter.forms,
        filter.id,
        created_at as _,
        user,
        organization,
        Uuid::nil(),
        filter.limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| User {
            id: row.id,
            email: row.email,
            role: row.role,
            organization_id: row.organization_id,
            created_at: row.created_at.to_jiff(),
            disabled_at: row.disabled_at.map(|at| at.to_jiff()),
        })
        .collect())
}
