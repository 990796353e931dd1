//! Reports usage to Stripe's meters: whole units, each exactly once. A report
//! is committed before it is sent, under an identifier that Stripe accepts only
//! once. Nothing is counted here, and no quota is decided.

mod counted;
mod due;
mod invoiced;
mod rejected;
mod sending;
mod store;
mod unbilled;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::catalogue::{Aggregation, Catalogue};
use crate::db::{self, WorkerTx};
use crate::metering::{charges, ledger};
use crate::server::number::Number;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::telemetry::metrics;
pub use counted::TRY_AGAIN_SECS;
pub use due::{Reason, Unbilled};
pub use rejected::{
    CODES as REJECTION_CODES, EVENT_TYPES as REJECTION_TYPES, OTHER as OTHER_REJECTION,
    explain_new, rejected, settle, tell_again,
};
pub use store::{MeterError, Stuck, enter_meter_errors, keep_terms, meter_errors, stuck};
pub use unbilled::unbilled;

use due::{identifier, to_report};
use sending::{SendOutcome, send_all, send_one};
use store::{OpenTotal, ReportEntry, UnsentReport};

/// How long Stripe is guaranteed to remember an identifier.
const IDENTIFIER_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// Organizations reported in parallel. Stripe takes one call at a time for each
/// customer and meter.
const PARALLEL_ORGANIZATIONS: usize = 8;
/// How long a run waits for an organization that another transaction holds: as long as
/// a batch of events may hold it on a busy machine.
const LOCK_TIMEOUT: &str = "1s";
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stripe(#[from] StripeError),
    /// Stripe has accepted usage and not counted it: an invoice made now would lack it.
    #[error("Stripe has not yet counted the usage of {metric} that it was told of")]
    Uncounted { metric: String },
}

/// What a run did, and the balances after it: counted = reported + pending.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Meter events sent.
    pub sent: u64,
    /// Meter events that failed, and organizations whose usage could not be read or
    /// is held by another transaction. They will be retried.
    pub failed: u64,
    /// Meter events that Stripe will never take because the customer was deleted
    /// there; what they would have billed appears in `unbilled`.
    pub refused: u64,
    /// Meter events whose outcome has been unknown for so long that Stripe could
    /// count them twice; an operator must decide.
    pub doubtful: u64,
    /// Invoice items made for usage at prices that were removed in Stripe.
    pub charged: u64,
    pub metrics: Vec<MetricBalance>,
    /// Usage that is not billed as it was used.
    pub unbilled: Vec<Unbilled>,
}

impl Report {
    /// Whether everything that Stripe accepts was reported. Unbilled usage does
    /// not count: no further run could change it.
    pub fn is_complete(&self) -> bool {
        self.failed == 0 && self.doubtful == 0
    }
}

/// Counted against reported usage of one metric, over the periods for which
/// Stripe still accepts usage.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricBalance {
    pub metric: String,
    /// Whole units counted for billed organizations. Where an operator set
    /// another quota, the units that make Stripe bill the same overage.
    pub counted: Number,
    /// Units reported to Stripe.
    pub reported: Number,
    /// Units still to be reported.
    pub pending: Number,
}

/// Records every report that is due at `now`, for all organizations. Returns how
/// many failed: each by itself, so that none keeps the others from being billed.
async fn record_all_due(
    pool: &PgPool,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<u64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), catalogue, now, None).await?;
    tx.commit().await?;
    let due = open.iter().filter(|total| is_due(catalogue, total, now));
    let organizations: BTreeSet<Uuid> = due.map(|total| total.organization_id).collect();
    let mut failed = 0;
    for organization_id in organizations {
        let recorded = record_due(pool, catalogue, organization_id, now, now);
        match db::impatiently(LOCK_TIMEOUT, recorded).await {
            Err(error) if db::is_outage(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%organization_id, %error, "Usage could not be recorded for its report");
                failed += 1;
            }
            Ok(()) => {}
        }
    }
    Ok(failed)
}

fn is_due(catalogue: &Catalogue, total: &OpenTotal, now: Timestamp) -> bool {
    let aggregation = catalogue
        .metric(&total.metric)
        .map(|metric| metric.aggregation);
    aggregation
        .zip(total.billed.as_ref())
        .is_some_and(|(aggregation, billed)| to_report(aggregation, total, billed, now).is_some())
}

