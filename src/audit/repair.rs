//! `audit repair`: a chain whose head is not what its entries say is given the
//! head that they say, and an entry tells of it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::store::mending;
use super::store::{self, Head, Link};
use super::verify::{Break, LINKS_AT_ONCE, Walk, entry_hash};
use super::{Actor, NewEntry, initiator};

/// An entry that does not follow from the one before it, as it was when the
/// owner let the chain go on. Another one in its place is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accepted {
    sequence: i64,
    hash: String,
    /// Of the entry's fields alone.
    digest: String,
}

impl Accepted {
    pub fn of(link: &Link) -> Self {
        Self {
            sequence: link.sequence,
            hash: hex::encode(&link.hash),
            digest: hex::encode(entry_hash(&[], &link.fields)),
        }
    }
}

/// What earlier repairs of the chain accepted.
pub(super) async fn accepted(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Vec<Accepted>, sqlx::Error> {
    let found = mending::accepted(conn, organization_id).await?;
    let read = |value| serde_json::from_value(value).ok();
    Ok(found.into_iter().filter_map(read).collect())
}

/// What a repair did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repaired {
    pub organization_id: Uuid,
    /// Where the head stood; null: there was none.
    pub head_before: Option<i64>,
    /// Where the last entry stands.
    pub head: i64,
    /// What is wrong with the chain, and stays so: `audit verify` shows it as
    /// repaired from now on.
    pub accepted: Vec<Break>,
    /// The entry that says so.
    pub entry: i64,
}

/// Sets the head of a chain to what its entries say, and enters that it did.
/// None: there is nothing to repair. In a transaction of the owner's login.
///
/// # Errors
/// Where the database refuses it, as it does to all but the owner.
pub async fn repair(
    conn: &mut PgConnection,
    organization_id: Uuid,
    reason: Option<&str>,
) -> Result<Option<Repaired>, sqlx::Error> {
    mending::become_owner(&mut *conn).await?;
    let before = mending::lock_head(&mut *conn, organization_id).await?;
    let head = mending::head_by_entries(&mut *conn, organization_id).await?;
    let (breaks, accepted) = flaws(&mut *conn, organization_id).await?;
    let stands = before.as_ref().map_or(head.last_sequence == 0, |before| {
        (before.last_sequence, &before.last_hash) == (head.last_sequence, &head.last_hash)
    });
    if stands && accepted.is_empty() {
        return Ok(None);
    }
    if !stands {
        mending::set_head(&mut *conn, &head).await?;
    }
    let problems: Vec<&str> = breaks.iter().map(|one| one.problem.as_str()).collect();
    let mut metadata = json!({"problems": problems, "accepted": accepted});
    if let Some(reason) = reason {
        metadata["reason"] = json!(reason);
    }
    let entry = mending::enter_repair(
        conn,
        organization_id,
        &before.as_ref().map_or(Value::Null, shown),
        &shown(&head),
        &of_command(organization_id, metadata),
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

fn shown(head: &Head) -> Value {
    json!({"lastSequence": head.last_sequence, "lastHash": hex::encode(&head.last_hash)})
}

/// The metadata, with who runs the command.
fn of_command(organization_id: Uuid, metadata: Value) -> Value {
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
    })
}

/// All entries that do not follow from the one before them, but those that a
/// repair accepted before.
async fn flaws(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<(Vec<Break>, Vec<Accepted>), sqlx::Error> {
    let known = accepted(&mut *conn, organization_id).await?;
    let mut walk = Walk::new();
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
            let flaw = Accepted::of(link);
            if !known.contains(&flaw) {
                flawed.push(flaw);
                breaks.push(Break {
                    organization_id,
                    sequence,
                    problem,
                });
            }
            walk.pass(link, mending::FARTHEST);
        }
    }
}
