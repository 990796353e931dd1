//! Telling Stripe of usage: whole units, each once. What is to be said is
//! entered before the call, under an identifier that Stripe takes once.

mod store;

use std::collections::BTreeMap;

use billing_domain::quantity::whole_units;
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;
use serde::Serialize;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::db::WorkerTx;
use crate::metrics;
use crate::number::Number;
use crate::plans::{Aggregation, Catalogue, meter_event_name};
use crate::stripe::client::{Client, ErrorKind, Params, StripeError};
use store::{Entered, Open, Unsent};

/// Stripe takes usage of the last 35 days; a little less, for its clock.
const OLDEST: SignedDuration = SignedDuration::from_hours(35 * 24 - 1);
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
    /// Those whose fate is unknown for so long that Stripe may take them twice:
    /// an operator must look.
    pub doubtful: u64,
    pub metrics: Vec<Books>,
}

/// The books of one metric, over the periods that Stripe still takes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Books {
    pub metric: String,
    /// Whole units that were counted, of organizations that are billed.
    pub counted: Number,
    /// Of them, what Stripe was told.
    pub reported: Number,
    /// And what it was not yet.
    pub pending: Number,
}

/// Enters what is to be reported at `now`; with an identifier for each hour, a
/// second run in it adds nothing.
async fn enter(pool: &PgPool, catalogue: &Catalogue, now: Timestamp) -> Result<(), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), catalogue, now - OLDEST).await?;
    tx.commit().await?;
    for total in open {
        let Some(entered) = to_report(catalogue, &total, now) else {
            continue;
        };
        let mut tx = WorkerTx::begin(pool).await?;
        if store::enter(tx.conn(), &total, &entered, now).await? {
            tx.commit().await?;
        } else {
            // Another run was first, or there was a report in this hour.
            tx.rollback().await?;
        }
    }
    Ok(())
}

/// What of a total Stripe is to be told; None: nothing new.
fn to_report(catalogue: &Catalogue, total: &Open, now: Timestamp) -> Option<Entered> {
    let aggregation = catalogue.metric(&total.metric)?.aggregation;
    let whole = whole_units(total.total);
    let units = match aggregation {
        Aggregation::Last => whole,
        Aggregation::Sum | Aggregation::Max => whole - total.reported,
    };
    if whole == total.reported || units.is_sign_negative() {
        return None;
    }
    // Of a period that ended, as its last second's.
    let last = total.period_end - SignedDuration::from_secs(1);
    let at = now.min(last);
    (at >= now - OLDEST).then(|| Entered {
        identifier: identifier(total, now),
        event_name: meter_event_name(&total.metric),
        units,
        reported: whole,
        at,
    })
}

/// One for an organization, metric, billing period and hour; at most 100
/// characters.
fn identifier(total: &Open, now: Timestamp) -> String {
    let hours = |at: Timestamp| at.as_second().div_euclid(3_600);
    format!(
        "{}-{}-{}-{}",
        total.organization_id.simple(),
        total.metric.chars().take(48).collect::<String>(),
        hours(total.period_start),
        hours(now)
    )
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
    let unsent = store::unsent(tx.conn()).await?;
    tx.commit().await?;
    let (doubtful, unsent): (Vec<Unsent>, Vec<Unsent>) = unsent
        .into_iter()
        .partition(|row| row.attempted_at.is_some_and(|at| at < now - REMEMBERED));
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
        let (sent, failed) = done?;
        report.sent += sent;
        report.failed += failed;
        let so_far = report.sent + report.failed;
        progress(usize::try_from(so_far).unwrap_or(total), total);
    }
    report.metrics = books(pool, catalogue, now).await?;
    Ok(report)
}

/// Sends an organization's, one after the other.
async fn send_all(
    pool: &PgPool,
    client: &Client,
    rows: Vec<Unsent>,
) -> Result<(u64, u64), sqlx::Error> {
    let (mut sent, mut failed) = (0, 0);
    for row in rows {
        let mut tx = WorkerTx::begin(pool).await?;
        store::attempting(tx.conn(), &row).await?;
        tx.commit().await?;
        let answer = send(client, &row).await;
        let mut tx = WorkerTx::begin(pool).await?;
        match answer {
            Ok(()) => {
                store::sent(tx.conn(), &row).await?;
                metrics::usage_reported(row.units.to_u64().unwrap_or(u64::MAX));
                sent += 1;
            }
            Err(error) => {
                tracing::warn!(%error, identifier = row.identifier, "usage could not be reported");
                // A refusal is certain; anything else may have been heard.
                let certain = !error.may_have_acted();
                store::failed(tx.conn(), &row, &error.to_string(), certain).await?;
                failed += 1;
            }
        }
        tx.commit().await?;
    }
    Ok((sent, failed))
}

async fn send(client: &Client, row: &Unsent) -> Result<(), StripeError> {
    let params = Params::new()
        .set("event_name", &row.event_name)
        .set("identifier", &row.identifier)
        .set("timestamp", row.at.as_second())
        .set("payload[stripe_customer_id]", &row.stripe_customer_id)
        .set("payload[value]", row.units.normalize().to_string());
    match client.create_meter_event(&params, &row.identifier).await {
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

/// How the books stand.
pub async fn books(
    pool: &PgPool,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<Vec<Books>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let open = store::open(tx.conn(), catalogue, now - OLDEST).await?;
    let unsent = store::unsent(tx.conn()).await?;
    let mut books = BTreeMap::<String, (Decimal, Decimal)>::new();
    for total in &open {
        let (counted, reported) = books.entry(total.metric.clone()).or_default();
        *counted += whole_units(total.total);
        *reported += total.reported;
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
