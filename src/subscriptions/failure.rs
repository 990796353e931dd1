//! Why a preview or a change failed.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;
use serde_json::value::RawValue;

use super::command::ChangeRejection;
use super::preview::{PreviewUnavailable, WayOut};
use crate::metering::reports;
use crate::projection::MirrorError;
use crate::server::problem::Problem;
use crate::stripe::client::{ErrorKind, StripeError};
use crate::stripe::objects::ShapeError;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("there is no such organization")]
    NoOrganization,
    #[error(transparent)]
    Refused(#[from] ChangeRejection),
    #[error(transparent)]
    PreviewUnavailable(#[from] PreviewUnavailable),
    /// Why a promotion code cannot be redeemed. Nothing was changed.
    #[error("{0}")]
    PromotionCodeInvalid(String),
    /// The customer's address does not say where it is to be taxed.
    #[error(
        "new subscriptions are taxed by the customer's address, and the customer has none that \
         says enough: give the Stripe customer a country, in the United States and Canada with \
         its postal code, then try again"
    )]
    AddressRequired,
    /// The quote of a preview is no longer valid.
    #[error("{0}; preview it again")]
    Stale(&'static str),
    #[error("another change of the subscription is under way")]
    Busy,
    #[error("the Idempotency-Key was used for another change within the last day")]
    KeyReused,
    #[error("Stripe has no subscription {0}")]
    SubscriptionMissing(String),
    /// As far as this key can see, Stripe never had the customer.
    #[error("Stripe has no customer {0}")]
    CustomerMissing(String),
    /// The stored context of a request cannot be read.
    #[error("a request cannot be recovered: {0}")]
    Unrecoverable(String),
    #[error("another process took the import over; nothing is lost")]
    ImportTaken,
    #[error("no Stripe key is configured")]
    NotConfigured,
    /// Stripe did nothing.
    #[error(transparent)]
    Stripe(StripeError),
    /// Stripe may have made the change.
    #[error("it is not known yet whether Stripe made the change: {0}")]
    InDoubt(StripeError),
    /// An invoice made now would lack usage that Stripe has accepted. Nothing was changed.
    #[error("Stripe has not yet counted the usage of {0} that it was told of just now")]
    UsageNotCounted(String),
    /// The catalogue's price is not in Stripe.
    #[error("Stripe has no active price {0:?}")]
    NoPrice(String),
    #[error("unexpected response from Stripe: {0}")]
    Unexpected(&'static str),
    #[error("cannot read an object from Stripe: {0}")]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A database error of a read shared with other requests.
    #[error(transparent)]
    Read(#[from] Arc<sqlx::Error>),
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Self {
        match error {
            MirrorError::Shape(error) => Self::Shape(error),
            MirrorError::Database(error) => Self::Database(error),
        }
    }
}

impl From<ChangeRejection> for Problem {
    fn from(rejection: ChangeRejection) -> Self {
        let (status, code) = match &rejection {
            ChangeRejection::UnknownPlan { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "unknown_plan")
            }
            ChangeRejection::SamePlan(_)
            | ChangeRejection::SamePlanEnding(_)
            | ChangeRejection::SamePlanPending(_) => (StatusCode::CONFLICT, "same_plan"),
            ChangeRejection::Surplus { .. } => (StatusCode::CONFLICT, "surplus_subscription"),
            ChangeRejection::OtherPlan(_) => (StatusCode::CONFLICT, "other_plan"),
            ChangeRejection::PlanRetired(_) => (StatusCode::CONFLICT, "plan_retired"),
            ChangeRejection::SubscriptionExists => (StatusCode::CONFLICT, "subscription_exists"),
            ChangeRejection::NoSubscription => (StatusCode::NOT_FOUND, "no_subscription"),
            ChangeRejection::NeedsNoSubscription(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "plan_needs_no_subscription",
            ),
            ChangeRejection::Incomplete => (StatusCode::CONFLICT, "subscription_incomplete"),
            ChangeRejection::EndsAlready(_) | ChangeRejection::EndsBefore(_) => {
                (StatusCode::CONFLICT, "already_canceling")
            }
            ChangeRejection::NotAtOnce => (StatusCode::UNPROCESSABLE_ENTITY, "not_at_once"),
            ChangeRejection::NoPeriod => (StatusCode::UNPROCESSABLE_ENTITY, "no_current_period"),
            ChangeRejection::NothingPending => (StatusCode::NOT_FOUND, "no_pending_change"),
            ChangeRejection::ChangePending(_)
            | ChangeRejection::AwaitsPayment { .. }
            | ChangeRejection::CodeBesideChange => (StatusCode::CONFLICT, "change_pending"),
            ChangeRejection::PaymentProcessing => (StatusCode::CONFLICT, "payment_processing"),
            ChangeRejection::MigrationPending(_) => (StatusCode::CONFLICT, "migration_pending"),
            ChangeRejection::ScheduledInStripe(_) => (StatusCode::CONFLICT, "change_scheduled"),
            ChangeRejection::NotByCheckout(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "checkout_not_possible")
            }
            ChangeRejection::NotEnding => (StatusCode::CONFLICT, "not_canceling"),
            ChangeRejection::TrialTooLong { .. }
            | ChangeRejection::TrialUsed
            | ChangeRejection::CardHadTrial
            | ChangeRejection::TrialNeedsCard => of_trial(&rejection),
            ChangeRejection::OtherCurrency { .. } => (StatusCode::CONFLICT, "currency_mismatch"),
            ChangeRejection::UnknownItems => (StatusCode::CONFLICT, "unknown_subscription_items"),
            ChangeRejection::NotOffered { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "price_not_offered")
            }
            ChangeRejection::QuantityOutOfRange(_) | ChangeRejection::TooFewSeats { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "quantity_out_of_range")
            }
            ChangeRejection::NoSeats(_) => (StatusCode::UNPROCESSABLE_ENTITY, "plan_without_seats"),
            ChangeRejection::SeatsInUse { .. } => (StatusCode::CONFLICT, "seats_in_use"),
            ChangeRejection::UnknownAddon { .. }
            | ChangeRejection::AddonExcluded { .. }
            | ChangeRejection::AddonRetired { .. }
            | ChangeRejection::AddonQuantity { .. }
            | ChangeRejection::AddonsInTrial
            | ChangeRejection::AddonTwice(_)
            | ChangeRejection::AddonNotOffered { .. } => return of_addon(&rejection),
        };
        let problem = Self::new(status, code, rejection.to_string());
        match rejection {
            ChangeRejection::OtherCurrency {
                customer, offered, ..
            } => problem
                .with("currency", json!(customer))
                .with("offered", json!(offered)),
            ChangeRejection::NotOffered { offered, .. } => problem.with("offered", json!(offered)),
            ChangeRejection::SeatsInUse { used, asked } => {
                let used = RawValue::from_string(used).map_or(json!(null), |used| json!(used));
                problem.with("used", used).with("asked", json!(asked))
            }
            _ => problem,
        }
    }
}

