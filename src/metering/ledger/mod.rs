//! The ledger. Each lane of organizations has one writer, which takes queued requests from
//! each organization in turn, locks the accounts they touch, decides each request in order,
//! writes, commits, and answers. No cache can be stale, since what decides is read under the
//! lock. Requests for an account that another session holds are set aside and delay no other.

mod account;
mod closed_periods;
mod holds;
mod period_changes;
mod queue;
mod rejection;
mod requests;
mod reservation_expiry;
mod scheduled_levels;
mod set_aside;
pub(in crate::metering) mod store;
mod take_back;
mod transaction;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use rust_decimal::Decimal;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::catalogue::Catalogue;
use crate::catalogue::features::FeatureValue;
use crate::features::Needed;
use crate::telemetry::metrics;
use crate::telemetry::seldom::Seldom;
pub use account::{Account, QuotaDecision};
pub use closed_periods::ClosedPeriod;
use holds::Settling;
pub use holds::{Hold, HoldOutcome, NewHold, Settled, hold_id};
use jiff::Timestamp;
pub use period_changes::{close, rebook};
use queue::{Queue, Rejection, Responder};
pub use rejection::UsageRejection;
pub use reservation_expiry::release_expired;
pub use scheduled_levels::take_due;
use set_aside::Aside;
pub use store::{Renewed, Taken, rehearse, renew_reservations};
pub use take_back::{TakeBack, audit_actions};
use writer::{Committer, Patience, Writer};

/// A usage event as submitted by the client.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Unique in its organization.
    pub id: String,
    pub metric: String,
    pub quantity: Decimal,
    /// To the microsecond; `None` means now.
    pub occurred_at: Option<Timestamp>,
    /// A JSON object.
    pub metadata: Option<String>,
}

/// What is asked of the ledger.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Count what has happened.
    Record(Vec<NewEvent>),
    Check(Question),
    /// Hold a use for a call.
    Reserve {
        id: Uuid,
        metric: String,
        quantity: Decimal,
        ttl_secs: u32,
    },
    /// Take levels of the metric that were dated ahead, and whose time has come.
    TakeDue {
        metric: String,
    },
    /// Count what was held, or let it go.
    Settle {
        reservation: Reservation,
        used: bool,
    },
    /// Hold a use under an id of the product's.
    Hold {
        id: Uuid,
        hold: NewHold,
    },
    SettleHold(Box<Settling>),
    /// Take back a use that was counted by mistake.
    TakeBack(Box<TakeBack>),
}

/// A question about a use.
#[derive(Debug, Clone)]
pub struct Question {
    pub event: NewEvent,
    /// Whether to count the use if it is allowed.
    pub consume: bool,
    /// Whether its sender named the event, so that it may have come before.
    pub named: bool,
    /// A feature that the use needs besides.
    pub needs: Option<Needed>,
}

/// A use that is held for a call. A reservation that is not settled expires.
#[derive(Debug, Clone)]
pub struct Reservation {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub metric: String,
    pub quantity: Decimal,
}

impl Reservation {
    /// The use, once it is one.
    pub(super) fn event(&self) -> NewEvent {
        NewEvent {
            id: format!("reservation:{}", self.id),
            metric: self.metric.clone(),
            quantity: self.quantity,
            occurred_at: None,
            metadata: None,
        }
    }
}

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    Recorded,
    /// It was there already.
    Duplicate,
    Rejected(UsageRejection),
}

#[derive(Debug, Clone)]
pub(super) enum Reply {
    Recorded(Vec<Item>),
    Decided(QuotaDecision),
    /// The feature that the use needs has this value.
    Granted(QuotaDecision, FeatureValue),
    Rejected(UsageRejection),
    Settled,
    /// `None`: it is not allowed.
    Held(QuotaDecision, Option<Hold>),
    /// As it is settled, or still holds.
    HoldSettled(Box<Hold>, Option<QuotaDecision>),
    TakenBack(Taken),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("too much usage of this organization waits to be counted")]
    Crowded,
    #[error("too many requests wait to be counted")]
    Full,
    #[error("the database cannot count at the moment")]
    Unavailable,
    #[error(transparent)]
    Rejected(UsageRejection),
}

/// Where requests are handed in.
#[derive(Clone)]
pub struct Ledger {
    lanes: Arc<[Entrance]>,
    refused: Arc<Seldom>,
}

/// The queue of a lane, which is closed once nobody can ask any more.
struct Entrance(Arc<Queue>);

