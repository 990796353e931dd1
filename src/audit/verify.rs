//! Walking the chains: an entry that was changed, removed or put in behind the
//! database's back is found.

use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::store::{self, Head, Link};

const LINKS_AT_ONCE: i64 = 1_000;

/// The fields of an entry in the order in which they are hashed, as
/// PostgreSQL prints them; times are microseconds since 1970.
pub type Fields = [Option<String>; 14];

/// `sha256(previous hash, each field as length:text, or - where null)`: the
/// same as the database's billing_audit_entry_hash, computed apart from it, so
/// that a function replaced there deceives nobody here.
pub fn entry_hash(previous: &[u8], fields: &Fields) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(previous);
    for field in fields {
        match field {
            Some(text) => hasher.update(format!("{}:{text}", text.len())),
            None => hasher.update("-"),
        }
    }
    hasher.finalize().into()
}

/// What is wrong with one organization's chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Break {
    pub organization_id: Uuid,
    /// Where the chain breaks.
    pub sequence: i64,
    pub problem: String,
}

/// The result of walking the chains.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub chains: u64,
    pub entries: u64,
    /// At most one for each chain: what follows a break proves nothing.
    pub breaks: Vec<Break>,
    /// Organizations that no entry is about: the chains say nothing of them.
    pub organizations_without_entries: u64,
}

impl Report {
    /// Whether the chains prove anything, and hold. A log without an entry,
    /// where there are organizations, was never written or was thrown away.
    pub fn holds(&self) -> bool {
        self.breaks.is_empty() && !(self.entries == 0 && self.organizations_without_entries > 0)
    }
}

/// Walks every chain, or that of one organization. The connection must be in a
/// transaction that sees one state of the database.
pub async fn verify(conn: &mut PgConnection, only: Option<Uuid>) -> Result<Report, sqlx::Error> {
    let mut report = Report {
        organizations_without_entries: store::without_entries(conn, only).await?,
        ..Report::default()
    };
    for head in store::heads(conn, only).await? {
        report.chains += 1;
        let mut walk = Walk::new();
        let problem = loop {
            let links =
                store::links(conn, head.organization_id, walk.sequence, LINKS_AT_ONCE).await?;
            if links.is_empty() {
                break walk.end(&head);
            }
            report.entries += links.len() as u64;
            if let Some(problem) = links.iter().find_map(|link| walk.step(link)) {
                break Some(problem);
            }
        };
        report
            .breaks
            .extend(problem.map(|(sequence, problem)| Break {
                organization_id: head.organization_id,
                sequence,
                problem,
            }));
    }
    Ok(report)
}

/// How far a chain was followed.
struct Walk {
    sequence: i64,
    hash: Vec<u8>,
}

type Problem = (i64, String);

impl Walk {
    fn new() -> Self {
        Self {
            sequence: 0,
            hash: Sha256::digest(b"").to_vec(),
        }
    }

    fn step(&mut self, link: &Link) -> Option<Problem> {
        let expected = self.sequence + 1;
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