/// What is wrong with the trial that is asked for.
fn of_trial(rejection: &ChangeRejection) -> (StatusCode, &'static str) {
    match rejection {
        ChangeRejection::TrialTooLong { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "trial_too_long")
        }
        ChangeRejection::TrialNeedsCard => {
            (StatusCode::PAYMENT_REQUIRED, "payment_method_required")
        }
        _ => (StatusCode::CONFLICT, "trial_used"),
    }
}

/// What is wrong with the add-ons that are asked for.
fn of_addon(rejection: &ChangeRejection) -> Problem {
    let (status, code) = match rejection {
        ChangeRejection::AddonRetired { .. } => (StatusCode::CONFLICT, "addon_retired"),
        ChangeRejection::AddonsInTrial => (StatusCode::CONFLICT, "addon_needs_payment_method"),
        ChangeRejection::AddonExcluded { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "addon_not_for_plan")
        }
        ChangeRejection::AddonQuantity { .. } => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "addon_quantity_out_of_range",
        ),
        ChangeRejection::AddonTwice(_) => (StatusCode::UNPROCESSABLE_ENTITY, "addon_twice"),
        ChangeRejection::AddonNotOffered { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "addon_not_offered")
        }
        _ => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_addon"),
    };
    Problem::new(status, code, rejection.to_string()).with("field", json!("addons"))
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        match failure {
            Failure::NoOrganization => Self::not_found(message),
            Failure::Refused(refusal) => refusal.into(),
            Failure::PreviewUnavailable(why) => preview_unavailable(&why),
            Failure::PromotionCodeInvalid(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "promotion_code_invalid",
                message,
            ),
            Failure::AddressRequired => address_required(message),
            Failure::Stale(_) => Self::new(StatusCode::CONFLICT, "preview_stale", message),
            Failure::Busy => Self::new(
                StatusCode::CONFLICT,
                "change_in_progress",
                format!("{message}; try again shortly"),
            )
            .retry_after(2),
            Failure::KeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                format!("{message}; use a new key for a new change"),
            ),
            Failure::SubscriptionMissing(_) => subscription_missing(&message),
            Failure::CustomerMissing(_) => customer_missing(&message),
            Failure::NotConfigured => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stripe_not_configured",
                "subscriptions are made and changed in Stripe, and no STRIPE_SECRET_KEY is configured",
            ),
            Failure::Stripe(error) => other_currency(&error).unwrap_or_else(|| of_stripe(&error)),
            Failure::InDoubt(error) => {
                tracing::warn!(%error, "It is not known yet whether Stripe made a change");
                Self::unavailable(
                    "stripe_unreachable",
                    "Stripe did not answer, and may have made the change: send the same request again, \
                     or look at the subscription in a few minutes",
                )
            }
            Failure::UsageNotCounted(_) => Self::unavailable(
                "usage_not_counted",
                format!(
                    "{message}, and would invoice without it; nothing was changed: send the same \
                     request again shortly"
                ),
            )
            .retry_after(reports::TRY_AGAIN_SECS),
            Failure::NoPrice(_) => {
                tracing::error!("{message}: run `plans sync`");
                Self::new(
                    StatusCode::BAD_GATEWAY,
                    "price_missing",
                    format!("{message}; the operator must run `plans sync`"),
                )
            }
            Failure::Shape(_)
            | Failure::Unexpected(_)
            | Failure::Unrecoverable(_)
            | Failure::ImportTaken => {
                tracing::error!("{message}");
                Self::new(
                    StatusCode::BAD_GATEWAY,
                    "stripe_unreadable",
                    "Stripe sent a response that this service does not understand; it was logged",
                )
            }
            Failure::Database(error) => error.into(),
            Failure::Read(error) => Self::from(&*error),
        }
    }
}

