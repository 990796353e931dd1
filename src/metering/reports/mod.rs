//! Telling Stripe of usage: whole units, each once. What is to be said is
//! entered before the call, under an identifier that Stripe takes once.

mod due;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;
use serde::Serialize;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::catalogue::{Aggregation, Catalogue};
use crate::db::WorkerTx;
use crate::metering::ledger;
use crate::server::number::Number;
use crate::stripe::client::{Client, ErrorKind, Params, StripeError};
use crate::telemetry::metrics;
pub use due::{Reason, Unbilled};
pub use store::{Stuck, stuck};

use due::{identifier, to_report};
use store::{Entered, Open, Unsent};

/// How long Stripe is sure to know an identifier.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// Stripe takes one call at a time for a customer and a meter; customers are
/// told of beside each other.
const BESIDE: usize = 8;
/// Stripe's code for an identifier that it has.
const DUPLICATE: &str = "duplicate_meter_event";

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stripe(#[from] StripeError),
}

/// What a run did, and how the books stand: counted = reported + pending.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Meter events that were sent.
    pub sent: u64,
    /// Those that could not be, and will be tried again.
    pub failed: u64,
    /// Those that Stripe will never take, since their customer is deleted there:
    /// what it would have billed is `unbilled`.
    pub refused: u64,
    /// Those whose fate is unknown for so long that Stripe may take them twice:
    /// an operator must look.
    pub doubtful: u64,
    pub metrics: Vec<Books>,
    /// What was promised to be billed, and is not billed as it was used.
    pub unbilled: Vec<Unbilled>,
}

impl Report {
    /// Whether Stripe was told of everything that it takes. Usage that nothing bills
    /// is a finding of its own, which no run mends.
    pub fn is_whole(&self) -> bool {
        self.failed == 0 && self.doubtful == 0
    }
}

/// The books of one metric, over the periods that Stripe still takes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Books {
    pub metric: String,
    /// Whole units that were counted, of organizations that are billed; where an
    /// operator set another quota, as many as bring Stripe to the same overage.
    pub counted: Number,
    /// Of them, what Stripe was told.
    pub reported: Number,
    /// And what it was not yet.
    pub pending: Number,
}

/// Enters what is to be reported at `now`.
async fn enter(pool: &PgPool, catalogue: &Catalogue, now: Timestamp) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), catalogue, now, None).await?;
    tx.commit().await?;
    let due = open.iter().filter(|total| is_due(catalogue, total, now));
    let organizations: BTreeSet<Uuid> = due.map(|total| total.organization_id).collect();
    for organization_id in organizations {
        enter_of(pool, catalogue, organization_id, now, now).await?;
    }
    Ok(())
}

fn is_due(catalogue: &Catalogue, total: &Open, now: Timestamp) -> bool {
    let aggregation = catalogue
        .metric(&total.metric)
        .map(|metric| metric.aggregation);
    aggregation
        .zip(total.billed.as_ref())
        .is_some_and(|(aggregation, billed)| to_report(aggregation, total, billed, now).is_some())
}

/// Enters what has occurred of an organization at `now`, as told at `at`: before
/// `now`, when its period ends then. Meanwhile nothing is counted, and no other
/// run enters it.
async fn enter_of(
    pool: &PgPool,
    catalogue: &Catalogue,
    organization_id: Uuid,
    now: Timestamp,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::lock(tx.conn(), organization_id).await?;
    ledger::rebook(tx.conn(), catalogue, &[organization_id], &[], &[]).await?;
    let mut open = store::open(tx.conn(), catalogue, now, Some(organization_id)).await?;
    for total in &mut open {
        // A level cannot wait for the time that its period will not have.
        total.waits &= at == now;
        let total = &*total;
        let (Some(metric), Some(billed)) = (catalogue.metric(&total.metric), &total.billed) else {
            continue;
        };
        let Some(entered) = to_report(metric.aggregation, total, billed, at) else {
            continue;
        };
        let entered = Entered {
            ahead: at != now,
            ..entered
        };
        let mut salt = 0;
        while !store::enter(
            tx.conn(),
            total,
            billed,
            &identifier(total, &entered, salt),
            &entered,
        )
        .await?
        {
            salt += 1;
        }
    }
    tx.commit().await
}

