//! Retention: what is removed when its time is over. One table says what, after
//! how long and in which batches; nothing else of the program deletes by age.
//! Audit entries, invoices and totals are never removed by it.
//!
//! Rows go in small transactions with a pause between them, oldest first and by
//! index. A run that is stopped, or killed, leaves whole batches: the next one
//! goes on from there.

mod service;
mod store;

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

pub use service::{POLL, run_if_due};

use crate::config::RetentionConfig;
use crate::db::WorkerTx;
use crate::projection::{self, Emptied};
use crate::telemetry::metrics;
use store::UsagePlace;

/// Its name among the jobs.
pub const JOB: &str = "retention";

/// Between two batches, for those who wait for the disk.
const PAUSE: Duration = Duration::from_millis(50);
/// A lease is held on to well before it ends.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// What is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    WebhookPayloads,
    DiscardedDeadLetters,
    UnclaimedEvents,
    WebhookEvents,
    UsageEvents,
    IdempotencyKeys,
    Sessions,
    PortalSessions,
    LoginThrottles,
    Rejections,
    JobRuns,
    BulkActions,
    UsageAlerts,
    OutboundEvents,
    Mails,
    Reservations,
    Denials,
}

/// What is removed, after how long, and how much of it at a time.
pub struct Rule {
    pub what: What,
    /// Its name in reports and metrics.
    pub name: &'static str,
    pub setting: &'static str,
    /// `None` is for ever.
    pub days: fn(&RetentionConfig) -> Option<u32>,
    /// Rows of a batch. Those with a payload or an answer may be large.
    batch: i64,
    /// The indexes by which it is found.
    indexes: &'static [&'static str],
}

/// All that retention removes. Payloads come before the events whose they are.
pub const RULES: [Rule; 17] = [
    Rule {
        what: What::WebhookPayloads,
        name: "webhook_payloads",
        setting: "RETENTION_WEBHOOK_PAYLOAD_DAYS",
        days: |kept| kept.webhook_payload_days,
        batch: 200,
        indexes: &["webhook_events_kept_idx"],
    },
    Rule {
        what: What::DiscardedDeadLetters,
        name: "discarded_dead_letters",
        setting: "RETENTION_DISCARDED_DEAD_LETTER_DAYS",
        days: |kept| kept.discarded_dead_letter_days,
        batch: 200,
        indexes: &["webhook_events_discarded_idx"],
    },
    Rule {
        what: What::UnclaimedEvents,
        name: "webhook_unclaimed_events",
        setting: "RETENTION_WEBHOOK_PAYLOAD_DAYS",
        days: |kept| kept.webhook_payload_days,
        batch: 1_000,
        indexes: &["webhook_unclaimed_events_time_idx"],
    },
    Rule {
        what: What::WebhookEvents,
        name: "webhook_events",
        setting: "RETENTION_WEBHOOK_EVENT_DAYS",
        days: |kept| kept.webhook_event_days,
        batch: 1_000,
        indexes: &[
            "webhook_events_kept_idx",
            "webhook_events_removed_idx",
            "webhook_events_discarded_idx",
        ],
    },
    Rule {
        what: What::UsageEvents,
        name: "usage_events",
        setting: "RETENTION_USAGE_EVENT_DAYS",
        days: |kept| kept.usage_event_days,
        batch: 2_000,
        indexes: &["usage_events_time_idx"],
    },
    Rule {
        what: What::IdempotencyKeys,
        name: "request_idempotency",
        setting: "RETENTION_IDEMPOTENCY_DAYS",
        days: |kept| kept.idempotency_days,
        batch: 1_000,
        indexes: &["request_idempotency_expires_idx"],
    },
    Rule {
        what: What::Sessions,
        name: "user_sessions",
        setting: "RETENTION_SESSION_DAYS",
        days: |kept| kept.session_days,
        batch: 1_000,
        indexes: &["user_sessions_expires_idx"],
    },
    Rule {
        what: What::PortalSessions,
        name: "portal_sessions",
        setting: "RETENTION_SESSION_DAYS",
        days: |kept| kept.session_days,
        batch: 1_000,
        indexes: &["portal_sessions_expires_idx"],
    },
    Rule {
        what: What::LoginThrottles,
        name: "login_throttles",
        setting: "RETENTION_SESSION_DAYS",
        days: |kept| kept.session_days,
        batch: 1_000,
        indexes: &["login_throttles_time_idx"],
    },
    Rule {
        what: What::Rejections,
        name: "webhook_rejections",
        setting: "RETENTION_SESSION_DAYS",
        days: |kept| kept.session_days,
        batch: 1_000,
        indexes: &[],
    },
    Rule {
        what: What::JobRuns,
        name: "billing_job_runs",
        setting: "RETENTION_SESSION_DAYS",
        days: |kept| kept.session_days,
        batch: 1_000,
        indexes: &["billing_job_runs_time_idx"],
    },
    Rule {
        what: What::BulkActions,
        name: "webhook_bulk_actions",
        setting: "RETENTION_SESSION_DAYS",
        days: |kept| kept.session_days,
        batch: 1_000,
        indexes: &["webhook_bulk_actions_ended_idx"],
    },
    Rule {
        what: What::UsageAlerts,
        name: "usage_alerts",
        setting: "RETENTION_OUTBOUND_DAYS",
        days: |kept| kept.outbound_days,
        batch: 1_000,
        indexes: &["usage_alerts_delivered_idx"],
    },
    Rule {
        what: What::OutboundEvents,
        name: "outbound_events",
        setting: "RETENTION_OUTBOUND_DAYS",
        days: |kept| kept.outbound_days,
        batch: 1_000,
        indexes: &["outbound_events_time_idx"],
    },
    Rule {
        what: What::Mails,
        name: "mails",
        setting: "RETENTION_OUTBOUND_DAYS",
        days: |kept| kept.outbound_days,
        batch: 1_000,
        indexes: &["mails_ended_idx"],
    },
    Rule {
        what: What::Reservations,
        name: "usage_reservations",
        setting: "RETENTION_SESSION_DAYS",
        days: |kept| kept.session_days,
        batch: 1_000,
        indexes: &["usage_reservations_settled_idx"],
    },
    Rule {
        what: What::Denials,
        name: "usage_denials",
        setting: "RETENTION_SESSION_DAYS",
        days: |kept| kept.session_days,
        batch: 1_000,
        indexes: &["usage_denials_time_idx"],
    },
];

