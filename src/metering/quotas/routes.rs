//! `/api/billing/usage`, `/api/billing/quotas`, and the operators' quota routes.

use axum::Json;
use axum::extract::State;
use billing_domain::quantity::QuantityError;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::postgres::PgPool;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, OneOfBuilder, Schema, Type};
use utoipa_axum::routes;
use uuid::Uuid;

use super::{QUOTAS_LISTED, QuotaLimit, QuotaOverride, QuotaRow, SetError, SetQuota, store};
use crate::audit;
use crate::catalogue::OverLimit;
use crate::db::TenantTx;
use crate::metering::ledger::Rules;
use crate::metering::usage::{self, MetricUsage};
use crate::server::Shared;
use crate::server::extract::{self, Path};
use crate::server::pagination::page::Page;
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, operator, tenant};
use crate::tenancy::auth::{Operator, Principal};

/// What the handlers need.
#[derive(Clone)]
pub struct Reading {
    pub shared: Shared,
    pub rules: Rules,
}

pub fn routes() -> Routes<Reading> {
    let read = tenant(Permission::BillingRead);
    Routes::new()
        .route(routes!(usage_of_all), read)
        .route(routes!(usage_of_one), read)
        .route(routes!(quotas), read)
        .route(routes!(quotas_of), operator())
        .route(routes!(set_quota), operator())
}

impl Reading {
    fn in_force(&self, rows: Vec<QuotaRow>) -> Page<QuotaRow> {
        let catalogue = &self.rules.catalogue;
        let rows = rows.into_iter().map(|row| row.in_force(catalogue));
        Page::only(rows.collect())
    }

    async fn usage(&self, caller: &Principal) -> Result<Vec<MetricUsage>, Problem> {
        let organization_id = caller.organization_id;
        let mut tx = self.shared.read(organization_id).await?;
        Ok(usage::read_all(tx.conn(), &self.rules, organization_id).await?)
    }
}

/// Usage in the current billing period, by metric
#[utoipa::path(
    get,
    path = "/api/billing/usage",
    operation_id = "listUsage",
    tag = "Usage",
    responses((status = 200, description = "The usage.", body = Page<MetricUsage>)),
)]
async fn usage_of_all(
    State(reading): State<Reading>,
    caller: Principal,
) -> Result<Json<Page<MetricUsage>>, Problem> {
    Ok(Json(Page::only(reading.usage(&caller).await?)))
}

/// Usage of one metric in the current billing period
#[utoipa::path(
    get,
    path = "/api/billing/usage/{metric}",
    operation_id = "getUsage",
    tag = "Usage",
    params(("metric" = String, Path, description = "The metric's name.", example = "llm_tokens")),
    responses((status = 200, description = "The usage.", body = MetricUsage)),
)]
async fn usage_of_one(
    State(reading): State<Reading>,
    caller: Principal,
    Path(metric): Path<String>,
) -> Result<Json<MetricUsage>, Problem> {
    let all = reading.usage(&caller).await?;
    let found = all.into_iter().find(|usage| usage.metric == metric);
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found("metric not found"))
}

/// The quotas in force, by metric
#[utoipa::path(
    get,
    path = "/api/billing/quotas",
    operation_id = "listQuotas",
    tag = "Usage",
    responses((status = 200, description = "The quotas.", body = Page<QuotaRow>)),
)]
async fn quotas(
    State(reading): State<Reading>,
    caller: Principal,
) -> Result<Json<Page<QuotaRow>>, Problem> {
    let mut tx = reading.shared.read(caller.organization_id).await?;
    let rows = store::list(tx.conn(), caller.organization_id).await?;
    Ok(Json(reading.in_force(rows)))
}

/// An organization's quotas
#[utoipa::path(
    get,
    path = "/api/operator/organizations/{organization}/quotas",
    operation_id = "listOrganizationQuotas",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id.")),
    responses((status = 200, description = "The quotas.", body = Page<OperatorQuota>)),
)]
async fn quotas_of(
    State(reading): State<Reading>,
    operator: Operator,
    Path(organization): Path<Uuid>,
) -> Result<Json<Page<OperatorQuota>>, Problem> {
    let pool: &PgPool = &reading.shared.pool;
    let mut tx = TenantTx::begin(pool, organization).await?;
    let rows = store::list(tx.conn(), organization).await?;
    if rows.is_empty() {
        return Err(Problem::not_found("organization not found"));
    }
    let mut overrides = store::overrides(tx.conn(), organization).await?;
    let all = "all".to_owned();
    let entry = operator.did(QUOTAS_LISTED, Some(organization), "quota", all);
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    let of = |overrides: &mut Vec<QuotaOverride>, metric: &str| {
        let at = overrides.iter().position(|one| one.metric == metric)?;
        Some(overrides.swap_remove(at))
    };
    let quotas = reading.in_force(rows).data.into_iter();
    let quotas = quotas.map(|quota| OperatorQuota {
        r#override: of(&mut overrides, &quota.metric),
        quota,
    });
    Ok(Json(Page::only(quotas.collect())))
}

