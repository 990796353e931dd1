//! Acting on all events that match a filter, in the background. A request counts and enters
//! what is to be done; `run` does it, event by event, on one replica at a time.
//!
//! How far it is advances in the transaction of what is done with each event: whatever dies
//! meanwhile, nothing is done twice and nothing is left out.

mod run;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::audit::{self, Actor, NewEntry};
use crate::db::WorkerTx;
use crate::tenancy::auth::Operator;
use crate::webhooks::DeadLetterFilter;
use crate::webhooks::dead_letters::reason::Reason;
use crate::webhooks::store::bulk as store;
use crate::webhooks::store::dead_letters;

pub use run::{Came, POLL, RENEW_EVERY, Running, Step, run_some};

pub const STARTED: &str = "bulk_action_started";
pub const STOPPED: &str = "bulk_action_stopped";
pub const ENDED: &str = "bulk_action_ended";
pub const LISTED: &str = "bulk_actions_listed";
pub const SHOWN: &str = "bulk_action_shown";

/// The most events that one may be about, so that counting them ends soon.
pub const MOST: i64 = 100_000;
/// How many may be under way or wait.
const OPEN: i64 = 20;
/// How many of what matches are shown before it is begun.
const SAMPLE: i64 = 10;

/// What is done with each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BulkActionKind)]
pub enum Act {
    ReplayDeadLetters,
    DiscardDeadLetters,
    /// Processed events, once more.
    ReplayEvents,
}

impl Act {
    pub const ALL: [Self; 3] = [
        Self::ReplayDeadLetters,
        Self::DiscardDeadLetters,
        Self::ReplayEvents,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReplayDeadLetters => "replay_dead_letters",
            Self::DiscardDeadLetters => "discard_dead_letters",
            Self::ReplayEvents => "replay_events",
        }
    }

    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.as_str() == name)
    }

    pub fn discards(self) -> bool {
        self == Self::DiscardDeadLetters
    }
}

/// Which events.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = BulkActionFilter)]
pub struct Filter {
    /// Such as `invoice.finalized`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<Uuid>,
    /// Of dead letters: an error, whose ids do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of processed events: those received from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Of processed events: those received before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

/// Where an event is in the list of what matches.
pub type Position = (Timestamp, String);

/// An event that matches.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MatchingEvent)]
pub struct Matching {
    pub event_id: String,
    pub event_type: String,
    #[schema(required)]
    pub organization_id: Option<Uuid>,
    /// When it became a dead letter, or was received.
    pub at: Timestamp,
}

impl Matching {
    pub fn position(&self) -> Position {
        (self.at, self.event_id.clone())
    }
}

/// How many events match, and the first of them.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MatchingEvents)]
pub struct Counted {
    pub count: i64,
    /// The newest that was counted: `through` of what is begun with them.
    #[schema(required)]
    pub through: Option<Timestamp>,
    /// Some of them, the oldest first.
    pub sample: Vec<Matching>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BulkActionState)]
pub enum State {
    Waiting,
    Running,
    Stopped,
    Done,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Done => "done",
        }
    }

    pub fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Running)
    }
}

/// An event that failed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkActionFailure)]
pub struct Failed {
    pub event_id: String,
    pub error: String,
}

/// What is done with all events that match, and how far it is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkAction {
    pub id: Uuid,
    #[schema(inline)]
    pub action: Act,
    pub filter: Filter,
    #[schema(inline)]
    pub state: State,
    /// How many matched when it was asked for.
    pub counted: i64,
    pub succeeded: i64,
    pub failed: i64,
    /// Those that were not there any more, or that somebody else was at.
    pub skipped: i64,
    /// The first 50 that failed.
    pub failures: Vec<Failed>,
    /// The operator; null: a key or the command line.
    #[schema(required)]
    pub requested_by: Option<Uuid>,
    /// The operators' key.
    #[schema(required)]
    pub requested_by_key: Option<Uuid>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
}

impl BulkAction {
    pub fn done(&self) -> i64 {
        self.succeeded + self.failed + self.skipped
    }

    fn counts(&self) -> Value {
        json!({
            "counted": self.counted,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "skipped": self.skipped,
        })
    }
}

/// Why nothing was begun or stopped.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    #[error("{field}: not for {}", .act.as_str())]
    NotFor { field: &'static str, act: Act },
    #[error("no event matches: there is nothing to do")]
    NoneMatch,
    #[error(
        "more than {MOST} events match; narrow the filter, by a type, an organization or a time"
    )]
    TooMany,
    #[error("{OPEN} are under way or wait already; wait for one to end, or stop one")]
    TooManyOpen,
    #[error("there is no such bulk action")]
    Unknown,
    #[error("it has ended already: it is {}", .0.as_str())]
    Ended(State),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    Operator(&'a Operator),
    CommandLine,
}

impl By<'_> {
    fn user(self) -> Option<Uuid> {
        match self {
            Self::Operator(operator) => operator.user_id(),
            Self::CommandLine => None,
        }
    }

    fn key(self) -> Option<Uuid> {
        match self {
            Self::Operator(operator) => operator.key_id(),
            Self::CommandLine => None,
        }
    }

    fn did(self, action: &'static str, id: Uuid) -> NewEntry {
        let (resource, id) = ("bulk_action", id.to_string());
        match self {
            Self::Operator(operator) => operator.did(action, None, resource, id),
            Self::CommandLine => NewEntry {
                metadata: json!({"by": "command line"}),
                ..entry(action, Actor::System, resource, id)
            },
        }
    }
}