/// Lets every series exist from the start.
pub fn start_metrics() {
    for rule in &RULES {
        metrics::purged(rule.name, 0);
    }
}

/// What a run did, or would do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub dry_run: bool,
    /// Another process was at it: nothing was done.
    pub already_running: bool,
    /// Rows, of everything together.
    pub total: u64,
    pub removed: Vec<Removed>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    pub what: &'static str,
    pub setting: &'static str,
    /// Null: it is kept for ever.
    pub days: Option<u32>,
    pub rows: u64,
    /// Why there may be more to remove.
    pub error: Option<String>,
}

impl Report {
    fn of(dry_run: bool) -> Self {
        Self {
            dry_run,
            already_running: false,
            total: 0,
            removed: Vec::new(),
        }
    }

    fn add(&mut self, rule: &Rule, kept: &RetentionConfig, rows: u64, error: Option<String>) {
        self.total += rows;
        self.removed.push(Removed {
            what: rule.name,
            setting: rule.setting,
            days: (rule.days)(kept),
            rows,
            error,
        });
    }

    /// Whether everything whose time was over is gone.
    pub fn is_whole(&self) -> bool {
        self.removed.iter().all(|removed| removed.error.is_none())
    }
}

/// Why a rule stopped before it was done.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(
        "the index {0} is missing, which the migration leaves out of large tables: create it as \
         docs/retention.md says"
    )]
    NoIndex(String),
    #[error("another process took over")]
    LeaseLost,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Removes what is older at `now` than `kept` says. `progress` hears how many rows
/// of a rule are gone after each batch. Only one run goes on at a time, whichever
/// process began it.
pub async fn run(
    pool: &PgPool,
    kept: &RetentionConfig,
    now: Timestamp,
    progress: impl Fn(&'static str, u64),
) -> Result<Report, sqlx::Error> {
    let mut report = Report::of(false);
    let mut lease = Lease::new(pool);
    if !lease.hold().await? {
        report.already_running = true;
        return Ok(report);
    }
    for rule in &RULES {
        let Some(before) = before(rule, kept, now) else {
            report.add(rule, kept, 0, None);
            continue;
        };
        let mut rows = 0;
        let removed = remove(&mut lease, rule, kept, before, |batch| {
            rows += batch;
            metrics::purged(rule.name, batch);
            progress(rule.name, rows);
        })
        .await;
        let error = removed.err().map(|stopped| {
            tracing::warn!(what = rule.name, error = %stopped, "Retention could not remove everything");
            stopped.to_string()
        });
        report.add(rule, kept, rows, error);
    }
    store::release(pool, JOB, lease.id).await?;
    tracing::info!(removed = report.total, "Retention run completed");
    Ok(report)
}

/// What [`run`] would remove.
pub async fn rehearse(
    pool: &PgPool,
    kept: &RetentionConfig,
    now: Timestamp,
) -> Result<Report, sqlx::Error> {
    let mut report = Report::of(true);
    for rule in &RULES {
        let rows = match before(rule, kept, now) {
            Some(before) => {
                let mut tx = WorkerTx::begin(pool).await?;
                store::count(tx.conn(), rule.what, before).await?
            }
            None => 0,
        };
        report.add(rule, kept, rows, None);
    }
    Ok(report)
}

/// How long a run that died keeps others from beginning.
pub const LEASE: Duration = store::LEASE;
pub use store::{release as release_lease, take as take_lease};

fn before(rule: &Rule, kept: &RetentionConfig, now: Timestamp) -> Option<Timestamp> {
    let days = (rule.days)(kept)?;
    let age = SignedDuration::from_hours(24 * i64::from(days));
    // Nothing is older than the first of all times.
    Some(now.checked_sub(age).unwrap_or(Timestamp::MIN))
}

/// The right to run, held on to while batches go.
struct Lease<'p> {
    pool: &'p PgPool,
    id: Uuid,
    held_at: Option<Instant>,
}