impl Drop for Entrance {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Ledger {
    /// Counts uses that have happened; durable when this returns.
    pub async fn record(
        &self,
        organization_id: Uuid,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Item>, LedgerError> {
        match self.ask(organization_id, Op::Record(events)).await? {
            Reply::Recorded(items) => Ok(items),
            other => Err(unexpected(&other)),
        }
    }

    /// Decides about a use, and counts it if it is allowed and to be consumed. Also
    /// the value of the feature that it needs.
    pub async fn check(
        &self,
        organization_id: Uuid,
        question: Question,
    ) -> Result<(QuotaDecision, Option<FeatureValue>), LedgerError> {
        match self.ask(organization_id, Op::Check(question)).await? {
            Reply::Decided(decided) => Ok((decided, None)),
            Reply::Granted(decided, value) => Ok((decided, Some(value))),
            other => Err(unexpected(&other)),
        }
    }

    /// Decides about a use, and holds it if it is allowed, for `ttl_secs` at
    /// most.
    pub async fn reserve(
        &self,
        organization_id: Uuid,
        metric: &str,
        quantity: Decimal,
        ttl_secs: u32,
    ) -> Result<(QuotaDecision, Option<Reservation>), LedgerError> {
        let id = Uuid::now_v7();
        let op = Op::Reserve {
            id,
            metric: metric.to_owned(),
            quantity,
            ttl_secs,
        };
        let decided = self.decide(organization_id, op).await?;
        let reservation = decided.decision.allowed().then(|| Reservation {
            organization_id,
            id,
            metric: metric.to_owned(),
            quantity,
        });
        Ok((decided, reservation))
    }

    /// Counts what was held if it was `used`, or lets it go.
    pub async fn settle(&self, reservation: Reservation, used: bool) -> Result<(), LedgerError> {
        let organization_id = reservation.organization_id;
        let op = Op::Settle { reservation, used };
        match self.ask(organization_id, op).await? {
            Reply::Settled => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes levels of a metric that were dated ahead, and whose time has come.
    pub async fn take_due(&self, organization_id: Uuid, metric: &str) -> Result<(), LedgerError> {
        let metric = metric.to_owned();
        match self.ask(organization_id, Op::TakeDue { metric }).await? {
            Reply::Settled => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn decide(&self, organization_id: Uuid, op: Op) -> Result<QuotaDecision, LedgerError> {
        match self.ask(organization_id, op).await? {
            Reply::Decided(decided) => Ok(decided),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, organization_id: Uuid, op: Op) -> Result<Reply, LedgerError> {
        // An organization is always in one lane, so that no two wait for each
        // other's locks.
        let lane = organization_id.as_u128() % self.lanes.len() as u128;
        let Entrance(queue) = &self.lanes[usize::try_from(lane).unwrap_or_default()];
        let answered = queue
            .push(organization_id, op)
            .map_err(|reason| self.refuse(reason, organization_id))?;
        answered.await.unwrap_or(Err(LedgerError::Unavailable))
    }

    fn refuse(&self, reason: Rejection, organization_id: Uuid) -> LedgerError {
        let (reason, error) = match reason {
            Rejection::Share => ("share", LedgerError::Crowded),
            Rejection::Full => ("full", LedgerError::Full),
            Rejection::Closed => return LedgerError::Unavailable,
        };
        metrics::usage_refused(reason);
        if let Some(requests) = self.refused.happened(Instant::now()) {
            tracing::warn!(
                reason,
                requests,
                %organization_id,
                "Usage refused: too much waits to be counted; the last organization is named"
            );
        }
        error
    }
}

fn unexpected(reply: &Reply) -> LedgerError {
    match reply {
        Reply::Rejected(rejection) => LedgerError::Rejected(*rejection),
        other => {
            tracing::error!(?other, "the ledger answered something else");
            LedgerError::Unavailable
        }
    }
}

/// The rules that the ledger counts by.
#[derive(Clone)]
pub struct Rules {
    pub catalogue: Arc<Catalogue>,
    pub grace_hours: u32,
}

/// The writers and those who wait for them, two tasks for each lane.
pub struct Writers(Vec<(Writer, Aside)>);

impl Writers {
    /// Until every clone of the ledger is gone.
    pub async fn run(self) {
        let lane = |(writer, aside): (Writer, Aside)| async {
            tokio::join!(writer.run(), aside.run());
        };
        futures_util::future::join_all(self.0.into_iter().map(lane)).await;
    }
}

/// A ledger, its writers, which may run on another thread, and who answers,
/// where it was asked, until they end.
pub fn new(
    options: PgConnectOptions,
    rules: Rules,
    lanes: usize,
) -> (Ledger, Writers, impl Future<Output = ()> + Send) {
    let (done, mut answered) = mpsc::unbounded_channel();
    let answers = async move {
        while let Some((responders, outcome)) = answered.recv().await {
            answer(responders, outcome);
        }
    };
    let lane = || {
        let queue = Queue::new();
        let (set_aside, waiting) = set_aside::line();
        let committer =
            |patience| Committer::new(options.clone(), rules.clone(), done.clone(), patience);
        let writer = Writer::new(committer(Patience::Short), queue.clone(), set_aside);
        let aside = Aside::new(committer(Patience::Long), waiting);
        (Entrance(queue), (writer, aside))
    };
    let (entrances, writers): (Vec<_>, Vec<_>) = (0..lanes.max(1)).map(|_| lane()).unzip();
    let ledger = Ledger {
        lanes: entrances.into(),
        refused: Arc::default(),
    };
    (ledger, Writers(writers), answers)
}

pub(super) type Outcome = Result<Vec<Reply>, LedgerError>;

fn answer(responders: Vec<Responder>, outcome: Outcome) {
    match outcome {
        Ok(replies) => {
            for (responder, reply) in responders.into_iter().zip(replies) {
                responder.answer(Ok(reply));
            }
        }
        Err(error) => {
            for responder in responders {
                responder.answer(Err(error.clone()));
            }
        }
    }
}