fn entry(action: &'static str, actor: Actor, resource: &'static str, id: String) -> NewEntry {
    NewEntry {
        organization_id: audit::OPERATORS,
        action,
        actor,
        resource_type: resource,
        resource_id: id,
        before: None,
        after: None,
        metadata: json!({}),
        client: None,
        reason: None,
    }
}

/// Counts what matches, and shows some of it.
pub async fn count(pool: &PgPool, act: Act, filter: &Filter) -> Result<Counted, BulkError> {
    check(act, filter)?;
    let mut tx = WorkerTx::begin(pool).await?;
    let counted = count_within(tx.conn(), act, filter, None).await?;
    let sample = page(tx.conn(), act, filter, (None, counted.1), SAMPLE).await?;
    tx.commit().await?;
    if counted.0 > MOST {
        return Err(BulkError::TooMany);
    }
    Ok(Counted {
        count: counted.0,
        through: counted.1,
        sample,
    })
}

/// Enters what is to be done with the events that match, and that were there `through` a time.
pub async fn start(
    pool: &PgPool,
    act: Act,
    filter: &Filter,
    through: Option<Timestamp>,
    by: By<'_>,
) -> Result<BulkAction, BulkError> {
    check(act, filter)?;
    let mut tx = WorkerTx::begin(pool).await?;
    let (count, last) = count_within(tx.conn(), act, filter, through).await?;
    let last = last.filter(|_| count > 0).ok_or(BulkError::NoneMatch)?;
    if count > MOST {
        return Err(BulkError::TooMany);
    }
    let new = store::New {
        id: Uuid::now_v7(),
        act,
        filter,
        counted: count,
        through: last,
        requested_by: by.user(),
        requested_by_key: by.key(),
    };
    store::insert(tx.conn(), &new).await?;
    let mut entry = by.did(STARTED, new.id);
    entry.after = Some(json!({"action": act, "filter": filter, "counted": count}));
    audit::record_one(&mut tx, entry).await?;
    // The operators' chain is held from here on, by one who begins at a time.
    if store::open(tx.conn()).await? > OPEN {
        tx.rollback().await?;
        return Err(BulkError::TooManyOpen);
    }
    let begun = store::get(tx.conn(), new.id).await?;
    tx.commit().await?;
    tracing::info!(bulk_action = %new.id, action = act.as_str(), counted = count, "Bulk action started");
    begun.ok_or(BulkError::Unknown)
}

/// Stops it: what was done stays done, and the event that is being done is done whole or not
/// at all.
pub async fn stop(pool: &PgPool, id: Uuid, by: By<'_>) -> Result<BulkAction, BulkError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let stopped = store::end(tx.conn(), id, None).await?;
    let Some(action) = store::get(tx.conn(), id).await? else {
        return Err(BulkError::Unknown);
    };
    if !stopped {
        return Err(BulkError::Ended(action.state));
    }
    let mut entry = by.did(STOPPED, id);
    entry.after = Some(action.counts());
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    tracing::info!(bulk_action = %id, done = action.done(), "Bulk action stopped");
    Ok(action)
}

/// How far one is.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<BulkAction>, sqlx::Error> {
    store::get(conn, id).await
}

/// The newest first, from `before` on.
pub async fn list(
    conn: &mut PgConnection,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<BulkAction>, sqlx::Error> {
    store::page(conn, before, limit).await
}

/// A filter may say what its events have, and nothing else.
fn check(act: Act, filter: &Filter) -> Result<(), BulkError> {
    let events = act == Act::ReplayEvents;
    let misplaced = [
        ("reason", events && filter.reason.is_some()),
        ("since", !events && filter.since.is_some()),
        ("until", !events && filter.until.is_some()),
    ];
    match misplaced.into_iter().find(|(_, is)| *is) {
        Some((field, _)) => Err(BulkError::NotFor { field, act }),
        None => Ok(()),
    }
}

fn letters(
    filter: &Filter,
    after: Option<Position>,
    through: Option<Timestamp>,
) -> DeadLetterFilter {
    DeadLetterFilter {
        event_type: filter.r#type.clone(),
        organization_id: filter.organization_id,
        reason: filter.reason.as_deref().map(Reason::of),
        after,
        through,
    }
}

/// How many match, one more than [`MOST`] at most, and the newest of them.
async fn count_within(
    conn: &mut PgConnection,
    act: Act,
    filter: &Filter,
    through: Option<Timestamp>,
) -> Result<(i64, Option<Timestamp>), sqlx::Error> {
    match act {
        Act::ReplayEvents => store::count_events(conn, filter, through, MOST + 1).await,
        _ => dead_letters::count(conn, &letters(filter, None, through), MOST + 1).await,
    }
}

/// What matches, the oldest first.
async fn page(
    conn: &mut PgConnection,
    act: Act,
    filter: &Filter,
    (after, through): (Option<Position>, Option<Timestamp>),
    limit: i64,
) -> Result<Vec<Matching>, sqlx::Error> {
    if act == Act::ReplayEvents {
        return store::events(conn, filter, (after, through), limit).await;
    }
    let filter = letters(filter, after, through);
    let letters = dead_letters::page(conn, &filter, limit).await?;
    let letters = letters.into_iter().map(|letter| Matching {
        event_id: letter.event_id,
        event_type: letter.event_type,
        organization_id: letter.organization_id,
        at: letter.dead_lettered_at,
    });
    Ok(letters.collect())
}
