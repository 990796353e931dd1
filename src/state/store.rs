//! SQL for versions of states, and for what no other room reads.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

/// The versions of organizations: their audit entries, and the changes without one.
pub async fn versions(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashMap<Uuid, i64>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT asked.id AS "id!",
                  coalesce(h.last_sequence, 0) + coalesce(o.unentered_changes, 0) AS "version!"
             FROM unnest($1::uuid[]) AS asked(id)
             LEFT JOIN billing_audit_chain_heads h ON h.organization_id = asked.id
             LEFT JOIN organizations o ON o.id = asked.id"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows.map(|row| (row.id, row.version)).collect())
}

/// An organization's external id.
pub async fn external_id(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<String>, sqlx::Error> {
    let found = sqlx::query_scalar!(
        "SELECT external_id FROM organizations WHERE id = $1",
        organization_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(found.flatten())
}
