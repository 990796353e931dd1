//! What sending comes to, and what is sent next, of all lanes in one transaction: while one
//! is under way, the next one's steps gather.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::schedule;
use super::store::endpoints::{self, Row};
use super::store::lanes::{self, Attempted, Due, Lane};
use crate::db::{self, WorkerTx};

/// A step of a lane.
#[derive(Debug, Clone)]
pub struct Step {
    pub lane: Lane,
    pub attempted: Option<Attempted>,
    /// Whether the lane's next event is wanted. A lane that has none, or goes no further, is
    /// let go of.
    pub goes_on: bool,
}

impl Step {
    pub fn without_attempt(lane: Lane, goes_on: bool) -> Self {
        Self {
            lane,
            attempted: None,
            goes_on,
        }
    }
}

/// What a step has led to.
#[derive(Debug, Default)]
pub struct Stepped {
    /// False: another sender has the lane, and nothing was recorded.
    pub held: bool,
    /// Since when the endpoint fails, if the attempt did.
    pub failing_since: Option<Timestamp>,
    pub next: Option<(Row, Due)>,
}

struct Waiting {
    step: Step,
    reply: oneshot::Sender<Result<Stepped, sqlx::Error>>,
}

pub struct Steps {
    pool: PgPool,
    lease_secs: f64,
    waiting: Mutex<Vec<Waiting>>,
    writing: tokio::sync::Mutex<()>,
}

impl Steps {
    pub fn new(pool: PgPool, lease_secs: f64) -> Self {
        Self {
            pool,
            lease_secs,
            waiting: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Takes a step, together with those that wait beside it. Whoever comes first writes for
    /// all of them.
    pub async fn take(&self, step: Step) -> Result<Stepped, sqlx::Error> {
        let (reply, mut stepped) = oneshot::channel();
        self.waiting().push(Waiting { step, reply });
        tokio::select! {
            biased;
            stepped = &mut stepped => return stepped.unwrap_or(Err(sqlx::Error::WorkerCrashed)),
            _turn = self.writing.lock() => {
                let waiting = std::mem::take(&mut *self.waiting());
                self.answer(waiting).await;
            }
        }
        stepped.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, waiting: Vec<Waiting>) {
        if waiting.is_empty() {
            return;
        }
        let (steps, replies): (Vec<Step>, Vec<_>) =
            waiting.into_iter().map(|one| (one.step, one.reply)).unzip();
        match self.write(&steps).await {
            Ok(stepped) => {
                for (reply, stepped) in replies.into_iter().zip(stepped) {
                    let _ = reply.send(Ok(stepped));
                }
            }
            Err(error) if db::is_outage(&error) => {
                for reply in replies {
                    let outage = std::io::Error::other(error.to_string());
                    let _ = reply.send(Err(outage.into()));
                }
            }
            // One that cannot be written keeps none of the others.
            Err(_) => {
                for (reply, step) in replies.into_iter().zip(steps) {
                    let alone = self.write(std::slice::from_ref(&step)).await;
                    let _ = reply.send(alone.map(|mut stepped| stepped.remove(0)));
                }
            }
        }
    }

    async fn write(&self, steps: &[Step]) -> Result<Vec<Stepped>, sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let conn = tx.conn();
        let all: Vec<Lane> = steps.iter().map(|step| step.lane).collect();
        let held = lanes::lock(conn, &all).await?;
        let held: Vec<(usize, &Step)> = steps
            .iter()
            .enumerate()
            .filter(|(index, _)| held[*index])
            .collect();
        let attempts: Vec<(Lane, &Attempted)> = held
            .iter()
            .filter_map(|(_, step)| Some((step.lane, step.attempted.as_ref()?)))
            .collect();
        lanes::record(conn, &attempts).await?;
        let failing = note(conn, &attempts).await?;
        let next = self.go_on(conn, &held).await?;
        tx.commit().await?;
        let mut stepped: Vec<Stepped> = steps.iter().map(|_| Stepped::default()).collect();
        for ((index, step), next) in held.iter().zip(next) {
            let failed = |attempted: &Attempted| attempted.answer.error.is_some();
            let failed = step.attempted.as_ref().is_some_and(failed);
            let since = failing.get(&step.lane.endpoint_id).copied();
            stepped[*index] = Stepped {
                held: true,
                failing_since: since.filter(|_| failed),
                next,
            };
        }
        Ok(stepped)
    }

    /// The next events of those that go on; lets the other lanes go.
    async fn go_on(
        &self,
        conn: &mut PgConnection,
        held: &[(usize, &Step)],
    ) -> Result<Vec<Option<(Row, Due)>>, sqlx::Error> {
        let all: Vec<Lane> = held.iter().map(|(_, step)| step.lane).collect();
        let onward = held.iter().filter(|(_, step)| step.goes_on);
        let onward: Vec<Lane> = onward.map(|(_, step)| step.lane).collect();
        // Read anew: one may be disabled, removed or have another secret by now.
        let mut ids: Vec<Uuid> = onward.iter().map(|lane| lane.endpoint_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = endpoints::list(conn, Some(&ids)).await?;
        let rows = rows.into_iter().filter(|row| row.disabled_at.is_none());
        let enabled: HashMap<Uuid, Row> = rows.map(|row| (row.id, row)).collect();
        let due = lanes::next(conn, &onward).await?;
        let mut due = due.into_iter();
        let next: Vec<Option<(Row, Due)>> = held
            .iter()
            .map(|(_, step)| {
                let due = if step.goes_on { due.next()? } else { None };
                Some((enabled.get(&step.lane.endpoint_id)?.clone(), due?))
            })
            .collect();
        let (mut kept, mut ended) = (Vec::new(), Vec::new());
        for (lane, next) in all.into_iter().zip(&next) {
            match next {
                Some(_) => kept.push(lane),
                None => ended.push(lane),
            }
        }
        lanes::renew(conn, &kept, self.lease_secs).await?;
        lanes::release(conn, &ended).await?;
        Ok(next)
    }
}

/// Notes at the endpoints which attempts succeeded and failed. Returns since when those fail
/// that took nothing.
async fn note(
    conn: &mut PgConnection,
    attempts: &[(Lane, &Attempted)],
) -> Result<BTreeMap<Uuid, Timestamp>, sqlx::Error> {
    let (mut errors, mut taking) = (BTreeMap::new(), Vec::new());
    for (lane, attempted) in attempts {
        match &attempted.answer.error {
            Some(error) => drop(errors.insert(lane.endpoint_id, error.as_str())),
            None => taking.push(lane.endpoint_id),
        }
    }
    let mut failing = BTreeMap::new();
    let quiet = schedule::QUIET.as_secs_f64();
    for (id, error) in errors {
        if let Some(since) = endpoints::failed(conn, id, error, quiet).await?
            && !taking.contains(&id)
        {
            failing.insert(id, since);
        }
    }
    endpoints::succeeded(conn, &taking).await?;
    Ok(failing)
}
