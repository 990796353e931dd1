//! Why usage is not counted.

use billing_domain::usage_period::NotCounted;

use crate::limits;

/// Why usage was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UsageRejection {
    #[error("it occurred more than five minutes in the future; check the sender's clock")]
    Ahead,
    #[error("it occurred in a billing period that is closed, and can no longer be counted")]
    Closed,
    #[error("the total of the period would have more than 20 digits before the point")]
    TotalTooLarge,
    /// A missing quota never means unlimited.
    #[error("the organization has no quota for this metric; an operator must set one")]
    NoQuota,
    #[error("this id was used before with different content")]
    IdReused,
    #[error("the use of this id was taken back, and is not counted again; a new use has a new id")]
    TakenBack,
    #[error(
        "this id was used for another reservation, or for one that is settled; a new reservation \
         has a new id"
    )]
    HoldIdReused,
    #[error(
        "as many reservations of this metric are open as an organization may hold at once ({}); \
         confirm or release some, or hold for less long",
        limits::HOLDS
    )]
    TooManyHolds,
    #[error("there is no reservation with this id; report what was used as a usage event")]
    HoldGone,
    #[error(
        "the use lies in a billing period that is closed, or was charged already; credit it in \
         Stripe instead"
    )]
    Invoiced,
    #[error("the billing period cannot be determined")]
    NoPeriod,
    #[error("neither the plan nor an override includes the feature")]
    FeatureNotIncluded,
}

impl From<NotCounted> for UsageRejection {
    fn from(reason: NotCounted) -> Self {
        match reason {
            NotCounted::Closed => Self::Closed,
            NotCounted::Ahead => Self::Ahead,
            NotCounted::Period(_) => Self::NoPeriod,
        }
    }
}
