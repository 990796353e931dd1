//! Credentials looked up together: those that are presented while one look-up
//! is under way share the next. Nothing is remembered, so that what is revoked
//! is refused at once.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool};
use tokio::sync::{mpsc, oneshot};

use super::store::{self, KeyRow, SessionRow};
use super::token::{Hash, Presented};
use crate::db;
use crate::error::Problem;

/// How many requests wait at most, and how many share a look-up.
const QUEUE: usize = 4_096;
const LARGEST_GROUP: usize = 512;
/// A look-up that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a credential stands for.
#[derive(Debug, Clone)]
pub enum Found {
    Session(SessionRow),
    Key(KeyRow),
}

#[derive(Debug, Clone, Copy)]
pub enum LookupError {
    /// The database is away.
    Outage,
    /// What it was is logged.
    Failed,
}

impl From<LookupError> for Problem {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Outage => Self::unavailable(
                "database_unavailable",
                "the database cannot answer at the moment; try again",
            ),
            LookupError::Failed => Self::internal(),
        }
    }
}

type Answer = Result<Option<Found>, LookupError>;

struct Asked {
    presented: Presented,
    answer: oneshot::Sender<Answer>,
}

/// Where credentials are asked about.
#[derive(Clone)]
pub struct Lookup {
    queue: mpsc::Sender<Asked>,
}

impl Lookup {
    /// `pool` has connections that are billing_worker from the start. The task
    /// behind it ends with the last clone.
    pub fn new(pool: PgPool) -> Self {
        let (queue, asked) = mpsc::channel(QUEUE);
        tokio::spawn(run(pool, asked));
        Self { queue }
    }

    /// What the credential stands for now; None: nothing.
    pub async fn find(&self, presented: Presented) -> Answer {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { presented, answer };
        self.queue
            .try_send(asked)
            .map_err(|_| LookupError::Outage)?;
        answered.await.unwrap_or(Err(LookupError::Outage))
    }
}

async fn run(pool: PgPool, mut queue: mpsc::Receiver<Asked>) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, LARGEST_GROUP).await > 0 {
        let looking = tokio::time::timeout(PATIENCE, look_up(&pool, &group));
        let found = looking.await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let found = found.map_err(|error| {
            if db::is_outage(&error) || db::is_timeout(&error) {
                tracing::warn!(%error, "credentials cannot be checked for now");
                LookupError::Outage
            } else {
                tracing::error!(%error, "credentials could not be checked");
                LookupError::Failed
            }
        });
        for asked in group.drain(..) {
            let answer = match &found {
                Ok(found) => Ok(found.get(&asked.presented.hash()).cloned()),
                Err(error) => Err(*error),
            };
            let _ = asked.answer.send(answer);
        }
        if let Ok(found) = found
            && let Err(error) = note_use(&pool, &found).await
        {
            tracing::warn!(%error, "the use of credentials could not be noted");
        }
    }
}

type Finds = HashMap<Hash, Found>;

async fn look_up(pool: &PgPool, group: &[Asked]) -> Result<Finds, sqlx::Error> {
    match try_look_up(pool, group).await {
        // A connection that died with the server it led to.
        Err(error) if db::is_outage(&error) => try_look_up(pool, group).await,
        found => found,
    }
}

async fn try_look_up(pool: &PgPool, group: &[Asked]) -> Result<Finds, sqlx::Error> {
    let (mut sessions, mut keys) = (Vec::new(), Vec::new());
    for asked in group {
        match asked.presented {
            Presented::Session(hash) => sessions.push(hash),
            Presented::Key(hash) => keys.push(hash),
        }
    }
    let mut conn = pool.acquire().await?;
    let mut found = Finds::new();
    if !sessions.is_empty() {
        let rows = store::sessions(&mut conn, &distinct(sessions)).await?;
        let rows = rows.into_iter();
        found.extend(rows.map(|(hash, row)| (hash, Found::Session(row))));
    }
    if !keys.is_empty() {
        let rows = store::keys_of_hashes(&mut conn, &distinct(keys)).await?;
        let rows = rows.into_iter();
        found.extend(rows.map(|(hash, row)| (hash, Found::Key(row))));
    }
    Ok(found)
}

fn distinct(mut hashes: Vec<Hash>) -> Vec<Hash> {
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// Notes the use of those whose last one is long ago.
async fn note_use(pool: &PgPool, found: &Finds) -> Result<(), sqlx::Error> {
    let stale = found.iter().filter(|(_, found)| match found {
        Found::Session(row) => row.stale,
        Found::Key(row) => row.stale,
    });
    let stale: Vec<(&Hash, &Found)> = stale.collect();
    if stale.is_empty() {
        return Ok(());
    }
    let mut conn: sqlx::pool::PoolConnection<sqlx::Postgres> = pool.acquire().await?;
    for (hash, found) in stale {
        let conn: &mut PgConnection = &mut conn;
        match found {
            Found::Session(_) => store::touch_session(conn, hash).await?,
            Found::Key(row) => store::touch_key(conn, row.organization_id, row.id).await?,
        }
    }
    Ok(())
}
