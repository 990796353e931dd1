//! SQL for the audit log.

mod chains;
pub mod repair;

pub use chains::{
    Head, Link, erased_through, has_log, heads, links, stray_personal_data, without_entries,
};

use std::collections::HashSet;

use jiff_sqlx::ToSqlx as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::recorder::Appended;
use super::{NewEntry, initiator};
use crate::db::TenantTx;
use crate::telemetry::metrics;

/// Makes the transaction one of a single snapshot, which changes nothing: the first
/// statement of it.
pub async fn snapshot(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(conn)
        .await?;
    Ok(())
}

/// Proof that this transaction has locked the chains it appends to.
pub struct LockedChains(());

/// Locks the chains of `organizations`, creating missing ones. The lock on a
/// chain also serializes changes to that organization's billing state. Chains
/// are locked in order, so that batches cannot deadlock.
pub async fn lock_chains(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<LockedChains, sqlx::Error> {
    let locked = lock_existing(conn, organizations).await?;
    if locked < organizations.len() {
        sqlx::query!(
            "INSERT INTO billing_audit_chain_heads (organization_id, last_sequence, last_hash)
             SELECT id, 0, sha256('') FROM unnest($1::uuid[]) AS t(id) ORDER BY id
             ON CONFLICT DO NOTHING",
            organizations
        )
        .execute(&mut *conn)
        .await?;
        lock_existing(conn, organizations).await?;
    }
    Ok(LockedChains(()))
}

/// Those of `organizations` that were erased. With their chains locked, it stays as it is.
pub async fn erased(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let erased = sqlx::query_scalar!(
        "SELECT id FROM organizations WHERE id = ANY($1) AND erased_at IS NOT NULL",
        organizations
    )
    .fetch_all(conn)
    .await?;
    Ok(erased.into_iter().collect())
}

/// Whether this one was.
pub async fn is_erased(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<bool, sqlx::Error> {
    Ok(!erased(conn, &[organization_id]).await?.is_empty())
}

/// Locks the chains of those of `organizations` that are not locked at the
/// moment, creating missing ones, and returns which they are. Locked ones are
/// skipped so that they do not hold up the others.
pub async fn lock_free_chains(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<(LockedChains, HashSet<Uuid>), sqlx::Error> {
    let mut free = lock_unheld(conn, organizations).await?;
    if free.len() < organizations.len() {
        // Only missing heads: inserting one that another transaction is changing
        // would wait for it.
        let made = sqlx::query_scalar!(
            r#"INSERT INTO billing_audit_chain_heads (organization_id, last_sequence, last_hash)
               SELECT id, 0, sha256('') FROM unnest($1::uuid[]) AS t(id)
                WHERE NOT EXISTS (SELECT FROM billing_audit_chain_heads h
                                   WHERE h.organization_id = t.id)
                ORDER BY id
               ON CONFLICT DO NOTHING
               RETURNING organization_id"#,
            organizations
        )
        .fetch_all(&mut *conn)
        .await?;
        free.extend(made);
    }
    Ok((LockedChains(()), free))
}

async fn lock_unheld(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let free = sqlx::query!(
        r#"SELECT organization_id,
                  (SELECT l.sequence FROM billing_audit_log l
                    WHERE l.organization_id = h.organization_id AND l.sequence > h.last_sequence
                    ORDER BY l.sequence LIMIT 1) IS NOT NULL AS "passed!"
             FROM billing_audit_chain_heads h
            WHERE organization_id = ANY($1) ORDER BY organization_id FOR UPDATE OF h SKIP LOCKED"#,
        organizations
    )
    .fetch_all(&mut *conn)
    .await?;
    let passed = free.iter().filter(|head| head.passed);
    repair::skip_foreign_entries(conn, passed.map(|head| head.organization_id)).await?;
    Ok(free.into_iter().map(|head| head.organization_id).collect())
}

async fn lock_existing(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<usize, sqlx::Error> {
    let heads = sqlx::query!(
        r#"SELECT organization_id,
                  (SELECT l.sequence FROM billing_audit_log l
                    WHERE l.organization_id = h.organization_id AND l.sequence > h.last_sequence
                    ORDER BY l.sequence LIMIT 1) IS NOT NULL AS "passed!"
             FROM billing_audit_chain_heads h
            WHERE organization_id = ANY($1) ORDER BY organization_id FOR UPDATE OF h"#,
        organizations
    )
    .fetch_all(&mut *conn)
    .await?;
    let passed = heads.iter().filter(|head| head.passed);
    repair::skip_foreign_entries(conn, passed.map(|head| head.organization_id)).await?;
    Ok(heads.len())
}

/// Appends `entries`, keeping the order within each organization: like
/// log_billing_action(), but in one statement for many entries. For connections
/// whose transaction somebody else commits; others use `record`.
#[expect(clippy::too_many_lines, reason = "it is one statement")]
pub async fn append(
    conn: &mut PgConnection,
    _locked: &LockedChains,
    entries: &[NewEntry],
) -> Result<Appended, sqlx::Error> {
    if entries.is_empty() {
        return Ok(Appended::default());
    }
    let column = |field: fn(&NewEntry) -> &str| entries.iter().map(field).collect::<Vec<_>>();
    let json = |field: fn(&NewEntry) -> Option<&Value>| {
        entries
            .iter()
            .map(|e| field(e).map(Value::to_string))
            .collect::<Vec<_>>()
    };
    let metadata: Vec<Option<String>> = entries
        .iter()
        .map(|entry| Some(initiator::metadata(entry).to_string()))
        .collect();
    let organizations: Vec<Uuid> = entries.iter().map(|e| e.organization_id).collect();
    let clients = entries.iter().map(|e| e.client.as_ref());
    let addresses: Vec<Option<String>> = clients
        .clone()
        .map(|client| Some(client?.ip?.to_string()))
        .collect();
    let agents: Vec<Option<&str>> = clients
        .map(|client| client?.user_agent.as_deref())
        .collect();
    let actors: Vec<Option<Uuid>> = entries.iter().map(|e| e.actor.id()).collect();
    let reasons: Vec<Option<&str>> = entries.iter().map(|e| e.reason.as_deref()).collect();
    sqlx::query!(
        "WITH entries AS MATERIALIZED (
           SELECT e.organization_id, gen_random_uuid() AS id, e.action, e.actor_type, e.actor_id,
                  e.resource_type,
                  e.resource_id, e.before_state::jsonb, e.after_state::jsonb, e.metadata::jsonb,
                  e.ip_address::inet, e.user_agent, e.reason,
                  CASE WHEN coalesce(e.ip_address, e.user_agent, e.reason) IS NOT NULL
                       THEN uuid_send(gen_random_uuid()) END AS salt,
                  clock_timestamp() AS created_at,
                  row_number() OVER (PARTITION BY e.organization_id ORDER BY e.ordinal) AS position
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                         $7::text[], $8::text[], $9::uuid[], $10::text[], $11::text[], $12::text[])
                  WITH ORDINALITY
               AS e(organization_id, action, actor_type, resource_type, resource_id, before_state,
                    after_state, metadata, actor_id, ip_address, user_agent, reason, ordinal)),
         personal AS (
           INSERT INTO billing_audit_personal_data (
             organization_id, entry_id, salt, ip_address, user_agent, reason)
           SELECT organization_id, id, salt, ip_address, user_agent, reason
             FROM entries WHERE salt IS NOT NULL),
         positioned AS MATERIALIZED (
           SELECT e.organization_id, e.id, e.action, e.actor_type, e.actor_id, e.resource_type,
                  e.resource_id, e.before_state, e.after_state,
                  CASE WHEN e.salt IS NULL THEN e.metadata
                       ELSE coalesce(nullif(e.metadata, 'null'), '{}') || jsonb_build_object(
                         'personalDigest',
                         billing_audit_personal_digest(e.salt, e.ip_address, e.user_agent, e.reason))
                  END AS metadata,
                  e.created_at, e.position,
                  h.last_sequence + e.position AS sequence, h.last_hash AS previous_hash
             FROM entries e
             JOIN billing_audit_chain_heads h ON h.organization_id = e.organization_id),
         -- Most organizations have one entry, for which the aggregate takes twice as long. The
         -- others learn their first entry's hash from a window: a join compares all with all.
         hashed AS MATERIALIZED (
           SELECT p.*, CASE WHEN p.position = 1 THEN
                  billing_audit_entry_hash(
                    p.previous_hash, p.organization_id, p.id, p.sequence, p.action, p.actor_type,
                    p.actor_id, p.resource_type, p.resource_id, p.before_state, p.after_state,
                    p.metadata, NULL, NULL, p.created_at) END AS own_hash
             FROM positioned p),
         anchored AS MATERIALIZED (
           SELECT *, first_value(own_hash) OVER (PARTITION BY organization_id ORDER BY position)
                       AS first_hash
             FROM hashed),
         chain AS MATERIALIZED (
           SELECT p.*, p.own_hash AS hash FROM anchored p WHERE p.position = 1
           UNION ALL
           SELECT p.*,
                  billing_audit_running_entry_hash(
                    p.first_hash, p.organization_id, p.id, p.sequence, p.action, p.actor_type,
                    p.actor_id, p.resource_type, p.resource_id, p.before_state, p.after_state,
                    p.metadata, NULL, NULL, p.created_at)
                  OVER (PARTITION BY p.organization_id ORDER BY p.position ROWS UNBOUNDED PRECEDING)
             FROM anchored p WHERE p.position > 1),
         appended AS (
           INSERT INTO billing_audit_log (
             organization_id, id, sequence, action, actor_type, actor_id, resource_type, resource_id,
             before_state, after_state, metadata, created_at, hash)
           SELECT organization_id, id, sequence, action, actor_type, actor_id, resource_type, resource_id,
                  before_state, after_state, metadata, created_at, hash
             FROM chain),
         -- What events out are made of. A transaction of one organization does not see the
         -- endpoints, which are the operator's.
         told AS (
           INSERT INTO outbound_changes (organization_id, first_entry, last_entry)
           SELECT organization_id, min(sequence), max(sequence) FROM chain
            WHERE organization_id <> '00000000-0000-0000-0000-000000000000'
              AND ((SELECT auth.get_current_org_id()) IS NOT NULL
                   OR EXISTS (SELECT FROM outbound_endpoints))
            GROUP BY organization_id)
         UPDATE billing_audit_chain_heads h
            SET last_sequence = last.sequence, last_hash = last.hash
           FROM (SELECT DISTINCT ON (organization_id) organization_id, sequence, hash
                   FROM chain ORDER BY organization_id, position DESC) last
          WHERE h.organization_id = last.organization_id",
        &organizations,
        &column(|e| e.action) as &[&str],
        &column(|e| e.actor.as_str()) as &[&str],
        &column(|e| e.resource_type) as &[&str],
        &column(|e| &e.resource_id) as &[&str],
        &json(|e| e.before.as_ref()) as &[Option<String>],
        &json(|e| e.after.as_ref()) as &[Option<String>],
        &metadata as &[Option<String>],
        &actors as &[Option<Uuid>],
        &addresses as &[Option<String>],
        &agents as &[Option<&str>],
        &reasons as &[Option<&str>],
    )
    .execute(conn)
    .await
    .inspect_err(|_| metrics::audit_error())?;
    Ok(Appended::of(entries))
}

/// An entry as shown to readers.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditEntry)]
pub struct Entry {
    pub id: Uuid,
    pub organization_id: Uuid,
    #[schema(required)]
    pub sequence: Option<i64>,
    pub action: String,
    pub actor_type: String,
    #[schema(required)]
    pub actor_id: Option<Uuid>,
    pub resource_type: String,
    #[schema(required)]
    pub resource_id: Option<String>,
    #[schema(required, value_type = Option<Object>)]
    pub before_state: Option<Value>,
    #[schema(required, value_type = Option<Object>)]
    pub after_state: Option<Value>,
    #[schema(required, value_type = Option<Object>)]
    pub metadata: Option<Value>,
    #[schema(required)]
    pub ip_address: Option<String>,
    #[schema(required)]
    pub user_agent: Option<String>,
    /// In the words of whoever acted.
    #[schema(required)]
    pub reason: Option<String>,
    pub created_at: jiff::Timestamp,
    #[schema(required)]
    pub hash: Option<String>,
}

/// Selects entries by kind of actor, or by one user or key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorFilter {
    Kind(String),
    Id(Uuid),
}

/// Which entries to list; `before` is the position of the last one listed.
#[derive(Debug, Default, Clone)]
pub struct Filter {
    pub organization_id: Option<Uuid>,
    pub action: Option<String>,
    pub actor: Option<ActorFilter>,
    pub resource_type: Option<String>,
    pub from: Option<jiff::Timestamp>,
    pub to: Option<jiff::Timestamp>,
    pub before: Option<Position>,
}

/// An entry's position in the list: by time and, within a microsecond, by its
/// sequence number in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "CursorPosition", into = "CursorPosition")]
pub struct Position {
    created_at: jiff::Timestamp,
    /// 0 for an entry outside the chain.
    sequence: i64,
    id: Uuid,
}

/// A position as written in a cursor. Cursors of older versions have no sequence.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum CursorPosition {
    Chained(jiff::Timestamp, i64, Uuid),
    Unchained(jiff::Timestamp, Uuid),
}

