//! SQL for whether users may log in, and who may still act.

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
          WHERE NOT operator AND disabled_at IS NULL
            AND NOT EXISTS (SELECT FROM organization_members m WHERE m.user_id = u.id)
          ORDER BY created_at, id"
    )
    .fetch_all(conn)
    .await
}

/// Whether the actor may still act for the organization: a key that stands, or a member who
/// is not disabled.
pub async fn stands(
    conn: &mut PgConnection,
    actor_id: Uuid,
    organization_id: Uuid,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (
                    SELECT FROM api_keys WHERE id = $1 AND organization_id = $2
                       AND revoked_at IS NULL AND coalesce(expires_at > now(), true))
               OR EXISTS (
                    SELECT FROM service_api_keys WHERE id = $1
                       AND revoked_at IS NULL AND coalesce(expires_at > now(), true))
               OR EXISTS (
                    SELECT FROM organization_members m JOIN users u ON u.id = m.user_id
                     WHERE m.user_id = $1 AND m.organization_id = $2 AND u.disabled_at IS NULL)
               AS "stands!""#,
        actor_id,
        organization_id
    )
    .fetch_one(conn)
    .await
}
