//! Why a preview or a change did not come about.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;

use super::command::Refusal;
use super::preview::Unknowable;
use crate::projection::MirrorError;
use crate::server::problem::Problem;
use crate::stripe::client::{ErrorKind, StripeError};
use crate::stripe::objects::ShapeError;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("there is no such organization")]
    NoOrganization,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Unknowable(#[from] Unknowable),
    /// What a preview showed does not hold any more.
    #[error("{0}; preview it again")]
    Stale(&'static str),
    #[error("another change of the subscription is under way")]
    Busy,
    #[error("the Idempotency-Key went with another change within a day")]
    KeyReused,
    /// Stripe has no such subscription.
    #[error("Stripe has no subscription {0}")]
    SubscriptionMissing(String),
    /// Stripe never had such a customer, as far as this key can see.
    #[error("Stripe has no customer {0}")]
    CustomerMissing(String),
    /// What was kept of a request makes no sense.
    #[error("a request cannot be recovered: {0}")]
    Unrecoverable(String),
    #[error("no Stripe key is configured")]
    NotConfigured,
    /// Nothing was done.
    #[error(transparent)]
    Stripe(StripeError),
    /// It may have been done.
    #[error("whether Stripe did it is not known yet: {0}")]
    InDoubt(StripeError),
    /// The catalogue's price is not in Stripe.
    #[error("Stripe has no active price {0:?}")]
    NoPrice(String),
    #[error("Stripe's answer is not understood: {0}")]
    Unexpected(&'static str),
    #[error("an object of Stripe's cannot be read: {0}")]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The same, of a read that others shared.
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

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let said = failure.to_string();
        match failure {
            Failure::NoOrganization => Self::not_found(said),
            Failure::Refused(refusal) => refusal.into(),
            Failure::Unknowable(_) => Self::new(
                StatusCode::CONFLICT,
                "preview_unavailable",
                format!("{said}; configure STRIPE_SECRET_KEY to have it priced"),
            ),
            Failure::Stale(_) => Self::new(StatusCode::CONFLICT, "preview_stale", said),
            Failure::Busy => Self::new(
                StatusCode::CONFLICT,
                "change_in_progress",
                format!("{said}; try again shortly"),
            )
            .retry_after(2),
            Failure::KeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                format!("{said}; use a new key for a new change"),
            ),
            Failure::SubscriptionMissing(_) => {
                tracing::error!("{said}: see `subscriptions reconcile`");
                Self::new(
                    StatusCode::CONFLICT,
                    "subscription_missing",
                    format!(
                        "{said}, so nothing was changed; DELETE ends it here as well, and then \
                         another can be made. The operator sees more with `subscriptions reconcile`"
                    ),
                )
            }
            Failure::CustomerMissing(_) => {
                tracing::error!(
                    "{said}: is the key another account's? Else `organizations link-customer` \
                     gives the organization another customer"
                );
                Self::new(
                    StatusCode::CONFLICT,
                    "customer_missing",
                    format!(
                        "{said}, so nothing was changed; the operator must give the organization \
                         another customer with `organizations link-customer`"
                    ),
                )
            }
            Failure::NotConfigured => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stripe_not_configured",
                "subscriptions are made and changed in Stripe, and no STRIPE_SECRET_KEY is configured",
            ),
            Failure::Stripe(error) => of_stripe(&error),
            Failure::InDoubt(error) => {
                tracing::warn!(%error, "whether Stripe made a change is not known yet");
                Self::unavailable(
                    "stripe_unreachable",
                    "Stripe did not answer, and may have made the change: send the same request again, \
                     or look at the subscription in a few minutes",
                )
            }
            Failure::NoPrice(_) => {
                tracing::error!("{said}: run `plans sync`");
                Self::new(
                    StatusCode::BAD_GATEWAY,
                    "price_missing",
                    format!("{said}; the operator must run `plans sync`"),
                )
            }
            Failure::Shape(_) | Failure::Unexpected(_) | Failure::Unrecoverable(_) => {
                tracing::error!("{said}");
                Self::new(
                    StatusCode::BAD_GATEWAY,
                    "stripe_unreadable",
                    "Stripe answered something that is not understood here; it was logged",
                )
            }
            Failure::Database(error) => error.into(),
            Failure::Read(error) => Self::from(&*error),
        }
    }
}

/// An error of Stripe's after which nothing was done.
fn of_stripe(error: &StripeError) -> Problem {
    let no_method = error
        .message
        .contains("no attached payment source or default payment method");
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
            "the bank asks the cardholder to confirm the payment, and nothing was changed; \
             confirm the card, or use another",
        ),
        _ if no_method => Problem::new(
            StatusCode::PAYMENT_REQUIRED,
            "payment_method_required",
            "there is no card to be charged, and nothing was changed; add a payment method",
        ),
        ErrorKind::Authentication | ErrorKind::Permission => {
            tracing::error!(%error, "Stripe does not accept the configured key");
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stripe_key_refused",
                "Stripe does not accept the configured key for this; nothing was changed",
            )
        }
        ErrorKind::RateLimited | ErrorKind::Conflict => Problem::unavailable(
            "stripe_busy",
            "Stripe takes no more requests at the moment, and nothing was changed; try again",
        ),
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
