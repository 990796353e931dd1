//! SQL for chains that contain entries written past the application: how they
//! continue, and how the database owner repairs them.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Head;
use crate::telemetry::metrics;

/// How far a head may move at once; the database enforces the same limit.
const MAX_MOVE: i64 = 100_000;

/// Sequence numbers beyond this are never reached by appending.
pub const MAX_SEQUENCE: i64 = 1 << 62;

/// Moves the heads of `organizations` past entries that were inserted by hand
/// where the next entries belong.
pub(super) async fn skip_foreign_entries(
    conn: &mut PgConnection,
    organizations: impl Iterator<Item = Uuid>,
) -> Result<(), sqlx::Error> {
    let organizations: Vec<Uuid> = organizations.collect();
    if organizations.is_empty() {
        return Ok(());
    }
    let moved = sqlx::query_scalar!(
        "UPDATE billing_audit_chain_heads h
            SET last_sequence = beyond.sequence, last_hash = beyond.hash
           FROM (SELECT DISTINCT ON (l.organization_id) l.organization_id, l.sequence, l.hash
                   FROM billing_audit_log l
                   JOIN billing_audit_chain_heads at ON at.organization_id = l.organization_id
                  WHERE l.organization_id = ANY($1) AND l.sequence > at.last_sequence
                    AND l.sequence - $2 <= at.last_sequence
                  ORDER BY l.organization_id, l.sequence DESC) beyond
          WHERE h.organization_id = beyond.organization_id
         RETURNING h.organization_id",
        &organizations,
        MAX_MOVE
    )
    .fetch_all(conn)
    .await?;
    for organization_id in moved {
        metrics::audit::chain_passed();
        tracing::warn!(
            %organization_id,
            "an audit chain continues after an entry inserted by hand; `audit verify` shows it"
        );
    }
    Ok(())
}

/// Locks a chain's head; `None` if it has none.
pub async fn lock_head(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<Head>, sqlx::Error> {
    sqlx::query_as!(
        Head,
        "SELECT organization_id, last_sequence, last_hash FROM billing_audit_chain_heads
          WHERE organization_id = $1 FOR UPDATE",
        organization_id
    )
    .fetch_optional(conn)
    .await
}

/// The head that matches a chain's entries; without entries, that of an empty
/// chain.
pub async fn head_by_entries(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Head, sqlx::Error> {
    sqlx::query_as!(
        Head,
        r#"SELECT $1::uuid AS "organization_id!", last.sequence AS "last_sequence!",
                  last.hash AS "last_hash!"
             FROM (SELECT sequence, hash FROM billing_audit_log
                    WHERE organization_id = $1 AND sequence <= $2
                   UNION ALL SELECT 0, sha256('')
                   ORDER BY sequence DESC LIMIT 1) last"#,
        organization_id,
        MAX_SEQUENCE
    )
    .fetch_one(conn)
    .await
}

/// Sets a chain's head, which only the owner may do.
pub async fn set_head(conn: &mut PgConnection, head: &Head) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO billing_audit_chain_heads (organization_id, last_sequence, last_hash)
         VALUES ($1, $2, $3)
         ON CONFLICT (organization_id)
         DO UPDATE SET last_sequence = excluded.last_sequence, last_hash = excluded.last_hash",
        head.organization_id,
        head.last_sequence,
        head.last_hash
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The flaws that a chain's repairs accepted, as recorded in their entries.
pub async fn accepted(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Vec<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT jsonb_path_query(metadata, '$.accepted[*]') AS "accepted!" FROM billing_audit_log
            WHERE organization_id = $1 AND action = 'audit_chain_repaired'"#,
        organization_id
    )
    .fetch_all(conn)
    .await
}

/// Appends the entry about a repair, which only the owner may do. Returns its
/// sequence number.
pub async fn append_repair(
    conn: &mut PgConnection,
    organization_id: Uuid,
    before: &Value,
    after: &Value,
    metadata: &Value,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT log_billing_action($1::uuid, 'audit_chain_repaired', 'system',
                                   p_resource_type => 'audit_chain',
                                   p_resource_id => ($1::uuid)::text, p_before_state => $2,
                                   p_after_state => $3, p_metadata => $4)",
        organization_id,
        before,
        after,
        metadata
    )
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query_scalar!(
        "SELECT last_sequence FROM billing_audit_chain_heads WHERE organization_id = $1",
        organization_id
    )
    .fetch_one(conn)
    .await
}

/// Switches to the owner's role for this transaction.
pub async fn become_owner(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // The compile-time check takes queries only.
    sqlx::raw_sql("SET LOCAL ROLE billing_owner; SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0")
        .execute(conn)
        .await?;
    Ok(())
}

/// Up to `limit` organizations whose chain's head does not match its entries.
pub async fn stray_heads(conn: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT organization_id FROM billing_audit_chain_heads h
          WHERE last_sequence > $2
             OR last_sequence > 0
            AND NOT EXISTS (SELECT FROM billing_audit_log l
                             WHERE l.organization_id = h.organization_id
                               AND l.sequence = h.last_sequence AND l.hash = h.last_hash)
             OR EXISTS (SELECT FROM billing_audit_log l
                         WHERE l.organization_id = h.organization_id
                           AND l.sequence > h.last_sequence AND l.sequence <= $2)
          ORDER BY organization_id LIMIT $1",
        limit,
        MAX_SEQUENCE
    )
    .fetch_all(conn)
    .await
}
