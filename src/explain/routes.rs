//! `GET /api/operator/explain`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{EXPLAINED, ExplainError, Explanation, Question, explain};
use crate::audit;
use crate::db::WorkerTx;
use crate::metering::ledger::Rules;
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};
use crate::tenancy::auth::Operator;

/// What the handler needs.
#[derive(Clone)]
pub struct Explaining {
    pub shared: Shared,
    pub rules: Rules,
}

pub fn routes() -> Routes<Explaining> {
    Routes::new().route(routes!(of), operator())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct ExplainQuery {
    /// A webhook event, such as `evt_1`.
    pub event: Option<String>,
    /// An invoice, such as `in_1`.
    pub invoice: Option<String>,
    /// The `X-Request-Id` of an answer that refused a use.
    pub request_id: Option<String>,
    /// The organization whose plan is explained, or, with one of the following, that.
    pub organization_id: Option<Uuid>,
    /// A metric of the catalogue.
    pub metric: Option<String>,
    /// A feature of the catalogue.
    pub feature: Option<String>,
    /// As of when a plan or a metric is explained; by default, now.
    #[param(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
}

impl ExplainQuery {
    pub fn question(self) -> Result<Question, Problem> {
        let wrong = || {
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "question_invalid",
                "expected event; or invoice; or requestId; or organizationId, alone or with metric or feature; at \
                 goes with a plan or a metric",
            )
        };
        let Self {
            event,
            invoice,
            request_id,
            organization_id,
            metric,
            feature,
            at,
        } = self;
        let of_organization = metric.is_some() || feature.is_some() || at.is_some();
        match (event, invoice, request_id, organization_id) {
            (Some(event), None, None, None) if !of_organization => Ok(Question::Event(event)),
            (None, Some(invoice), None, None) if !of_organization => Ok(Question::Invoice(invoice)),
            (None, None, Some(request), None) if !of_organization => Ok(Question::Denial(request)),
            (None, None, None, Some(organization_id)) => match (metric, feature, at) {
                (None, None, at) => Ok(Question::Plan {
                    organization_id,
                    at,
                }),
                (Some(metric), None, at) => Ok(Question::Metric {
                    organization_id,
                    metric,
                    at,
                }),
                (None, Some(feature), None) => Ok(Question::Feature {
                    organization_id,
                    feature,
                }),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

/// Explain an event, an invoice, a refused use, a plan, a metric or a feature by its causes
///
/// Names one of `event`, `invoice`, `requestId` and `organizationId`.
#[utoipa::path(
    get,
    path = "/api/operator/explain",
    operation_id = "explain",
    tag = "Operators",
    params(ExplainQuery),
    responses((status = 200, description = "An answer, and its causes.", body = Explanation)),
)]
async fn of(
    State(state): State<Explaining>,
    caller: Operator,
    Query(query): Query<ExplainQuery>,
) -> Result<Json<Explanation>, Problem> {
    let question = query.question()?;
    state.answer(&caller, &question).await.map(Json)
}

impl Explaining {
    /// Answers an operator's question, and enters that it was asked.
    pub async fn answer(
        &self,
        operator: &Operator,
        question: &Question,
    ) -> Result<Explanation, Problem> {
        let (state, caller) = (self, operator);
        let pool = &state.shared.pool;
        let explained = explain(pool, &state.rules, question, Timestamp::now()).await?;
        let (subject, organization) = (explained.subject.clone(), explained.organization_id);
        let mut entry = caller.did(EXPLAINED, organization, "explanation", subject);
        entry.metadata = json!({"operator": true});
        let mut tx = WorkerTx::begin(pool).await?;
        audit::record_one(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(explained)
    }
}

impl From<ExplainError> for Problem {
    fn from(error: ExplainError) -> Self {
        match error {
            ExplainError::Database(error) => error.into(),
            ExplainError::Future(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "question_invalid",
                error.to_string(),
            ),
            _ => Self::not_found(error.to_string()),
        }
    }
}
