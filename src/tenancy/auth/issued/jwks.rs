//! Where the issuer's keys are: read in the background before they are old, and for a key
//! that nobody knows, but then seldom, however many ask. While the host is down the last
//! keys are used, for a while.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use reqwest::{Client, StatusCode, Url};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::keys::{Key, KeySet};
use crate::config;
use crate::http_client;
use crate::telemetry::metrics;

/// Time between looks whether the keys are to be read again.
pub const POLL: Duration = Duration::from_secs(15);
/// When keys are read again.
const OLD_AFTER: Duration = Duration::from_secs(300);
/// How long keys are used that could not be read again.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Time between reads for keys that nobody knows, which strangers can name.
const ASKED_EVERY: Duration = Duration::from_secs(10);
/// How long a read may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a set at most.
const LARGEST: usize = 256 * 1024;

/// Why there is no key.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    Unknown,
    /// None was ever read, or too long ago.
    NoKeys,
}

pub struct Jwks {
    client: Client,
    url: Url,
    /// What says where they are.
    of: &'static str,
    held: RwLock<Held>,
    /// Held by the one that reads; it has when keys were last read for a request.
    reading: Arc<Mutex<Option<Instant>>>,
}

#[derive(Default)]
struct Held {
    /// With when they were read.
    keys: Option<(Arc<KeySet>, Instant)>,
    failed: bool,
}

impl Jwks {
    pub fn new(url: Url, of: &'static str) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: client(&url)?,
            url,
            of,
            held: RwLock::default(),
            reading: Arc::default(),
        })
    }

    /// The key of this name, which is looked for at the issuer's if it is not known.
    pub async fn find(
        self: &Arc<Self>,
        id: &str,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, Missing> {
        if let Some(key) = self.usable().and_then(|keys| keys.find(id, algorithm)) {
            return Ok(key);
        }
        self.read_seldom().await;
        let keys = self.usable().ok_or(Missing::NoKeys)?;
        keys.find(id, algorithm).ok_or(Missing::Unknown)
    }

    /// The same where nobody but the issuer names keys: one that is not known is looked for at
    /// once.
    pub async fn find_named_by_issuer(
        &self,
        id: &str,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, Missing> {
        if let Some(key) = self.usable().and_then(|keys| keys.find(id, algorithm)) {
            return Ok(key);
        }
        let _reading = self.reading.lock().await;
        if let Err(error) = self.read().await {
            tracing::warn!(%error, of = self.of, "The keys of an issuer could not be read");
        }
        let keys = self.usable().ok_or(Missing::NoKeys)?;
        keys.find(id, algorithm).ok_or(Missing::Unknown)
    }

    fn usable(&self) -> Option<Arc<KeySet>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let (keys, read_at) = held.keys.as_ref()?;
        (read_at.elapsed() < KEPT_FOR).then(|| keys.clone())
    }

    /// Reads the keys, unless that was done a moment ago. Those who come meanwhile wait for
    /// the one that reads, which goes on where its request is gone: who hangs up at once
    /// would have it begin anew each time.
    async fn read_seldom(self: &Arc<Self>) {
        let mut asked_at = self.reading.clone().lock_owned().await;
        if asked_at.is_some_and(|at| at.elapsed() < ASKED_EVERY) {
            return;
        }
        *asked_at = Some(Instant::now());
        let jwks = self.clone();
        let reading = tokio::spawn(async move {
            if let Err(error) = jwks.read().await {
                tracing::warn!(%error, of = jwks.of, "The keys of an issuer could not be read");
            }
            drop(asked_at);
        });
        let _ = reading.await;
    }

    /// Reads the keys if they are old, or could not be read the last time.
    pub async fn refresh_if_due(&self) -> Result<(), String> {
        let due = || {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            let read_at = held.keys.as_ref().map(|(_, read_at)| read_at.elapsed());
            held.failed || read_at.is_none_or(|age| age >= OLD_AFTER)
        };
        if !due() {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        if due() { self.read().await } else { Ok(()) }
    }

    async fn read(&self) -> Result<(), String> {
        let read = read(&self.client, &self.url).await;
        metrics::signing_keys_read(read.is_ok());
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.failed = read.is_err();
        held.keys = match read {
            Ok(keys) => Some((Arc::new(keys), Instant::now())),
            Err(error) => return Err(error),
        };
        Ok(())
    }
}

/// Reads the keys once, for `doctor`: how many can be used.
pub async fn fetch(url: &Url) -> Result<usize, String> {
    let client = client(url).map_err(http_client::reason)?;
    read(&client, url).await.map(|keys| keys.len())
}

fn client(url: &Url) -> Result<Client, reqwest::Error> {
    if config::is_loopback(url) {
        http_client::direct_client()
    } else {
        http_client::http_client()
    }
}

async fn read(client: &Client, url: &Url) -> Result<KeySet, String> {
    let request = client.get(url.clone()).timeout(TIMEOUT);
    let request = request.header("accept", "application/jwk-set+json, application/json");
    let mut answer = request.send().await.map_err(http_client::reason)?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(http_client::reason)? {
        if body.len() + piece.len() > LARGEST {
            return Err(format!("what it answers is longer than {LARGEST} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    KeySet::parse(&body)
}
