//! The answer to whether an organization has a feature.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::effective::Needed;
use crate::catalogue::features::FeatureValue;
use crate::server::problem::Problem;
use crate::telemetry::metrics;

const VALUE: HeaderName = HeaderName::from_static("x-feature");

/// The code for a feature that is off or unknown.
pub const NOT_INCLUDED: &str = "feature_not_included";

/// A feature that an organization has.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureAllowed {
    allowed: bool,
    #[schema(example = "sso")]
    feature: String,
    value: FeatureValue,
}

impl FeatureAllowed {
    pub fn of(needed: Needed, value: FeatureValue) -> Self {
        Self {
            allowed: true,
            feature: needed.feature,
            value,
        }
    }
}

/// Counts a feature that is on, and says its value in the response's headers
/// unless something else refused the request.
pub fn included(
    needed: &Needed,
    value: &FeatureValue,
    status: StatusCode,
    headers: &mut HeaderMap,
) {
    metrics::feature_check(&needed.feature, true);
    let value = HeaderValue::try_from(value.to_string());
    if let Some(value) = value.ok().filter(|_| status.is_success()) {
        headers.insert(VALUE, value);
    }
}

/// Counts a feature of the catalogue that is off, and refuses.
pub fn not_included(id: &str) -> Problem {
    metrics::feature_check(id, false);
    problem(id)
}

/// Counts a feature that the catalogue does not have, and refuses: a product may
/// know of features before the catalogue does.
pub fn unknown(id: &str) -> Problem {
    metrics::unknown_feature();
    problem(id)
}

fn problem(id: &str) -> Problem {
    const MOST: usize = 64;
    let shown: String = id.chars().take(MOST).collect();
    let detail = format!("the plan does not include the feature {shown:?}; upgrade the plan");
    Problem::new(StatusCode::FORBIDDEN, NOT_INCLUDED, detail)
        .with("allowed", json!(false))
        .with("feature", json!(shown))
}