fn preview_unavailable(why: &PreviewUnavailable) -> Problem {
    let advice = match why {
        PreviewUnavailable::NotPriced { way_out, .. } => {
            let way_out = match way_out {
                WayOut::CallOff => ", or call what is pending off first".to_owned(),
                WayOut::Wait(until) => {
                    format!(", or try again after {until}, when the schedule has ended")
                }
                WayOut::None => String::new(),
            };
            format!("change it without a preview{way_out}")
        }
        PreviewUnavailable::CodeEndsBefore(_) => {
            "change it without a preview, or with `\"when\": \"now\"`".to_owned()
        }
        PreviewUnavailable::NoCurrency(_) => "run `subscriptions reconcile --apply`".to_owned(),
        PreviewUnavailable::StripeOnly(_) | PreviewUnavailable::OutOfRange(_) => {
            "configure STRIPE_SECRET_KEY to have it priced".to_owned()
        }
    };
    let detail = format!("{why}; {advice}");
    Problem::new(StatusCode::CONFLICT, "preview_unavailable", detail)
}

fn address_required(message: String) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "address_required",
        message,
    )
}

fn subscription_missing(message: &str) -> Problem {
    tracing::error!("{message}: see `subscriptions reconcile`");
    Problem::new(
        StatusCode::CONFLICT,
        "subscription_missing",
        format!(
            "{message}, so nothing was changed; DELETE ends it here as well, and then another can \
             be made. The operator sees more with `subscriptions reconcile`"
        ),
    )
}

