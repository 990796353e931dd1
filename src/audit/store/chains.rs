//! SQL for verifying the chains.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::audit::personal::PersonalData;
use crate::audit::verify::{ERASED, Fields};

/// The last link of an organization's chain.
pub struct Head {
    pub organization_id: Uuid,
    pub last_sequence: i64,
    pub last_hash: Vec<u8>,
}

/// Whether an organization, there or gone, has a log.
pub async fn has_log(conn: &mut PgConnection, organization: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT (EXISTS (SELECT FROM billing_audit_log WHERE organization_id = $1)
             OR EXISTS (SELECT FROM billing_audit_chain_heads WHERE organization_id = $1)) AS "has!""#,
        organization
    )
    .fetch_one(conn)
    .await
}

/// The number of organizations without a chain, or 0 or 1 for `only` one.
pub async fn without_entries(
    conn: &mut PgConnection,
    only: Option<Uuid>,
) -> Result<u64, sqlx::Error> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM organizations o
            WHERE ($1::uuid IS NULL OR o.id = $1)
              AND NOT EXISTS (SELECT FROM billing_audit_chain_heads h WHERE h.organization_id = o.id)"#,
        only
    )
    .fetch_one(conn)
    .await?;
    u64::try_from(count).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// The heads of all chains, or of one organization's. A chain with entries but
/// without a head is included with sequence 0.
pub async fn heads(conn: &mut PgConnection, only: Option<Uuid>) -> Result<Vec<Head>, sqlx::Error> {
    // A skip scan: one index step in the log per organization.
    sqlx::query_as!(
        Head,
        r#"WITH RECURSIVE logged AS (
             (SELECT organization_id FROM billing_audit_log
               WHERE sequence IS NOT NULL AND ($1::uuid IS NULL OR organization_id = $1)
               ORDER BY organization_id LIMIT 1)
             UNION ALL
             SELECT next.organization_id
               FROM logged
               CROSS JOIN LATERAL (
                 SELECT l.organization_id FROM billing_audit_log l
                  WHERE l.sequence IS NOT NULL AND l.organization_id > logged.organization_id
                    AND $1::uuid IS NULL
                  ORDER BY l.organization_id LIMIT 1) next)
           SELECT organization_id AS "organization_id!", last_sequence AS "last_sequence!",
                  last_hash AS "last_hash!"
             FROM (SELECT organization_id, last_sequence, last_hash FROM billing_audit_chain_heads
                    WHERE $1::uuid IS NULL OR organization_id = $1
                   UNION ALL
                   SELECT organization_id, 0::bigint, sha256('') FROM logged
                    WHERE NOT EXISTS (SELECT FROM billing_audit_chain_heads h
                                       WHERE h.organization_id = logged.organization_id)) chains
            ORDER BY organization_id"#,
        only
    )
    .fetch_all(conn)
    .await
}

/// A link of a chain, with its fields in the form that is hashed.
pub struct Link {
    pub sequence: i64,
    pub hash: Vec<u8>,
    pub fields: Fields,
    /// What is personal of it, unless it has nothing, or was erased.
    pub personal: Option<PersonalData>,
    /// The digest of its personal data, which outlives the data.
    pub personal_digest: Option<String>,
}

impl Link {
    /// Whether the chain itself has an address or user agent.
    pub fn has_addresses(&self) -> bool {
        let [.., ip_address, user_agent, _] = &self.fields;
        ip_address.is_some() || user_agent.is_some()
    }
}

/// Reads up to `limit` links of a chain after `after`.
pub async fn links(
    conn: &mut PgConnection,
    organization_id: Uuid,
    after: i64,
    limit: i64,
) -> Result<Vec<Link>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT l.sequence AS "sequence!", l.hash AS "hash!",
                  l.organization_id::text AS "organization_id!", l.id::text AS "id!", l.action,
                  l.actor_type, l.actor_id::text AS actor_id, l.resource_type, l.resource_id,
                  l.before_state::text AS before_state, l.after_state::text AS after_state,
                  l.metadata::text AS metadata, l.ip_address::text AS ip_address, l.user_agent,
                  (extract(epoch FROM l.created_at) * 1000000)::bigint::text AS "created_at!",
                  CASE WHEN jsonb_typeof(l.metadata) = 'object'
                       THEN l.metadata ->> 'personalDigest' END AS personal_digest,
                  p.salt AS "salt?", p.ip_address::text AS personal_address,
                  p.user_agent AS "personal_agent?", p.reason AS "reason?"
             FROM (SELECT * FROM billing_audit_log
                    WHERE organization_id = $1 AND sequence > $2
                    ORDER BY sequence LIMIT $3) l
             -- OFFSET keeps the planner from reading all personal data for each batch.
             LEFT JOIN LATERAL (
               SELECT salt, ip_address, user_agent, reason FROM billing_audit_personal_data d
                WHERE d.organization_id = l.organization_id AND d.entry_id = l.id OFFSET 0) p ON true
            ORDER BY l.sequence"#,
        organization_id,
        after,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Link {
            sequence: row.sequence,
            hash: row.hash,
            fields: [
                Some(row.organization_id),
                Some(row.id),
                Some(row.sequence.to_string()),
                Some(row.action),
                Some(row.actor_type),
                row.actor_id,
                Some(row.resource_type),
                row.resource_id,
                row.before_state,
                row.after_state,
                row.metadata,
                row.ip_address,
                row.user_agent,
                Some(row.created_at),
            ],
            personal: row.salt.map(|salt| PersonalData {
                salt,
                fields: [row.personal_address, row.personal_agent, row.reason],
            }),
            personal_digest: row.personal_digest,
        })
        .collect())
}

/// The sequence number of the entry about the latest erasure; 0 if there is none.
pub async fn erased_through(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(max(sequence), 0) AS "sequence!" FROM billing_audit_log
            WHERE organization_id = $1 AND action = $2 AND actor_type = 'system'
              AND resource_id = $1::uuid::text"#,
        organization_id,
        ERASED
    )
    .fetch_one(conn)
    .await
}

/// The number of rows of personal data, of all organizations or of one, that belong to no
/// entry of a chain.
pub async fn stray_personal_data(
    conn: &mut PgConnection,
    only: Option<Uuid>,
) -> Result<u64, sqlx::Error> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM billing_audit_personal_data p
            WHERE ($1::uuid IS NULL OR p.organization_id = $1)
              AND NOT EXISTS (SELECT FROM billing_audit_log l
                               WHERE l.organization_id = p.organization_id AND l.id = p.entry_id
                                 AND l.sequence IS NOT NULL)"#,
        only
    )
    .fetch_one(conn)
    .await?;
    u64::try_from(count).map_err(|error| sqlx::Error::Decode(error.into()))
}