impl<'p> Lease<'p> {
    fn new(pool: &'p PgPool) -> Self {
        Self {
            pool,
            id: Uuid::now_v7(),
            held_at: None,
        }
    }

    async fn hold(&mut self) -> Result<bool, sqlx::Error> {
        if self.held_at.is_some_and(|at| at.elapsed() < RENEW_AFTER) {
            return Ok(true);
        }
        let held = store::take(self.pool, JOB, self.id).await?;
        self.held_at = held.then(Instant::now);
        Ok(held)
    }
}

/// Removes batch after batch of what `rule` names.
async fn remove(
    lease: &mut Lease<'_>,
    rule: &Rule,
    kept: &RetentionConfig,
    before: Timestamp,
    mut removed: impl FnMut(u64),
) -> Result<(), Stopped> {
    let mut tx = WorkerTx::begin(lease.pool).await?;
    let missing = store::missing_indexes(tx.conn(), rule.indexes).await?;
    tx.commit().await?;
    if let Some(index) = missing.into_iter().next() {
        return Err(Stopped::NoIndex(index));
    }
    let mut place = None;
    loop {
        if !lease.hold().await? {
            return Err(Stopped::LeaseLost);
        }
        let mut tx = WorkerTx::begin(lease.pool).await?;
        let (rows, more) = batch(tx.conn(), rule, kept, before, &mut place).await?;
        tx.commit().await?;
        if rows > 0 {
            removed(rows);
        }
        if !more {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One batch: how many rows went, and whether there may be more.
async fn batch(
    conn: &mut PgConnection,
    rule: &Rule,
    kept: &RetentionConfig,
    before: Timestamp,
    place: &mut Option<UsagePlace>,
) -> Result<(u64, bool), sqlx::Error> {
    let limit = rule.batch;
    let rows = match rule.what {
        What::WebhookPayloads => {
            projection::remove_payloads(conn, Emptied::Processed, before, limit).await?
        }
        What::DiscardedDeadLetters => {
            projection::remove_payloads(conn, Emptied::Discarded, before, limit).await?
        }
        What::WebhookEvents => return webhook_events(conn, kept, before, limit).await,
        What::UsageEvents => {
            let (rows, next) = store::usage_events(conn, before, place.as_ref(), limit).await?;
            *place = next;
            return Ok((rows, place.is_some()));
        }
        What::UnclaimedEvents => store::unclaimed_events(conn, before, limit).await?,
        What::IdempotencyKeys => store::idempotency_keys(conn, before, limit).await?,
        What::Sessions => store::sessions(conn, before, limit).await?,
        What::PortalSessions => store::portal_sessions(conn, before, limit).await?,
        What::LoginThrottles => store::login_throttles(conn, before, limit).await?,
        What::Rejections => store::rejections(conn, before, limit).await?,
        What::JobRuns => store::job_runs(conn, before, limit).await?,
        What::BulkActions => store::bulk_actions(conn, before, limit).await?,
        What::UsageAlerts => store::usage_alerts(conn, before, limit).await?,
        What::OutboundEvents => store::outbound_events(conn, before, limit).await?,
        What::Mails => store::mails(conn, before, limit).await?,
        What::Reservations => store::reservations(conn, before, limit).await?,
        What::Denials => store::denials(conn, before, limit).await?,
    };
    Ok((rows, rows >= limit.unsigned_abs()))
}

/// Events go without their payloads: where these were kept for longer, they go
/// first, so that what is read again is kept as ever.
async fn webhook_events(
    conn: &mut PgConnection,
    kept: &RetentionConfig,
    before: Timestamp,
    limit: i64,
) -> Result<(u64, bool), sqlx::Error> {
    let payloads = limit / 5;
    let mut emptied =
        projection::remove_payloads(conn, Emptied::Processed, before, payloads).await?;
    if kept.discarded_dead_letter_days.is_some() {
        emptied += projection::remove_payloads(conn, Emptied::Discarded, before, payloads).await?;
    }
    let gone = store::webhook_events(conn, before, limit).await?;
    Ok((gone, emptied > 0 || gone >= limit.unsigned_abs()))
}
