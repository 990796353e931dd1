//! Chains that somebody wrote beside: how they go on, and how the owner mends
//! them.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Head;
use crate::telemetry::metrics;

/// How far a head moves at once; the database holds it to that.
const REACH: i64 = 100_000;

/// Beyond this no chain ever comes by appending.
pub const FARTHEST: i64 = 1 << 62;

/// Moves the heads of `organizations` behind entries that stand where the next
/// ones are to be: whoever put them there made them with SQL of his own.
pub(super) async fn go_on_behind(
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
        REACH
    )
    .fetch_all(conn)
    .await?;
    for organization_id in moved {
        metrics::audit::chain_passed();
        tracing::warn!(
            %organization_id,
            "an audit chain goes on behind an entry that was put beside it: `audit verify` shows it"
        );
    }
    Ok(())
}

/// Locks the head of a chain; None: it has none.
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

/// What the entries say of the head: that of an empty chain, where there are
/// none.
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
        FARTHEST
    )
    .fetch_one(conn)
    .await
}

/// Sets the head, as only the owner may.
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

/// What the repairs of a chain accepted, as their entries have it.
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

/// Enters a repair, as only the owner may. Returns the entry's place.
pub async fn enter_repair(
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

/// Becomes the owner, for this transaction.
pub async fn become_owner(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Not checked at compile time: it is no query.
    sqlx::raw_sql("SET LOCAL ROLE billing_owner; SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0")
        .execute(conn)
        .await?;
    Ok(())
}

/// Up to `limit` organizations whose head is not what its entries say: their
/// chain does not go on, or not from its last entry.
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
        FARTHEST
    )
    .fetch_all(conn)
    .await
}