/// Records the reports that are due for one organization at `now`, dated `at`;
/// `at` is before `now` when the period ends at `now`. The lock keeps usage from
/// being counted, and other runs from recording, in the meantime.
async fn record_due(
    pool: &PgPool,
    catalogue: &Catalogue,
    organization_id: Uuid,
    now: Timestamp,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::lock(tx.conn(), &[organization_id]).await?;
    ledger::rebook(tx.conn(), catalogue, &[organization_id], &[], &[]).await?;
    let mut open = store::open(tx.conn(), catalogue, now, Some(&[organization_id])).await?;
    for total in &mut open {
        // A scheduled level cannot wait if its period ends now.
        total.waits &= at == now;
        let total = &*total;
        let (Some(metric), Some(billed)) = (catalogue.metric(&total.metric), &total.billed) else {
            continue;
        };
        let Some(entry) = to_report(metric.aggregation, total, billed, at) else {
            continue;
        };
        let entry = ReportEntry {
            ahead: at != now,
            ..entry
        };
        // The identifier may be taken by an earlier report of an equal state.
        let mut salt = 0;
        while !store::record(
            tx.conn(),
            total,
            billed,
            &identifier(total, &entry, salt),
            &entry,
        )
        .await?
        {
            salt += 1;
        }
    }
    tx.commit().await
}

/// Reports an organization's usage since `since`, before a change makes Stripe
/// invoice its period early, and waits until Stripe has counted it. `now` is the customer's time, which may be a test
/// clock's. The period may end in this very second, so the usage is dated to the
/// one before.
pub async fn report_now(
    pool: &PgPool,
    client: &Client,
    catalogue: &Catalogue,
    organization_id: Uuid,
    since: Timestamp,
    now: Timestamp,
) -> Result<(), ReportError> {
    let before = now - SignedDuration::from_secs(1);
    record_due(pool, catalogue, organization_id, now, before).await?;
    let mut tx = WorkerTx::begin(pool).await?;
    let unsent = store::unsent(tx.conn(), Some(organization_id)).await?;
    tx.commit().await?;
    // Reports left over from earlier periods must not block a cancellation.
    let due = |row: &UnsentReport| row.at >= since && !is_doubtful(row);
    for row in unsent.into_iter().filter(due) {
        match send_one(pool, client, catalogue, &row).await? {
            SendOutcome::Failed(error) if !is_final(&error) => return Err(error.into()),
            _ => {}
        }
    }
    // The invoice takes what earlier changes left; if not, the next run sends it.
    charges::send_open(pool, client, Some(organization_id)).await?;
    let invoiced = counted::Invoiced {
        organization_id,
        since,
        now,
    };
    counted::wait(pool, client, invoiced).await
}

/// Whether Stripe will reject the report on every attempt: its quantity is too
/// large, or the customer is gone. `doctor` keeps showing it; it must not block
/// a cancellation.
fn is_final(error: &StripeError) -> bool {
    let about_report =
        |name: &str| name.starts_with("payload[") || name.starts_with("meter_event_");
    matches!(error.kind, ErrorKind::InvalidRequest | ErrorKind::NotFound)
        && [&error.param, &error.code]
            .into_iter()
            .flatten()
            .any(|name| about_report(name))
}

/// Whether Stripe may have received the report and forgotten its identifier.
fn is_doubtful(row: &UnsentReport) -> bool {
    let forgotten = Timestamp::now() - IDENTIFIER_LIFETIME;
    row.attempted_at.is_some_and(|at| at < forgotten)
}

