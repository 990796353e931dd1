//! What a customer may say on canceling.

use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::command::CancellationDetails;
use crate::server::problem::Problem;

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Cancellation {
    /// Cancel now instead of at the end of the period.
    #[serde(default)]
    pub immediately: bool,
}

/// Why the customer cancels. Both go to Stripe's `cancellation_details`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = CancellationReason)]
pub struct Said {
    /// In the customer's own words.
    #[serde(default)]
    #[schema(max_length = 1000, example = "We close our project.")]
    reason: Option<String>,
    #[serde(default)]
    feedback: Option<Feedback>,
}

/// Stripe's words for why a customer cancels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CancellationFeedback)]
enum Feedback {
    CustomerService,
    LowQuality,
    MissingFeatures,
    Other,
    SwitchedService,
    TooComplex,
    TooExpensive,
    Unused,
}

impl Feedback {
    fn as_str(self) -> &'static str {
        match self {
            Self::CustomerService => "customer_service",
            Self::LowQuality => "low_quality",
            Self::MissingFeatures => "missing_features",
            Self::Other => "other",
            Self::SwitchedService => "switched_service",
            Self::TooComplex => "too_complex",
            Self::TooExpensive => "too_expensive",
            Self::Unused => "unused",
        }
    }
}

impl Said {
    /// As a form says it: one of Stripe's words, or none.
    pub fn of(reason: Option<&str>, feedback: Option<&str>) -> Self {
        let word = |word: &str| Feedback::deserialize(word.into_deserializer());
        Self {
            reason: reason.map(str::to_owned),
            feedback: feedback.and_then(|feedback| {
                let word: Result<_, serde::de::value::Error> = word(feedback);
                word.ok()
            }),
        }
    }

    /// Refuses a reason that is too long or cannot be stored; an empty one is none.
    pub fn check(mut self) -> Result<Self, Problem> {
        let reason = self.reason.take();
        let reason = reason.map(|reason| reason.trim().to_owned());
        self.reason = reason.filter(|reason| !reason.is_empty());
        let Some(reason) = &self.reason else {
            return Ok(self);
        };
        if reason.chars().count() > MAX_REASON_CHARS || reason.contains('\0') {
            return Err(Problem::new(
                axum::http::StatusCode::UNPROCESSABLE_ENTITY,
                "reason_invalid",
                format!("reason: at most {MAX_REASON_CHARS} characters, none of them NUL"),
            ));
        }
        Ok(self)
    }

    pub fn details(&self) -> CancellationDetails<'_> {
        CancellationDetails {
            reason: self.reason.as_deref(),
            feedback: self.feedback.map(Feedback::as_str),
        }
    }
}
