//! `audit repair`: sets a chain's head to match its entries, and appends an
//! entry that says so. Entries are never changed.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::personal::PersonalData;
use super::store::repair as sql;
use super::store::{self, Head, Link};
use super::verify::{Break, ChainWalk, LINKS_AT_ONCE, entry_hash};
use super::{Actor, NewEntry, initiator};

/// An entry that does not follow from its predecessor, as it was when the
/// database owner accepted it. A different entry in its place is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct AcceptedFlaw {
    sequence: i64,
    hash: String,
    /// A hash of the entry's fields alone.
    digest: String,
    /// The digest of its personal data as they were then, if it had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    personal: Option<String>,
}

impl AcceptedFlaw {
    pub fn of(link: &Link) -> Self {
        Self {
            sequence: link.sequence,
            hash: hex::encode(&link.hash),
            digest: hex::encode(entry_hash(&[], &link.fields)),
            personal: link.personal.as_ref().map(PersonalData::digest),
        }
    }
}

/// The flaws that earlier repairs of the chain accepted.
pub(super) async fn accepted(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<HashSet<AcceptedFlaw>, sqlx::Error> {
    let found = sql::accepted(conn, organization_id).await?;
    let parse = |value| serde_json::from_value(value).ok();
    Ok(found.into_iter().filter_map(parse).collect())
}

/// The result of a repair.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repaired {
    pub organization_id: Uuid,
    /// The head's sequence number before; null if there was no head.
    pub head_before: Option<i64>,
    /// The last entry's sequence number.
    pub head: i64,
    /// Flaws that remain in the chain; `audit verify` lists them as repaired
    /// from now on.
    pub accepted: Vec<Break>,
    /// The sequence number of the entry about the repair.
    pub entry: i64,
}

/// Sets a chain's head to match its entries and appends an entry about it;
/// returns `None` if nothing needs repair. Needs a transaction of the database
/// owner's login.
///
/// # Errors
/// If the database refuses, as it does to anyone but the owner.
pub async fn repair(
    conn: &mut PgConnection,
    organization_id: Uuid,
    reason: Option<&str>,
) -> Result<Option<Repaired>, sqlx::Error> {
    sql::become_owner(&mut *conn).await?;
    let before = sql::lock_head(&mut *conn, organization_id).await?;
    let head = sql::head_by_entries(&mut *conn, organization_id).await?;
    let (breaks, accepted) = flaws(&mut *conn, organization_id).await?;
    let matches = before.as_ref().map_or(head.last_sequence == 0, |before| {
        (before.last_sequence, &before.last_hash) == (head.last_sequence, &head.last_hash)
    });
    if matches && accepted.is_empty() {
        return Ok(None);
    }
    if !matches {
        sql::set_head(&mut *conn, &head).await?;
    }
    let problems: Vec<&str> = breaks.iter().map(|found| found.problem.as_str()).collect();
    let mut metadata = json!({"problems": problems, "accepted": accepted});
    if let Some(reason) = reason {
        metadata["reason"] = json!(reason);
    }
    let entry = sql::append_repair(
        conn,
        organization_id,
        &before.as_ref().map_or(Value::Null, state_of),
        &state_of(&head),
        &with_initiator(organization_id, metadata),
    )
    .await?;
    Ok(Some(Repaired {
        organization_id,
        head_before: before.map(|before| before.last_sequence),
        head: head.last_sequence,
        accepted: breaks,
        entry,
    }))
}

fn state_of(head: &Head) -> Value {
    json!({"lastSequence": head.last_sequence, "lastHash": hex::encode(&head.last_hash)})
}

/// The metadata with the command's initiator.
fn with_initiator(organization_id: Uuid, metadata: Value) -> Value {
    initiator::metadata(&NewEntry {
        organization_id,
        action: "audit_chain_repaired",
        actor: Actor::System,
        resource_type: "audit_chain",
        resource_id: organization_id.to_string(),
        before: None,
        after: None,
        metadata,
        client: None,
        reason: None,
    })
}

/// Finds all entries that do not follow from their predecessor and that no
/// earlier repair accepted.
async fn flaws(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<(Vec<Break>, Vec<AcceptedFlaw>), sqlx::Error> {
    let known = accepted(&mut *conn, organization_id).await?;
    let erased_through = store::erased_through(&mut *conn, organization_id).await?;
    let mut walk = ChainWalk::new(erased_through);
    let (mut breaks, mut flawed) = (Vec::new(), Vec::new());
    let mut after = 0;
    loop {
        let links = store::links(&mut *conn, organization_id, after, LINKS_AT_ONCE).await?;
        let Some(last) = links.last() else {
            return Ok((breaks, flawed));
        };
        after = last.sequence;
        for link in &links {
            let Some((sequence, problem)) = walk.step(link) else {
                continue;
            };
            let flaw = AcceptedFlaw::of(link);
            if !known.contains(&flaw) {
                flawed.push(flaw);
                breaks.push(Break {
                    organization_id,
                    sequence,
                    problem,
                });
            }
            walk.resume_after(link, sql::MAX_SEQUENCE);
        }
    }
}