fn customer_missing(message: &str) -> Problem {
    tracing::error!(
        "{message}: check that the key belongs to the right account; if so, \
         `organizations link-customer` gives the organization another customer"
    );
    Problem::new(
        StatusCode::CONFLICT,
        "customer_missing",
        format!(
            "{message}, so nothing was changed; the operator must give the organization another \
             customer with `organizations link-customer`"
        ),
    )
}

/// The customer was invoiced in Stripe, and the event of that has not come yet.
fn other_currency(error: &StripeError) -> Option<Problem> {
    let words = "combine currencies on a single customer";
    error.message.contains(words).then(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "currency_mismatch",
            format!("nothing was changed: {}", error.message),
        )
    })
}

/// The problem for an error from Stripe that changed nothing.
fn busy(error: &StripeError) -> Problem {
    if error.is_key_in_use() {
        return Problem::new(
            StatusCode::CONFLICT,
            "change_in_progress",
            "Stripe is still working on this change; send it again in a moment",
        );
    }
    Problem::unavailable(
        "stripe_busy",
        "Stripe is not accepting more requests at the moment, and nothing was changed; try again",
    )
}

fn of_stripe(error: &StripeError) -> Problem {
    match error.kind {
        ErrorKind::Card => {
            let problem = Problem::new(
                StatusCode::PAYMENT_REQUIRED,
                "card_declined",
                format!(
                    "the payment was declined, and nothing was changed: {}",
                    error.message
                ),
            );
            let problem = match &error.code {
                Some(code) => problem.with("cardErrorCode", json!(code)),
                None => problem,
            };
            match &error.decline_code {
                Some(code) => problem.with("declineCode", json!(code)),
                None => problem,
            }
        }
        ErrorKind::AuthenticationRequired => Problem::new(
            StatusCode::PAYMENT_REQUIRED,
            "authentication_required",
            "the bank asks the cardholder to confirm the payment, which this change cannot wait \
             for, and nothing was changed; \
             pay with a card that needs no confirmation, change with `\"when\": \"period_end\"`, \
             or subscribe with POST /api/billing/checkout",
        ),
        _ if error.lacks_payment_method() => Problem::new(
            StatusCode::PAYMENT_REQUIRED,
            "payment_method_required",
            "there is no card to be charged, and nothing was changed; add a payment method",
        ),
        // The address was known to say enough, and is gone or not recognized.
        _ if error.code.as_deref() == Some("customer_tax_location_invalid") => {
            address_required(Failure::AddressRequired.to_string())
        }
        ErrorKind::Authentication | ErrorKind::Permission => {
            tracing::error!(%error, "Stripe does not accept the configured key");
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stripe_key_refused",
                "Stripe does not accept the configured key for this; nothing was changed",
            )
        }
        ErrorKind::RateLimited | ErrorKind::Conflict => busy(error),
        ErrorKind::Unreachable | ErrorKind::Unanswered => Problem::unavailable(
            "stripe_unreachable",
            "Stripe cannot be reached, and nothing was changed; try again",
        ),
        ErrorKind::Server | ErrorKind::Unreadable => Problem::new(
            StatusCode::BAD_GATEWAY,
            "stripe_failed",
            "Stripe failed, and nothing was changed; try again",
        ),
        ErrorKind::NotFound | ErrorKind::InvalidRequest | ErrorKind::Idempotency => {
            tracing::error!(%error, "Stripe refused a request");
            Problem::new(
                StatusCode::BAD_GATEWAY,
                "stripe_refused",
                "Stripe refused the request, and nothing was changed; it was logged",
            )
        }
    }
}
