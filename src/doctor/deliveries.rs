//! Deliveries to the webhook endpoint, and refused ones.

use sqlx::postgres::PgPool;

use super::Check;
use crate::db::WorkerTx;
use crate::webhooks::rejections::{LastDelivery, Rejected, last_delivery, of_last_day};

/// The last delivery, whether or not Stripe can be asked.
pub async fn last(pool: &PgPool) -> Check {
    let name = "last delivery";
    match read(pool).await {
        Ok((Some(event), _)) if event.thin => Check::warning(
            name,
            format!(
                "{} at {}, a thin event",
                event.event_type, event.received_at
            ),
            "configure the endpoint in Stripe to send snapshots: thin events lack the object's content",
        ),
        Ok((Some(event), _)) => Check::ok(
            name,
            format!("{} at {}", event.event_type, event.received_at),
        ),
        Ok((None, _)) => Check::warning(
            name,
            "Stripe has never delivered an event (`webhooks backfill` does not count)",
            "send a test event from Stripe's dashboard, and check the endpoint's address",
        ),
        Err(error) => Check::unanswered(name, error),
    }
}

/// Deliveries refused within the last day.
pub async fn refused(pool: &PgPool) -> Check {
    match read(pool).await {
        Ok((newest, rejected)) => verdict(newest.as_ref(), &rejected),
        Err(error) => Check::unanswered(REFUSED, error),
    }
}

const REFUSED: &str = "refused deliveries";

type Deliveries = (Option<LastDelivery>, Vec<Rejected>);

async fn read(pool: &PgPool) -> Result<Deliveries, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let newest = last_delivery(tx.conn()).await?;
    let rejected = of_last_day(tx.conn()).await?;
    tx.commit().await?;
    Ok((newest, rejected))
}

/// If no delivery was accepted after a refused one, that was most likely Stripe's.
fn verdict(newest: Option<&LastDelivery>, rejected: &[Rejected]) -> Check {
    let listed: Vec<String> = rejected
        .iter()
        .map(|one| {
            format!(
                "{} {} (the last at {})",
                one.deliveries, one.reason, one.last_at
            )
        })
        .collect();
    let listed = listed.join(", ");
    let by_fault: Vec<(&Rejected, &'static str)> = rejected
        .iter()
        .filter_map(|one| Some((one, fix(&one.reason)?)))
        .collect();
    let Some((worst, fix)) = by_fault.iter().max_by_key(|(one, _)| one.last_at) else {
        return match listed.is_empty() {
            true => Check::ok(REFUSED, "none within a day"),
            false => Check::ok(
                REFUSED,
                format!(
                    "{listed}: none with a signature that does not match; Stripe signs everything"
                ),
            ),
        };
    };
    let since = |event: &LastDelivery| worst.last_at > event.received_at;
    if newest.is_none_or(since) {
        Check::failed(REFUSED, format!("{listed}; none was accepted since"), *fix)
    } else {
        Check::warning(REFUSED, listed, *fix)
    }
}

/// What to do if `reason` may have refused a delivery of Stripe's.
fn fix(reason: &str) -> Option<&'static str> {
    match reason {
        "signature_invalid" => Some(
            "copy the signing secret of this endpoint from Stripe's dashboard to \
             STRIPE_WEBHOOK_SECRET, restart, then run `webhooks backfill --since 3d`",
        ),
        "timestamp_out_of_tolerance" => Some(
            "synchronize this host's clock with NTP, or find out what delays deliveries; then run \
             `webhooks backfill --since 3d`",
        ),
        "payload_invalid" | "payload_too_large" => Some(
            "check that no proxy changes request bodies, then run `webhooks backfill --since 3d`",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use jiff::Timestamp;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn refusals_fail_until_a_delivery_is_accepted_again() {
        let rejected = |reason: &str, second| Rejected {
            reason: reason.to_owned(),
            deliveries: 3,
            last_at: at(second),
        };
        let delivery = |second| LastDelivery {
            event_type: "invoice.paid".to_owned(),
            received_at: at(second),
            thin: false,
        };
        let of = |newest: Option<LastDelivery>, rejected: &[Rejected]| {
            verdict(newest.as_ref(), rejected).verdict
        };
        assert_eq!(of(None, &[]), Verdict::Ok);
        let wrong = [rejected("signature_invalid", 100)];
        assert_eq!(of(None, &wrong), Verdict::Failed);
        assert_eq!(of(Some(delivery(99)), &wrong), Verdict::Failed);
        assert_eq!(of(Some(delivery(101)), &wrong), Verdict::Warning);
        let unsigned = [rejected("signature_missing", 100)];
        assert_eq!(of(None, &unsigned), Verdict::Ok, "nobody knows whose");
    }
}