impl From<CursorPosition> for Position {
    fn from(cursor: CursorPosition) -> Self {
        let (created_at, sequence, id) = match cursor {
            CursorPosition::Chained(created_at, sequence, id) => (created_at, sequence, id),
            // Repeats the entries of that microsecond rather than missing one.
            CursorPosition::Unchained(created_at, id) => (created_at, i64::MAX, id),
        };
        Self {
            created_at,
            sequence,
            id,
        }
    }
}

impl From<Position> for CursorPosition {
    fn from(position: Position) -> Self {
        Self::Chained(position.created_at, position.sequence, position.id)
    }
}

impl Entry {
    pub fn position(&self) -> Position {
        Position {
            created_at: self.created_at,
            sequence: self.sequence.unwrap_or(0),
            id: self.id,
        }
    }
}

/// Lists up to `limit` entries, newest first.
pub async fn list(
    conn: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Entry>, sqlx::Error> {
    let before = filter.before;
    let (actor_type, actor_id) = match &filter.actor {
        None => (None, None),
        Some(ActorFilter::Kind(kind)) => (Some(kind), None),
        Some(ActorFilter::Id(id)) => (None, Some(*id)),
    };
    let rows = sqlx::query!(
        r#"SELECT l.id, l.organization_id, l.sequence, l.action, l.actor_type, l.actor_id,
                  l.resource_type, l.resource_id, l.before_state, l.after_state, l.metadata,
                  abbrev(coalesce(p.ip_address, l.ip_address)) AS ip_address,
                  coalesce(p.user_agent, l.user_agent) AS user_agent, p.reason AS "reason?",
                  l.created_at, encode(l.hash, 'hex') AS hash
             FROM (SELECT * FROM billing_audit_log
                    WHERE ($1::uuid IS NULL OR organization_id = $1)
                      AND ($2::text IS NULL OR action = $2)
                      AND ($3::text IS NULL OR resource_type = $3)
                      AND ($4::timestamptz IS NULL OR created_at >= $4)
                      AND ($5::timestamptz IS NULL OR created_at < $5)
                      AND ($6::timestamptz IS NULL OR created_at <= $6)
                      AND ($6::timestamptz IS NULL
                           OR (created_at, coalesce(sequence, 0), id) < ($6, $11, $7))
                      AND ($9::text IS NULL OR actor_type = $9)
                      AND ($10::uuid IS NULL OR actor_id = $10)
                    ORDER BY created_at DESC, coalesce(sequence, 0) DESC, id DESC LIMIT $8) l
             -- As in chains.rs.
             LEFT JOIN LATERAL (
               SELECT ip_address, user_agent, reason FROM billing_audit_personal_data d
                WHERE d.organization_id = l.organization_id AND d.entry_id = l.id OFFSET 0) p ON true
            ORDER BY l.created_at DESC, coalesce(l.sequence, 0) DESC, l.id DESC"#,
        filter.organization_id,
        filter.action,
        filter.resource_type,
        filter.from.map(|t| t.to_sqlx()) as _,
        filter.to.map(|t| t.to_sqlx()) as _,
        before.map(|at| at.created_at.to_sqlx()) as _,
        before.map(|at| at.id),
        limit,
        actor_type,
        actor_id,
        before.map(|at| at.sequence)
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Entry {
            id: row.id,
            organization_id: row.organization_id,
            sequence: row.sequence,
            action: row.action,
            actor_type: row.actor_type,
            actor_id: row.actor_id,
            resource_type: row.resource_type,
            resource_id: row.resource_id,
            before_state: row.before_state,
            after_state: row.after_state,
            metadata: row.metadata,
            ip_address: row.ip_address,
            user_agent: row.user_agent,
            reason: row.reason,
            created_at: row.created_at.to_jiff(),
            hash: row.hash,
        })
        .collect())
}

