//! SQL for versions of states, and for what no other room reads.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

/// The versions of those organizations that have one.
pub async fn versions(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashMap<Uuid, i64>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, last_sequence FROM billing_audit_chain_heads
          WHERE organization_id = ANY($1)",
        organizations
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (row.organization_id, row.last_sequence))
        .collect())
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
