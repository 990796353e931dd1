//! Verifies the chains: finds entries that were changed, removed or inserted by
//! someone with direct access to the database.

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::personal;
use super::repair::{self, AcceptedFlaw};
use super::store::{self, Head, Link};
use crate::db::WorkerTx;

pub(super) const LINKS_AT_ONCE: i64 = 1_000;

/// The action of the entry that says that all personal data before it were erased.
pub const ERASED: &str = "organization_erased";

/// The fields of an entry in hashing order, as PostgreSQL prints them; times
/// are microseconds since 1970.
pub type Fields = [Option<String>; 14];

/// `sha256(previous hash, each field as length:text, or - where null)`, like the
/// database's billing_audit_entry_hash. It is computed independently, so that
/// replacing the function in the database cannot hide a change.
pub fn entry_hash(previous: &[u8], fields: &Fields) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(previous);
    hash_fields(&mut hasher, fields);
    hasher.finalize().into()
}

pub(super) fn hash_fields(hasher: &mut Sha256, fields: &[Option<String>]) {
    for field in fields {
        match field {
            Some(text) => hasher.update(format!("{}:{text}", text.len())),
            None => hasher.update("-"),
        }
    }
}

/// A break in an organization's chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Break {
    pub organization_id: Uuid,
    /// The sequence number at which the chain breaks.
    pub sequence: i64,
    pub problem: String,
}

/// The result of a verification.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub chains: u64,
    pub entries: u64,
    /// At most one for each chain, because entries after a break prove nothing.
    pub breaks: Vec<Break>,
    /// Breaks that the database owner accepted with `audit repair`.
    pub repaired: Vec<Break>,
    /// Entries whose addresses are in the chain, where `organizations erase` cannot reach
    /// them: appended by a version, or a function, from before personal data stood apart.
    pub entries_with_addresses: u64,
    /// Rows of personal data that belong to no entry of a chain.
    pub stray_personal_data: u64,
    /// Organizations without entries, about which the chains prove nothing.
    pub organizations_without_entries: u64,
}

impl Report {
    /// Whether the chains are intact and prove something. An empty log beside
    /// existing organizations was never written, or was discarded.
    pub fn holds(&self) -> bool {
        self.breaks.is_empty() && !(self.entries == 0 && self.organizations_without_entries > 0)
    }
}

/// Verifies one organization's chain at once; none: it has more than `most` entries.
pub async fn verify_now(
    pool: &PgPool,
    organization_id: Uuid,
    most: i64,
) -> Result<Option<Report>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::snapshot(tx.conn()).await?;
    let heads = store::heads(tx.conn(), Some(organization_id)).await?;
    if heads.iter().any(|head| head.last_sequence > most) {
        return Ok(None);
    }
    let report = verify(tx.conn(), Some(organization_id)).await?;
    tx.rollback().await?;
    Ok(Some(report))
}

/// Verifies every chain, or that of one organization. The transaction must see a
/// single snapshot of the database.
pub async fn verify(conn: &mut PgConnection, only: Option<Uuid>) -> Result<Report, sqlx::Error> {
    let mut report = Report {
        organizations_without_entries: store::without_entries(conn, only).await?,
        stray_personal_data: store::stray_personal_data(conn, only).await?,
        ..Report::default()
    };
    for head in store::heads(conn, only).await? {
        report.chains += 1;
        if let Some((sequence, problem)) = walk(conn, &head, &mut report).await? {
            report.breaks.push(Break {
                organization_id: head.organization_id,
                sequence,
                problem,
            });
        }
    }
    Ok(report)
}

/// Follows a chain to its end or its first break.
async fn walk(
    conn: &mut PgConnection,
    head: &Head,
    report: &mut Report,
) -> Result<Option<Problem>, sqlx::Error> {
    let organization_id = head.organization_id;
    let erased_through = store::erased_through(conn, organization_id).await?;
    let mut walk = ChainWalk::new(erased_through);
    // Read on demand, since few chains have any.
    let mut accepted = None;
    let mut after = 0;
    loop {
        let links = store::links(conn, organization_id, after, LINKS_AT_ONCE).await?;
        let Some(last) = links.last() else {
            return Ok(walk.end(head));
        };
        after = last.sequence;
        report.entries += links.len() as u64;
        report.entries_with_addresses +=
            links.iter().filter(|link| link.has_addresses()).count() as u64;
        for link in &links {
            let Some((sequence, problem)) = walk.step(link) else {
                continue;
            };
            if accepted.is_none() {
                accepted = Some(repair::accepted(conn, organization_id).await?);
            }
            let known = accepted.as_ref();
            if !known.is_some_and(|known| known.contains(&AcceptedFlaw::of(link))) {
                return Ok(Some((sequence, problem)));
            }
            report.repaired.push(Break {
                organization_id,
                sequence,
                problem,
            });
            walk.resume_after(link, head.last_sequence);
        }
    }
}

/// The position reached while following a chain.
pub(super) struct ChainWalk {
    sequence: i64,
    hash: Vec<u8>,
    erased_through: i64,
}

pub(super) type Problem = (i64, String);

impl ChainWalk {
    /// Of a chain whose personal data were erased up to the entry `erased_through`.
    pub fn new(erased_through: i64) -> Self {
        Self {
            sequence: 0,
            hash: Sha256::digest(b"").to_vec(),
            erased_through,
        }
    }

    /// Resumes after an entry that does not follow, unless it lies beyond `last`.
    pub fn resume_after(&mut self, link: &Link, last: i64) {
        if link.sequence <= last {
            self.sequence = link.sequence;
            self.hash.clone_from(&link.hash);
        }
    }

    /// Advances to `link`, or says why it does not follow, or what is wrong with its
    /// personal data.
    pub fn step(&mut self, link: &Link) -> Option<Problem> {
        let expected = self.sequence.saturating_add(1);
        if link.sequence != expected {
            return Some((
                expected,
                format!("entries {expected} to {} were removed", link.sequence - 1),
            ));
        }
        if entry_hash(&self.hash, &link.fields)[..] != link.hash[..] {
            return Some((
                expected,
                format!("entry {expected} was changed, or one before it replaced"),
            ));
        }
        if let Some(problem) = personal::problem(link, self.erased_through) {
            return Some((expected, problem));
        }
        self.sequence = link.sequence;
        self.hash.clone_from(&link.hash);
        None
    }

    fn end(&self, head: &Head) -> Option<Problem> {
        if self.sequence < head.last_sequence {
            let first = self.sequence + 1;
            Some((
                first,
                format!(
                    "the chain's last entries, {first} to {}, were removed",
                    head.last_sequence
                ),
            ))
        } else if self.sequence > head.last_sequence {
            Some((
                head.last_sequence + 1,
                format!(
                    "the chain's head was set back to {}, or removed",
                    head.last_sequence
                ),
            ))
        } else if self.hash != head.last_hash {
            Some((
                self.sequence,
                "the chain's head has another hash".to_owned(),
            ))
        } else {
            None
        }
    }
}
