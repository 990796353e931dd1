//! States that were read before, as they are sent. Each holds for one version, and is
//! asked for after the version was looked up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::document::Document;
use crate::server::problem::Problem;

/// The organizations that are remembered lie between this and twice as many.
const KEPT: usize = 2_048;
/// A larger one is read each time.
const LARGEST: usize = 16 * 1024;

/// A state as it is sent.
#[derive(Debug, Clone)]
pub struct Read {
    pub version: i64,
    pub body: Bytes,
    /// An entity tag, in quotes.
    pub tag: String,
    /// When something in it ends by itself, without a change.
    until: Option<Timestamp>,
}

impl Read {
    pub fn of(document: &Document) -> Result<Self, Problem> {
        let body = serde_json::to_vec(document).map_err(|error| {
            tracing::error!(%error, "a state cannot be written as JSON");
            Problem::internal()
        })?;
        let version = document.state_version;
        let digest = hex::encode(&Sha256::digest(&body)[..8]);
        Ok(Self {
            version,
            tag: format!("\"{version}-{digest}\""),
            body: body.into(),
            until: document.until,
        })
    }
}

#[derive(Debug, Default)]
pub struct Cache(Mutex<Generations>);

/// Who is asked for moves to the younger generation; when that is full, the older one is
/// forgotten.
#[derive(Debug, Default)]
struct Generations {
    younger: HashMap<Uuid, Read>,
    older: HashMap<Uuid, Read>,
}

impl Generations {
    fn put(&mut self, organization_id: Uuid, read: Read) {
        if self.younger.len() >= KEPT && !self.younger.contains_key(&organization_id) {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(organization_id, read);
    }
}

impl Cache {
    pub fn get(&self, organization_id: Uuid, version: i64, now: Timestamp) -> Option<Read> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer one was read meanwhile by somebody else who asked.
        let holds = |read: &Read| read.version >= version && read.until.is_none_or(|at| now < at);
        if let Some(read) = kept.younger.get(&organization_id) {
            return holds(read).then(|| read.clone());
        }
        let read = kept.older.remove(&organization_id)?;
        if !holds(&read) {
            return None;
        }
        kept.put(organization_id, read.clone());
        Some(read)
    }

    pub fn put(&self, organization_id: Uuid, read: Read) {
        if read.body.len() <= LARGEST {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.put(organization_id, read);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    fn read(version: i64, until: Option<Timestamp>) -> Read {
        Read {
            version,
            body: Bytes::from_static(b"{}"),
            tag: "\"1\"".to_owned(),
            until,
        }
    }

    #[test]
    fn a_state_holds_for_its_version_and_until_something_in_it_ends() {
        let cache = Cache::default();
        let (id, now) = (Uuid::from_u128(1), Timestamp::UNIX_EPOCH);
        let end = now + 1.minute();
        cache.put(id, read(7, Some(end)));
        assert!(cache.get(id, 7, now).is_some());
        assert!(cache.get(id, 8, now).is_none());
        assert!(cache.get(id, 7, end).is_none());
        assert!(cache.get(Uuid::from_u128(2), 7, now).is_none());
    }

    #[test]
    fn those_that_nobody_asks_for_are_forgotten() {
        let cache = Cache::default();
        let now = Timestamp::UNIX_EPOCH;
        let id = |n: usize| Uuid::from_u128(n as u128);
        let asked = id(0);
        cache.put(asked, read(1, None));
        for n in 1..=4 * KEPT {
            cache.put(id(n), read(1, None));
            assert!(cache.get(asked, 1, now).is_some(), "{n}");
        }
        assert!(cache.get(id(1), 1, now).is_none());
        let kept = cache.0.lock().unwrap();
        assert!(kept.younger.len() + kept.older.len() <= 2 * KEPT);
    }

    #[test]
    fn a_large_one_is_not_kept() {
        let cache = Cache::default();
        let large = Read {
            body: vec![b' '; LARGEST + 1].into(),
            ..read(1, None)
        };
        cache.put(Uuid::nil(), large);
        assert!(cache.get(Uuid::nil(), 1, Timestamp::UNIX_EPOCH).is_none());
    }
}
