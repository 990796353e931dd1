//! Explains an effect by its causes: an event, an invoice, a use that was refused, an
//! organization's plan, what it may use of a metric, or a feature. Each answer is a sentence, and so is each cause, with
//! the facts that it states. Nothing here decides: what others decided is read.

mod denial;
mod event;
mod feature;
mod invoice;
mod metric;
mod plan;
pub mod routes;
mod store;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::metering::ledger::Rules;

/// The audit action for an operator who asked.
pub const EXPLAINED: &str = "explained";

/// The audit actions this module writes.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [EXPLAINED].into_iter()
}

/// What is to be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Event(String),
    Invoice(String),
    /// A use that was refused, by the id of its request.
    Denial(String),
    /// Which plan an organization has, or had then.
    Plan {
        organization_id: Uuid,
        at: Option<Timestamp>,
    },
    /// What it may use of a metric, or might have used then.
    Metric {
        organization_id: Uuid,
        metric: String,
        at: Option<Timestamp>,
    },
    Feature {
        organization_id: Uuid,
        feature: String,
    },
}

/// What kind of cause it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// What the catalogue says.
    Rule,
    /// A version of a plan.
    Version,
    /// What an operator set instead.
    Override,
    Subscription,
    /// A line of an invoice.
    Line,
    Payment,
    /// What was used.
    Usage,
    GracePeriod,
    /// A use that was refused.
    Denial,
    /// An event of Stripe's.
    Event,
    /// An entry of the audit log.
    AuditEntry,
}

/// A cause: a sentence, and the facts that it states.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    pub kind: CauseKind,
    #[schema(
        example = "By the plan free (version 1), 100 agent_executions are included, and over that it is grace."
    )]
    pub sentence: String,
    /// By their names; amounts are in minor units, quantities are text.
    #[schema(value_type = Object)]
    pub facts: Value,
}

impl Cause {
    fn new(kind: CauseKind, sentence: String, facts: Value) -> Self {
        Self {
            kind,
            sentence,
            facts,
        }
    }
}

/// An effect with its causes, the nearest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What was asked about: an event, an invoice, a request, a plan, a metric or a feature.
    #[schema(example = "evt_1")]
    pub subject: String,
    #[schema(required)]
    pub organization_id: Option<Uuid>,
    pub answer: String,
    pub causes: Vec<Cause>,
}

#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(
        "event {0} is not stored; `webhooks backfill --since 30d` fetches what Stripe still has"
    )]
    NoEvent(String),
    #[error(
        "invoice {0} is not known here; if Stripe has it, `subscriptions reconcile --apply` fetches it"
    )]
    NoInvoice(String),
    #[error(
        "no refused use has the request id {0:?}; they are kept for 30 days, and the newest 500 of an \
         organization; the log has more of them as `Use denied`"
    )]
    NoDenial(String),
    #[error("organization {0} not found; `organizations list` shows them")]
    NoOrganization(Uuid),
    #[error("unknown metric {metric:?}; expected one of {known}")]
    NoMetric { metric: String, known: String },
    #[error("unknown feature {feature:?}; {known}")]
    NoFeature { feature: String, known: String },
    #[error("the time {0} has not come; leave it out to ask about now")]
    Future(Timestamp),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Answers a question at `now`.
pub async fn explain(
    pool: &PgPool,
    rules: &Rules,
    question: &Question,
    now: Timestamp,
) -> Result<Explanation, ExplainError> {
    let asked_at = match question {
        Question::Plan { at, .. } | Question::Metric { at, .. } => *at,
        _ => None,
    };
    if let Some(at) = asked_at.filter(|at| *at > now) {
        return Err(ExplainError::Future(at));
    }
    let mut tx = crate::db::WorkerTx::begin(pool).await?;
    let conn = tx.conn();
    let explanation = match question {
        Question::Event(id) => event::explain(conn, id).await,
        Question::Invoice(id) => invoice::explain(conn, id).await,
        Question::Denial(id) => denial::explain(conn, rules, id).await,
        Question::Plan {
            organization_id,
            at,
        } => plan::explain(conn, &rules.catalogue, *organization_id, *at).await,
        Question::Metric {
            organization_id,
            metric,
            at,
        } => metric::explain(conn, rules, *organization_id, metric, at.unwrap_or(now)).await,
        Question::Feature {
            organization_id,
            feature,
        } => feature::explain(conn, &rules.catalogue, *organization_id, feature).await,
    };
    tx.rollback().await?;
    explanation
}

/// An amount as people write it: `99.00 USD`.
pub fn money(minor: i64, currency: &str) -> String {
    let major = billing_domain::money::major(minor, currency);
    format!("{major} {}", currency.to_uppercase())
}

/// The time as text says it, to the second.
fn at(time: Timestamp) -> String {
    time.round(jiff::Unit::Second).unwrap_or(time).to_string()
}
