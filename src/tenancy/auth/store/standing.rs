//! SQL for whether users may log in.

use sqlx::PgConnection;
use uuid::Uuid;

pub async fn disable_user(conn: &mut PgConnection, user_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE users SET disabled_at = now() WHERE id = $1 AND disabled_at IS NULL",
        user_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn enable_user(conn: &mut PgConnection, user_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE users SET disabled_at = NULL WHERE id = $1 AND disabled_at IS NOT NULL",
        user_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The addresses of users who belong to no organization and are neither operators nor disabled.
pub async fn homeless(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT email FROM users u
          WHERE NOT operator AND NOT operator_reads AND disabled_at IS NULL
            AND oidc_subject IS NULL
            AND NOT EXISTS (SELECT FROM organization_members m WHERE m.user_id = u.id)
          ORDER BY created_at, id"
    )
    .fetch_all(conn)
    .await
}
