//! Waits until Stripe has counted what it was told. It accepts meter events first and
//! counts them some time later; an invoice that is made in between lacks them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rust_decimal::Decimal;
use sqlx::postgres::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::ReportError;
use super::store::{self, ToldLately};
use crate::db::WorkerTx;
use crate::stripe::client::{Client, ErrorKind, Meter, StripeError};
use crate::telemetry::metrics;

/// How long a caller that is refused waits before it asks again.
pub const TRY_AGAIN_SECS: u32 = 15;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// An organization, and the time from which its usage is about to be invoiced: both by the
/// customer's time, which may be a test clock's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Invoiced {
    pub organization_id: Uuid,
    pub since: Timestamp,
    pub now: Timestamp,
}

/// Returns once Stripe has counted what it was told lately of the usage that is about to
/// be invoiced. If it has not within the client's patience, nothing may be invoiced, and
/// the caller tries again later: until what it was told has been uncounted for so long that
/// it is taken for lost. Then the invoice is compared with it (`invoiced`).
pub(super) async fn wait(
    pool: &PgPool,
    client: &Client,
    invoiced: Invoiced,
) -> Result<(), ReportError> {
    let deadline = Instant::now() + client.patience().counting;
    let mut pause = FIRST_PAUSE;
    let mut meters = None;
    loop {
        // Read again each time: another process may tell Stripe more meanwhile.
        let told = told_lately(pool, invoiced).await?;
        if told.is_empty() {
            return Ok(());
        }
        let uncounted = match find_uncounted(client, &mut meters, &told).await {
            Ok(uncounted) => uncounted,
            Err(error) if is_unknowable(&error) => {
                tracing::warn!(
                    %error, organization_id = %invoiced.organization_id,
                    "It cannot be known whether Stripe has counted the usage that it invoices"
                );
                metrics::usage_counted("unknown");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let Some(uncounted) = uncounted else {
            clear(pool, invoiced.organization_id, &told).await?;
            metrics::usage_counted("counted");
            return Ok(());
        };
        if Instant::now() + pause > deadline {
            return refuse(pool, invoiced, uncounted).await;
        }
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Whether Stripe will not say how much it has counted, however often it is asked: the key
/// may not read that, or the meter or the customer is gone.
fn is_unknowable(error: &StripeError) -> bool {
    matches!(
        error.kind,
        ErrorKind::Permission | ErrorKind::NotFound | ErrorKind::InvalidRequest
    )
}

async fn told_lately(pool: &PgPool, invoiced: Invoiced) -> Result<Vec<ToldLately>, sqlx::Error> {
    // Stripe sums up whole minutes.
    let minute = invoiced.now.as_second().div_euclid(60) + 1;
    let until = Timestamp::from_second(minute * 60).unwrap_or(Timestamp::MAX);
    let mut tx = WorkerTx::begin(pool).await?;
    let told =
        store::told_lately(tx.conn(), invoiced.organization_id, invoiced.since, until).await?;
    tx.commit().await?;
    Ok(told)
}

/// The first metric whose count in Stripe differs from what was reported. A higher count
/// differs as well: a correction is still missing.
async fn find_uncounted<'a>(
    client: &Client,
    meters: &mut Option<BTreeMap<String, Meter>>,
    told: &'a [ToldLately],
) -> Result<Option<&'a ToldLately>, StripeError> {
    let meters = match meters {
        Some(meters) => meters,
        None => meters.insert(active_meters(client).await?),
    };
    for told in told {
        // Who archives a meter ends what it bills.
        let Some(meter) = meters.get(&told.event_name) else {
            continue;
        };
        let is_level = meter.default_aggregation.formula == "last";
        let units = if is_level { told.level } else { told.sum };
        let window = (told.from, told.until);
        let customer = &told.stripe_customer_id;
        let counted = client.counted_usage(&meter.id, customer, window).await?;
        if counted != units.max(Decimal::ZERO) {
            return Ok(Some(told));
        }
    }
    Ok(None)
}

async fn active_meters(client: &Client) -> Result<BTreeMap<String, Meter>, StripeError> {
    let meters = client.meters().await?.into_iter();
    let active = meters.filter(|meter| meter.status == "active");
    Ok(active
        .map(|meter| (meter.event_name.clone(), meter))
        .collect())
}

/// Has the caller try again, unless what is uncounted is taken for lost.
async fn refuse(
    pool: &PgPool,
    invoiced: Invoiced,
    uncounted: &ToldLately,
) -> Result<(), ReportError> {
    let Invoiced {
        organization_id, ..
    } = invoiced;
    let metric = &uncounted.metric;
    if uncounted.overdue {
        tracing::warn!(
            %organization_id, metric,
            "Stripe has not counted usage that was reported minutes ago; the invoice leaves it out"
        );
        metrics::usage_counted("overdue");
        return Ok(());
    }
    tracing::warn!(%organization_id, metric, "Stripe has not counted the reported usage yet");
    metrics::usage_counted("uncounted");
    let mut tx = WorkerTx::begin(pool).await?;
    store::mark_uncounted(tx.conn(), organization_id, uncounted).await?;
    tx.commit().await?;
    Err(ReportError::Uncounted {
        metric: metric.clone(),
    })
}

/// Forgets that Stripe was waited for.
async fn clear(
    pool: &PgPool,
    organization_id: Uuid,
    told: &[ToldLately],
) -> Result<(), sqlx::Error> {
    if !told.iter().any(|told| told.marked) {
        return Ok(());
    }
    let mut tx = WorkerTx::begin(pool).await?;
    store::clear_uncounted(tx.conn(), organization_id).await?;
    tx.commit().await
}
