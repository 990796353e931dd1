//! Uses that were refused: noted as they are answered, and stored beside the requests, so that
//! each can be explained by its request's id. What is stored is bounded in memory, by
//! organization and by age: a flood of refusals fills nothing and slows nothing.

mod store;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use billing_domain::quota::Decision;
use jiff::Timestamp;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::ledger::QuotaDecision;
use crate::db::WorkerTx;
use crate::server::layers::RequestId;
use crate::telemetry::metrics;

/// Time between two writes.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Refusals that wait to be written.
const ROOM: usize = 4_096;
/// Those of one organization among them.
const ROOM_OF_ONE: usize = 20;
/// The newest refusals of an organization that stay.
pub const KEPT_OF_ONE: i64 = 500;

/// A use that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub request_id: String,
    pub denied_at: Timestamp,
    /// The code of the answer.
    pub reason: String,
    pub metric: Option<String>,
    pub feature: Option<String>,
    pub usage: Option<Decimal>,
    pub quota: Option<Decimal>,
    pub grace_expires_at: Option<Timestamp>,
}

/// Where refusals wait to be stored.
#[derive(Clone, Default)]
pub struct Denials(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    denials: Vec<Denial>,
    of_each: HashMap<Uuid, usize>,
}

impl Denials {
    /// Notes a use of `metric` that the quota refused, with the id of the request that is being
    /// answered.
    pub fn of_use(&self, organization_id: Uuid, metric: &str, decided: &QuotaDecision) {
        let Some(reason) = decided.decision.refusal() else {
            return;
        };
        let grace = match decided.decision {
            Decision::GraceExpired { grace } => Some(grace),
            Decision::GraceExhausted { grace } => grace,
            _ => None,
        };
        self.note(organization_id, reason, |denial| Denial {
            metric: Some(metric.to_owned()),
            usage: Some(decided.usage),
            quota: decided.limit,
            grace_expires_at: grace.map(|grace| grace.expires_at),
            ..denial
        });
    }

    /// Notes that a feature was asked for which is not included.
    pub fn of_feature(&self, organization_id: Uuid, feature: &str, reason: &str) {
        self.note(organization_id, reason, |denial| Denial {
            feature: Some(feature.to_owned()),
            ..denial
        });
    }

    fn note(&self, organization_id: Uuid, reason: &str, of: impl FnOnce(Denial) -> Denial) {
        // What is refused outside a request has no id that somebody could ask about.
        let Some(request) = RequestId::current() else {
            return;
        };
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.denials.len() >= ROOM {
            metrics::denials::dropped("full", 1);
            return;
        }
        let of_one = waiting.of_each.entry(organization_id).or_default();
        if *of_one >= ROOM_OF_ONE {
            metrics::denials::dropped("share", 1);
            return;
        }
        *of_one += 1;
        waiting.denials.push(of(Denial {
            organization_id,
            id: Uuid::now_v7(),
            request_id: request.as_str().to_owned(),
            denied_at: Timestamp::now(),
            reason: reason.to_owned(),
            metric: None,
            feature: None,
            usage: None,
            quota: None,
            grace_expires_at: None,
        }));
    }

    fn take(&self) -> Vec<Denial> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting).denials
    }

    /// Stores what waits, and removes the oldest of organizations that have more than may stay.
    pub async fn store(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let denials = self.take();
        if denials.is_empty() {
            return Ok(());
        }
        let count = denials.len();
        let stored = async {
            let mut tx = WorkerTx::begin(pool).await?;
            store::insert(tx.conn(), &denials).await?;
            store::trim(tx.conn(), &denials, KEPT_OF_ONE).await?;
            tx.commit().await
        };
        let stored = stored.await;
        match stored {
            Ok(()) => metrics::denials::stored(count),
            Err(_) => metrics::denials::dropped("failed", count),
        }
        stored
    }
}

/// The refusals of requests with this id, the newest first.
pub async fn of_request(
    conn: &mut PgConnection,
    request_id: &str,
    limit: i64,
) -> Result<Vec<Denial>, sqlx::Error> {
    store::of_request(conn, request_id, limit).await
}

/// The newest refusals of a metric until a time.
pub async fn of_metric(
    conn: &mut PgConnection,
    (organization_id, metric): (Uuid, &str),
    until: Timestamp,
    limit: i64,
) -> Result<Vec<Denial>, sqlx::Error> {
    store::of_metric(conn, (organization_id, metric), until, limit).await
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    async fn refused(denials: &Denials, organizations: u128, times: usize) {
        let during = async {
            for organization in 0..organizations {
                for _ in 0..times {
                    denials.of_feature(
                        Uuid::from_u128(organization),
                        "sso",
                        "feature_not_included",
                    );
                }
            }
        };
        RequestId::of(&HeaderMap::new()).during(during).await;
    }

    #[tokio::test]
    async fn a_flood_of_one_leaves_room_for_others_and_all_have_a_bound() {
        let denials = Denials::default();
        refused(&denials, 1, 10_000).await;
        refused(&denials, 3, 1).await;
        assert_eq!(denials.take().len(), ROOM_OF_ONE + 2);
        refused(&denials, 10_000, 1).await;
        assert_eq!(denials.take().len(), ROOM);
        refused(&denials, 2, 1).await;
        assert_eq!(denials.take().len(), 2, "what was taken leaves its room");
    }

    #[test]
    fn what_is_refused_outside_a_request_is_not_noted() {
        let denials = Denials::default();
        denials.of_feature(Uuid::nil(), "sso", "feature_not_included");
        assert_eq!(denials.take(), []);
    }
}