/// A quota that replaces the plan's.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QuotaBody {
    /// A decimal number, as a number or a string; `unlimited`; or `plan` to
    /// return to the plan's quota.
    #[schema(schema_with = limit_schema)]
    limit: Box<RawValue>,
    /// `hard`, `grace` or `overage`; defaults to what the plan says.
    #[schema(value_type = Option<String>)]
    over_limit: Option<OverLimit>,
    /// Why, for the audit log and for the next operator.
    #[schema(min_length = 1, max_length = 500, example = "promised in the contract")]
    reason: Option<String>,
    /// When the override ends by itself; without it, it stays until it is removed.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// A quota in force, and what is known of the override.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OperatorQuota {
    #[serde(flatten)]
    quota: QuotaRow,
    #[schema(required)]
    r#override: Option<QuotaOverride>,
}

fn limit_schema() -> Schema {
    let of = |kind| Object::builder().schema_type(kind).build();
    let either = OneOfBuilder::new()
        .item(of(Type::String))
        .item(of(Type::Number))
        .description(Some(
            "A decimal number, as a number or a string; `unlimited`; or `plan` to return to the \
             plan's quota.",
        ))
        .examples([serde_json::json!("5000"), serde_json::json!(5000)]);
    either.build().into()
}

/// Parses the digits as written, so that they never pass through a float.
fn read_limit(json: &RawValue) -> Result<QuotaLimit, QuantityError> {
    match serde_json::from_str::<String>(json.get()) {
        Ok(text) => QuotaLimit::parse(&text),
        Err(_) => QuotaLimit::parse(json.get()),
    }
}

/// Set an organization's quota for a metric
///
/// The quota applies from the next decision, and ends a running grace period that it covers.
#[utoipa::path(
    put,
    path = "/api/operator/organizations/{organization}/quotas/{metric}",
    operation_id = "setOrganizationQuota",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id."),
           ("metric" = String, Path, description = "The metric's name.", example = "llm_tokens")),
    request_body = QuotaBody,
    responses((status = 200, description = "The quota in force.", body = QuotaRow)),
)]
async fn set_quota(
    State(reading): State<Reading>,
    operator: Operator,
    Path((organization_id, metric)): Path<(Uuid, String)>,
    extract::Json(body): extract::Json<QuotaBody>,
) -> Result<Json<QuotaRow>, Problem> {
    let invalid =
        |code, detail: String| Problem::new(axum::http::StatusCode::BAD_REQUEST, code, detail);
    let limit = read_limit(&body.limit).map_err(|error| {
        invalid(
            "invalid_limit",
            format!("limit: {error}; `unlimited` and `plan` are accepted too"),
        )
    })?;
    let command = SetQuota {
        organization_id,
        metric,
        limit,
        over_limit: body.over_limit,
        reason: body.reason,
        expires_at: body.expires_at,
        actor: operator.actor(),
        client: Some(operator.client),
    };
    let set = super::set(&reading.shared.pool, &reading.rules.catalogue, &command).await;
    Ok(Json(set?))
}

impl From<SetError> for Problem {
    fn from(error: SetError) -> Self {
        let text = error.to_string();
        let invalid = |code| Self::new(axum::http::StatusCode::BAD_REQUEST, code, text.clone());
        match error {
            SetError::Database(error) => error.into(),
            SetError::Organization(_) => Self::not_found("organization not found"),
            SetError::Erased(_) => Self::not_found("organization was erased"),
            SetError::Metric { .. } => Self::not_found("metric not found"),
            SetError::OverLimitOfPlan => invalid("invalid_limit"),
            SetError::NoRate { .. } => invalid("overage_without_rate"),
            SetError::Reason => invalid("invalid_reason"),
            SetError::Changed => Self::new(
                axum::http::StatusCode::CONFLICT,
                "override_changed",
                text.clone(),
            ),
            SetError::Past(_) | SetError::EndOfPlan => invalid("invalid_time"),
        }
    }
}