/// Tells Stripe of what an organization used `since` then, before its period is
/// invoiced out of turn. `now` is the time that its customer lives in: the period
/// may end in this second, and has what lies before it.
pub async fn tell_now(
    pool: &PgPool,
    client: &Client,
    catalogue: &Catalogue,
    organization_id: Uuid,
    since: Timestamp,
    now: Timestamp,
) -> Result<(), ReportError> {
    let before = now - SignedDuration::from_secs(1);
    enter_of(pool, catalogue, organization_id, now, before).await?;
    let mut tx = WorkerTx::begin(pool).await?;
    let unsent = store::unsent(tx.conn(), Some(organization_id)).await?;
    tx.commit().await?;
    // What is left of earlier periods must not keep anybody from leaving.
    let due = |row: &Unsent| row.at >= since && !is_doubtful(row);
    for row in unsent.into_iter().filter(due) {
        match send_one(pool, client, &row).await? {
            Sending::Failed(error) if !is_final(&error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Whether Stripe will never take it, however often it is sent: a quantity beyond
/// what it counts, or a customer that is gone. It stays a finding of `doctor`, and
/// keeps nobody from leaving.
fn is_final(error: &StripeError) -> bool {
    let about_it = |name: &str| name.starts_with("payload[") || name.starts_with("meter_event_");
    matches!(error.kind, ErrorKind::InvalidRequest | ErrorKind::NotFound)
        && [&error.param, &error.code]
            .into_iter()
            .flatten()
            .any(|name| about_it(name))
}

/// Whether Stripe may have forgotten that it heard of it.
fn is_doubtful(row: &Unsent) -> bool {
    let forgotten = Timestamp::now() - REMEMBERED;
    row.attempted_at.is_some_and(|at| at < forgotten)
}

/// Reports usage to Stripe's meters. `progress` hears of each meter event.
pub async fn report(
    pool: &PgPool,
    client: &Client,
    catalogue: &Catalogue,
    now: Timestamp,
    progress: impl Fn(usize, usize),
) -> Result<Report, ReportError> {
    enter(pool, catalogue, now).await?;
    let mut tx = WorkerTx::begin(pool).await?;
    let unsent = store::unsent(tx.conn(), None).await?;
    tx.commit().await?;
    let (doubtful, unsent): (Vec<Unsent>, Vec<Unsent>) = unsent.into_iter().partition(is_doubtful);
    let total = unsent.len();
    let mut by_organization = BTreeMap::<Uuid, Vec<Unsent>>::new();
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
        .map(|rows| send_all(pool, client, rows));
    let mut sending = futures_util::stream::iter(sending).buffer_unordered(BESIDE);
    while let Some(done) = sending.next().await {
        let (sent, failed, refused) = done?;
        report.sent += sent;
        report.failed += failed;
        report.refused += refused;
        let so_far = report.sent + report.failed + report.refused;
        progress(usize::try_from(so_far).unwrap_or(total), total);
    }
    metrics::usage_reports("sent", report.sent);
    metrics::usage_reports("failed", report.failed);
    metrics::usage_reports("doubtful", report.doubtful);
    metrics::usage_reports("refused", report.refused);
    report.metrics = books(pool, catalogue, now).await?;
    report.unbilled = unbilled(pool, catalogue, now).await?;
    for found in &report.unbilled {
        if found.reason == Reason::CustomerDeleted && report.refused == 0 {
            // It was logged and counted when Stripe refused it, and nothing is left to be
            // done in time.
            continue;
        }
        metrics::usage_unbilled(found.reason.as_str());
        if found.reason == Reason::CustomerDeleted {
            continue;
        }
        tracing::warn!(
            organization_id = %found.organization_id,
            metric = found.metric,
            period_start = %found.period_start,
            units = %found.units.0,
            reason = found.reason.as_str(),
            "Usage is not billed as it was used"
        );
    }
    Ok(report)
}

/// Sends an organization's, one after the other: how many were sent, failed, and
/// were refused for good.
async fn send_all(
    pool: &PgPool,
    client: &Client,
    rows: Vec<Unsent>,
) -> Result<(u64, u64, u64), sqlx::Error> {
    let (mut sent, mut failed, mut refused) = (0, 0, 0);
    for row in rows {
        match send_one(pool, client, &row).await? {
            Sending::Sent => sent += 1,
            Sending::Failed(_) => failed += 1,
            Sending::Refused => refused += 1,
        }
    }
    Ok((sent, failed, refused))
}

/// What became of a report.
enum Sending {
    Sent,
    Failed(StripeError),
    /// Its customer is deleted.
    Refused,
}

/// Whether Stripe has deleted the customer of a report that it did not take. One
/// that it does not know may be another account's, and another key's to tell.
async fn is_deleted(client: &Client, row: &Unsent, error: &StripeError) -> bool {
    let about_customer = error.param.as_deref() == Some("payload[stripe_customer_id]");
    if !about_customer && !error.is_missing_customer() {
        return false;
    }
    let found = client.customer(&row.stripe_customer_id).await;
    found.is_ok_and(|customer| customer.deleted)
}

/// Sends a report.
async fn send_one(pool: &PgPool, client: &Client, row: &Unsent) -> Result<Sending, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::attempting(tx.conn(), row).await?;
    tx.commit().await?;
    if !open {
        return Ok(Sending::Sent);
    }
    let answer = send(client, row).await;
    let deleted = match &answer {
        Err(error) => is_deleted(client, row, error).await,
        Ok(()) => false,
    };
    let mut tx = WorkerTx::begin(pool).await?;
    let became = match answer {
        Ok(()) => {
            store::sent(tx.conn(), row).await?;
            // What is taken back was counted when it was told.
            metrics::usage_reported(row.units.max(Decimal::ZERO).to_u64().unwrap_or(u64::MAX));
            Sending::Sent
        }
        Err(error) if deleted => {
            tracing::error!(
                %error, organization_id = %row.organization_id, metric = row.metric,
                units = %row.units, stripe_customer_id = row.stripe_customer_id,
                "Usage is lost: its customer was deleted in Stripe before it was told"
            );
            store::refused(tx.conn(), row, &error.to_string()).await?;
            Sending::Refused
        }
        Err(error) => {
            tracing::warn!(
                %error, organization_id = %row.organization_id, metric = row.metric,
                identifier = row.identifier, "Usage could not be reported"
            );
            // A refusal is certain; anything else may have been heard.
            let certain = !error.may_have_acted();
            store::failed(tx.conn(), row, &error.to_string(), certain).await?;
            Sending::Failed(error)
        }
    };
    tx.commit().await?;
    Ok(became)
}

async fn send(client: &Client, row: &Unsent) -> Result<(), StripeError> {
    let params = Params::new()
        .set("event_name", &row.event_name)
        .set("identifier", &row.identifier)
        .set("timestamp", row.at.as_second())
        .set("payload[stripe_customer_id]", &row.stripe_customer_id)
        .set("payload[value]", row.units.normalize().to_string());
    // The identifier keeps it from being taken twice. A key of its own for each
    // attempt, since Stripe repeats its failures for the same key.
    let key = format!("{}-{}", row.identifier, Uuid::now_v7().simple());
    match client.create_meter_event(&params, &key).await {
        // It was heard of before, and the answer was lost.
        Err(error) if is_duplicate(&error) => Ok(()),
        answer => answer,
    }
}

fn is_duplicate(error: &StripeError) -> bool {
    error.kind == ErrorKind::InvalidRequest
        && (error.code.as_deref() == Some(DUPLICATE)
            || error.message.contains("already exists with identifier"))
}

/// What was promised to be billed, and is billed by nothing, over the periods
/// that Stripe still takes.
pub async fn unbilled(
    pool: &PgPool,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<Vec<Unbilled>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), catalogue, now, None).await?;
    tx.commit().await?;
    Ok(open
        .iter()
        .filter_map(|total| due::unbilled(total, now))
        .collect())
}

/// How the books stand.
pub async fn books(
    pool: &PgPool,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<Vec<Books>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), catalogue, now, None).await?;
    let unsent = store::unsent(tx.conn(), None).await?;
    let mut books = BTreeMap::<String, (Decimal, Decimal)>::new();
    for total in &open {
        let Some(billed) = &total.billed else {
            continue;
        };
        let (counted, reported) = books.entry(total.metric.clone()).or_default();
        // What Stripe will never take is a finding, and waits for nothing.
        *counted += due::billed_units(total, billed.included) - total.refused;
        *reported += total.reported - total.refused;
    }
    for row in &unsent {
        let level = catalogue
            .metric(&row.metric)
            .is_some_and(|metric| metric.aggregation == Aggregation::Last);
        if let Some((_, reported)) = books.get_mut(&row.metric)
            && !level
        {
            *reported -= row.units;
        }
    }
    Ok(books
        .into_iter()
        .map(|(metric, (counted, reported))| Books {
            metric,
            counted: Number(counted),
            reported: Number(reported),
            pending: Number(counted - reported),
        })
        .collect())
}
