//! Batched reads: keys that are asked for while one query runs share the next. Nothing
//! is cached, so every answer is read after its question was asked.

use std::collections::HashMap;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::db;

/// How many wait at most, and how many share a read.
const QUEUE: usize = 4_096;
const LARGEST_GROUP: usize = 512;
/// A read that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many connections those who look up have at most.
const IDLE_MOST: usize = 2;

/// What a group's read ended with; everyone in it is told.
pub type Answer<V> = Result<Option<V>, Arc<sqlx::Error>>;

struct Asked<K, V> {
    key: K,
    answer: oneshot::Sender<Answer<V>>,
}

/// Where values are asked for by their key.
pub struct Grouped<K, V> {
    queue: mpsc::Sender<Asked<K, V>>,
}

impl<K, V> Clone for Grouped<K, V> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<K, V> Grouped<K, V>
where
    K: Clone + Ord + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// `read` finds the values of distinct keys. The task behind it ends with
    /// the last clone.
    pub fn new<F>(read: F) -> Self
    where
        F: Fn(Vec<K>) -> BoxFuture<'static, Result<HashMap<K, V>, sqlx::Error>>
            + Send
            + Sync
            + 'static,
    {
        let (queue, asked) = mpsc::channel(QUEUE);
        tokio::spawn(run(read, asked));
        Self { queue }
    }

    /// The current value of `key`; `None` if there is none.
    pub async fn find(&self, key: K) -> Answer<V> {
        let (answer, answered) = oneshot::channel();
        let crowded = || Err(Arc::new(sqlx::Error::PoolTimedOut));
        if self.queue.try_send(Asked { key, answer }).is_err() {
            return crowded();
        }
        answered.await.unwrap_or_else(|_| crowded())
    }
}

async fn run<K, V, F>(read: F, mut queue: mpsc::Receiver<Asked<K, V>>)
where
    K: Clone + Ord + Hash,
    V: Clone,
    F: Fn(Vec<K>) -> BoxFuture<'static, Result<HashMap<K, V>, sqlx::Error>>,
{
    let mut group = Vec::new();
    while queue.recv_many(&mut group, LARGEST_GROUP).await > 0 {
        let mut keys: Vec<K> = group.iter().map(|asked| asked.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        // A read that panics is an error of those who asked, and nobody else's.
        let reading = AssertUnwindSafe(read_through(&read, keys)).catch_unwind();
        let found = match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(sqlx::Error::WorkerCrashed),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        };
        let found = found.map_err(Arc::new);
        for asked in group.drain(..) {
            let answer = match &found {
                Ok(found) => Ok(found.get(&asked.key).cloned()),
                Err(error) => Err(error.clone()),
            };
            let _ = asked.answer.send(answer);
        }
    }
}

/// Reads, again where it met a connection that died with the server it led to:
/// all that idle may have.
async fn read_through<K, V, F>(read: &F, keys: Vec<K>) -> Result<HashMap<K, V>, sqlx::Error>
where
    K: Clone,
    F: Fn(Vec<K>) -> BoxFuture<'static, Result<HashMap<K, V>, sqlx::Error>>,
{
    for _ in 0..IDLE_MOST {
        match read(keys.clone()).await {
            // One that is waited for in vain will not come sooner.
            Err(sqlx::Error::PoolTimedOut) => return Err(sqlx::Error::PoolTimedOut),
            Err(error) if db::is_outage(&error) => {}
            found => return found,
        }
    }
    read(keys).await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn those_that_wait_share_a_read_and_each_has_its_own() {
        let groups = Arc::new(Mutex::new(Vec::new()));
        let seen = groups.clone();
        let doubled = Grouped::new(move |keys: Vec<u32>| {
            seen.lock().unwrap().push(keys.clone());
            Box::pin(async move {
                tokio::task::yield_now().await;
                let known = keys.into_iter().filter(|key| key % 2 == 0);
                Ok(known.map(|key| (key, 2 * key)).collect())
            })
        });
        let answers = join_all((0..100).map(|n| doubled.find(n % 10))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            let key = u32::try_from(n % 10).unwrap();
            assert_eq!(answer.unwrap(), (key % 2 == 0).then_some(2 * key));
        }
        let groups = groups.lock().unwrap();
        assert!(groups.len() < 100, "{groups:?}");
        assert!(groups.iter().all(|keys| keys.is_sorted()));
    }

    #[tokio::test]
    async fn a_read_that_panics_is_not_the_last() {
        let doubled = Grouped::new(|keys: Vec<u32>| {
            Box::pin(async move {
                assert!(!keys.contains(&0), "no such key");
                Ok(keys.into_iter().map(|key| (key, 2 * key)).collect())
            })
        });
        assert!(doubled.find(0).await.is_err());
        assert_eq!(doubled.find(4).await.unwrap(), Some(8));
    }

    #[tokio::test]
    async fn an_error_is_everyones() {
        let failing =
            Grouped::<u32, u32>::new(|_| Box::pin(async { Err(sqlx::Error::RowNotFound) }));
        let answers = join_all((0..3).map(|n| failing.find(n))).await;
        assert!(answers.iter().all(Result::is_err));
    }
}
