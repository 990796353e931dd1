//! SQL of mails.

pub mod content;
pub mod facts;
pub mod operators;
pub mod sending;

use sqlx::PgConnection;
use uuid::Uuid;

/// Clears the addresses of an organization's mails, and withdraws those that wait. Returns
/// the rows affected. A sender that has one loses its lease, and records nothing of it.
pub async fn erase(conn: &mut PgConnection, organization_id: Uuid) -> Result<u64, sqlx::Error> {
    let cleared = sqlx::query!(
        "UPDATE mails
            SET recipient = NULL, lease_id = NULL,
                error_message = CASE WHEN status = 'pending' THEN 'the organization was erased' END,
                ended_at = coalesce(ended_at, now()),
                status = CASE WHEN status = 'pending' THEN 'withdrawn' ELSE status END
          WHERE organization_id = $1
            AND (status = 'pending' OR recipient IS NOT NULL OR error_message IS NOT NULL)",
        organization_id
    );
    Ok(cleared.execute(conn).await?.rows_affected())
}
