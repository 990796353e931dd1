//! `/api/billing/features`, and the operators' feature routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgPool;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::{
    FEATURES_LISTED, FeatureRow, Given, SetError, SetFeature, Source, UnsetFeature, store,
};
use crate::audit;
use crate::catalogue::Catalogue;
use crate::catalogue::features::FeatureValue;
use crate::db::TenantTx;
use crate::server::Shared;
use crate::server::extract::{self, Path, Query};
use crate::server::pagination::page::Page;
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, operator, tenant};
use crate::tenancy::auth::{Operator, Principal};

/// What the handlers need.
#[derive(Clone)]
pub struct FeatureState {
    pub shared: Shared,
    pub catalogue: Arc<Catalogue>,
}

pub fn routes() -> Routes<FeatureState> {
    Routes::new()
        .route(routes!(own), tenant(Permission::BillingRead))
        .route(routes!(features_of), operator())
        .route(routes!(set), operator())
        .route(routes!(unset), operator())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OwnQuery {
    /// Whether to say where each value comes from.
    #[serde(default)]
    #[param(default = false)]
    sources: bool,
}

/// A feature's value, alone or with where it comes from.
#[derive(Serialize)]
#[serde(untagged)]
enum FeatureEntry {
    Value(FeatureValue),
    Sourced(SourcedValue),
}

/// A feature's value, and where it comes from.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourcedValue {
    /// Null for a text that is off.
    value: Option<FeatureValue>,
    source: Source,
    /// When an override ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

impl FeatureEntry {
    /// The feature's name and entry; `None` for a text that is off.
    fn of(row: FeatureRow) -> Option<(String, Self)> {
        Some((row.feature, Self::Value(row.value?)))
    }

    fn with_source(row: FeatureRow) -> (String, Self) {
        let entry = SourcedValue {
            value: row.value,
            source: row.source,
            expires_at: row.r#override.and_then(|set| set.expires_at),
        };
        (row.feature, Self::Sourced(entry))
    }
}

/// The features in force
///
/// By name: `{"sso": true, "projects": 20, "support": "gold"}`. A flag that is off is `false`, a
/// number `0`; a text that is off is left out. With `sources`, each is an object with `value`,
/// `source` and, if an override ends by itself, `expiresAt`.
#[utoipa::path(
    get,
    path = "/api/billing/features",
    operation_id = "getFeatures",
    tag = "Features",
    params(OwnQuery),
    responses((status = 200, description = "The features.",
               body = BTreeMap<String, serde_json::Value>)),
)]
async fn own(
    State(state): State<FeatureState>,
    caller: Principal,
    Query(query): Query<OwnQuery>,
) -> Result<Json<BTreeMap<String, FeatureEntry>>, Problem> {
    let mut tx = state.shared.read(caller.organization_id).await?;
    let rows = super::list(tx.conn(), &state.catalogue, caller.organization_id).await?;
    let rows = rows.into_iter();
    Ok(Json(if query.sources {
        rows.map(FeatureEntry::with_source).collect()
    } else {
        rows.filter_map(FeatureEntry::of).collect()
    }))
}

/// An organization's features, and where each value comes from
#[utoipa::path(
    get,
    path = "/api/operator/organizations/{organization}/features",
    operation_id = "listOrganizationFeatures",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id.")),
    responses((status = 200, description = "The features.", body = Page<FeatureRow>)),
)]
async fn features_of(
    State(state): State<FeatureState>,
    operator: Operator,
    Path(organization): Path<Uuid>,
) -> Result<Json<Page<FeatureRow>>, Problem> {
    let pool: &PgPool = &state.shared.pool;
    let mut tx = TenantTx::begin(pool, organization).await?;
    if store::now_for(&mut tx).await?.is_none() {
        return Err(Problem::not_found("organization not found"));
    }
    let rows = super::list(tx.conn(), &state.catalogue, organization).await?;
    let all = "all".to_owned();
    let entry = operator.did(FEATURES_LISTED, Some(organization), "feature", all);
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(Json(Page::only(rows)))
}

/// A value that replaces the plan's.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OverrideBody {
    /// `true` or `false` for a flag, a whole number, or a word; null for a text that is off.
    #[schema(value_type = Option<FeatureValue>, required)]
    value: Value,
    /// Why, for the audit log and for the next operator.
    #[schema(min_length = 1, max_length = 500, example = "promised in the contract")]
    reason: String,
    /// When the override ends by itself; without it, it stays until it is removed.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// Override an organization's feature
///
/// The value holds from the next request on, whatever the plan says.
#[utoipa::path(
    put,
    path = "/api/operator/organizations/{organization}/features/{feature}",
    operation_id = "setOrganizationFeature",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id."),
           ("feature" = String, Path, description = "The feature's name.", example = "sso")),
    request_body = OverrideBody,
    responses((status = 200, description = "The feature in force.", body = FeatureRow)),
)]
async fn set(
    State(state): State<FeatureState>,
    operator: Operator,
    Path((organization_id, feature)): Path<(Uuid, String)>,
    extract::Json(body): extract::Json<OverrideBody>,
) -> Result<Json<FeatureRow>, Problem> {
    let command = SetFeature {
        organization_id,
        feature,
        value: Given::Json(body.value),
        reason: body.reason,
        expires_at: body.expires_at,
        actor: operator.actor(),
        client: Some(operator.client),
    };
    let set = super::set(&state.shared.pool, &state.catalogue, &command).await;
    Ok(Json(set?))
}

/// Remove an organization's override
///
/// The plan's value holds from the next request on.
#[utoipa::path(
    delete,
    path = "/api/operator/organizations/{organization}/features/{feature}",
    operation_id = "unsetOrganizationFeature",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id."),
           ("feature" = String, Path, description = "The feature's name.", example = "sso")),
    responses((status = 200, description = "The feature in force.", body = FeatureRow)),
)]
async fn unset(
    State(state): State<FeatureState>,
    operator: Operator,
    Path((organization_id, feature)): Path<(Uuid, String)>,
) -> Result<Json<FeatureRow>, Problem> {
    let command = UnsetFeature {
        organization_id,
        feature,
        reason: None,
        actor: operator.actor(),
        client: Some(operator.client),
    };
    let unset = super::unset(&state.shared.pool, &state.catalogue, &command).await;
    Ok(Json(unset?))
}

impl From<SetError> for Problem {
    fn from(error: SetError) -> Self {
        let invalid = |code, field: &str| {
            Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                code,
                format!("{field}: {error}"),
            )
        };
        match error {
            SetError::Database(error) => error.into(),
            SetError::Organization(_) => Self::not_found("organization not found"),
            SetError::Erased(_) => Self::not_found("organization was erased"),
            SetError::Feature(problem) => Self::not_found(format!("feature not found: {problem}")),
            SetError::NoOverride(_) => Self::not_found(error.to_string()),
            SetError::Value(_) => invalid("invalid_value", "value"),
            SetError::Reason => invalid("invalid_reason", "reason"),
            SetError::Changed => {
                Self::new(StatusCode::CONFLICT, "override_changed", error.to_string())
            }
            SetError::Past(_) => invalid("invalid_time", "expiresAt"),
        }
    }
}