/// The size of the log in the database, with indexes and personal data.
pub async fn bytes(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT pg_total_relation_size('billing_audit_log')
                + pg_total_relation_size('billing_audit_personal_data') AS "bytes!""#
    )
    .fetch_one(conn)
    .await
}

/// Erases what is personal of an organization's entries. Under the lock, the entry that
/// says so comes after all of them.
pub async fn erase_personal_data(
    tx: &mut TenantTx,
    _locked: &LockedChains,
) -> Result<u64, sqlx::Error> {
    let organization_id = tx.organization_id();
    let erased = sqlx::query!(
        "DELETE FROM billing_audit_personal_data WHERE organization_id = $1",
        organization_id
    );
    Ok(erased.execute(tx.conn()).await?.rows_affected())
}

/// Counts a change of the organizations' state that no audit entry records, so that the
/// state's version rises all the same.
pub async fn count_unentered(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH counted AS (
           UPDATE organizations SET unentered_changes = unentered_changes + 1 WHERE id = ANY($1)
           RETURNING id)
         INSERT INTO outbound_changes (organization_id)
         SELECT id FROM counted
          WHERE (SELECT auth.get_current_org_id()) IS NOT NULL
             OR EXISTS (SELECT FROM outbound_endpoints)",
        organizations
    )
    .execute(conn)
    .await?;
    Ok(())
}