/// Reports usage to Stripe's meters. `progress` is called with the meter events
/// handled so far and their total.
pub async fn report(
    pool: &PgPool,
    client: &Client,
    catalogue: &Catalogue,
    now: Timestamp,
    progress: impl Fn(usize, usize),
) -> Result<Report, ReportError> {
    let unrecorded = record_all_due(pool, catalogue, now).await?;
    let mut tx = WorkerTx::begin(pool).await?;
    let unsent = store::unsent(tx.conn(), None).await?;
    tx.commit().await?;
    let (doubtful, unsent): (Vec<_>, Vec<_>) = unsent.into_iter().partition(is_doubtful);
    let total = unsent.len();
    let mut by_organization = BTreeMap::<Uuid, Vec<UnsentReport>>::new();
    for row in unsent {
        by_organization
            .entry(row.organization_id)
            .or_default()
            .push(row);
    }
    let mut report = Report {
        doubtful: doubtful.len() as u64,
        ..Report::default()
    };
    let sending = by_organization
        .into_values()
        .map(|rows| db::impatiently(LOCK_TIMEOUT, send_all(pool, client, catalogue, rows)));
    let mut sending = futures_util::stream::iter(sending).buffer_unordered(PARALLEL_ORGANIZATIONS);
    while let Some(counts) = sending.next().await {
        report.sent += counts.sent;
        report.failed += counts.failed;
        report.refused += counts.refused;
        let so_far = report.sent + report.failed + report.refused;
        progress(usize::try_from(so_far).unwrap_or(total), total);
    }
    report.failed += unrecorded;
    let charging = charges::send_open(pool, client, None);
    let charged = db::impatiently(LOCK_TIMEOUT, charging).await?;
    report.charged = charged.charged;
    report.failed += charged.failed;
    metrics::usage_reports("sent", report.sent);
    metrics::usage_reports("failed", report.failed);
    metrics::usage_reports("doubtful", report.doubtful);
    metrics::usage_reports("refused", report.refused);
    report.metrics = balances(pool, catalogue, now).await?;
    report.unbilled = unbilled(pool, catalogue, now).await?;
    unbilled::warn(&report);
    Ok(report)
}

/// Billed usage over a quota in a running period, in whole units.
#[derive(Debug, Clone)]
pub struct Overage {
    pub organization_id: Uuid,
    pub metric: String,
    pub period_start: Timestamp,
    pub stripe_subscription_id: String,
    pub stripe_price_id: String,
    pub units: Decimal,
    /// For one unit, in the currency's major unit.
    pub rate: Decimal,
    pub currency: String,
}

/// What Stripe would bill of the organizations' usage so far, at `now`.
pub async fn overages(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    now: Timestamp,
) -> Result<Vec<Overage>, sqlx::Error> {
    let open = store::open(conn, catalogue, now, Some(organizations)).await?;
    let runs = |total: &OpenTotal| {
        total.period_start <= now && now < total.period_end && total.closed_at.is_none()
    };
    let overages = open.into_iter().filter(runs).filter_map(|total| {
        let billed = total.billed.as_ref().filter(|billed| !billed.on_trial)?;
        let units = due::billed_units(&total, billed.included) - billed.included;
        (units > Decimal::ZERO).then_some(Overage {
            organization_id: total.organization_id,
            period_start: total.period_start,
            stripe_subscription_id: billed.stripe_subscription_id.clone(),
            stripe_price_id: billed.stripe_price_id.clone()?,
            units,
            rate: total.rate?,
            currency: total.currency?,
            metric: total.metric,
        })
    });
    Ok(overages.collect())
}

/// Compares counted and reported usage, by metric.
pub async fn balances(
    pool: &PgPool,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<Vec<MetricBalance>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), catalogue, now, None).await?;
    let unsent = store::unsent(tx.conn(), None).await?;
    let mut balances = BTreeMap::<String, (Decimal, Decimal)>::new();
    for total in &open {
        let Some(billed) = &total.billed else {
            continue;
        };
        let (counted, reported) = balances.entry(total.metric.clone()).or_default();
        // What Stripe will never take is unbilled, not pending.
        *counted += due::billed_units(total, billed.included) - total.refused;
        *reported += total.reported - total.refused;
    }
    for row in &unsent {
        let is_level = catalogue
            .metric(&row.metric)
            .is_some_and(|metric| metric.aggregation == Aggregation::Last);
        if let Some((_, reported)) = balances.get_mut(&row.metric)
            && !is_level
        {
            *reported -= row.units;
        }
    }
    Ok(balances
        .into_iter()
        .map(|(metric, (counted, reported))| MetricBalance {
            metric,
            counted: Number(counted),
            reported: Number(reported),
            pending: Number(counted - reported),
        })
        .collect())
}
