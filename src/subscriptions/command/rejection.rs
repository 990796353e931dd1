//! Why a command is rejected.

use jiff::Timestamp;

use crate::catalogue::{Interval, MAX_SEATS};

/// Why a command is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRejection {
    #[error("there is no plan {tier:?}; the plans are {}", .tiers.join(", "))]
    UnknownPlan { tier: String, tiers: Vec<String> },
    #[error("the plan {0:?} is not sold any more; GET /api/billing/plans lists those that are")]
    PlanRetired(String),
    #[error("the plan is {0:?} already")]
    SamePlan(String),
    #[error(
        "the plan is {0:?} already, and is to end with the period; to keep it, POST /api/billing/subscription/reactivate"
    )]
    SamePlanEnding(String),
    #[error(
        "the plan is {0:?} already, and a change of it is pending; to keep it, DELETE /api/billing/subscription/pending-change"
    )]
    SamePlanPending(String),
    #[error("the subscription is on the plan {0:?} by now")]
    OtherPlan(String),
    #[error(
        "the organization's plan is that of {counts}; `subscriptions reconcile` tells which of the two to end"
    )]
    Surplus { counts: String },
    #[error("there is a subscription already; PUT changes its plan")]
    SubscriptionExists,
    #[error("there is no subscription; POST makes one")]
    NoSubscription,
    #[error("the plan {0:?} needs no subscription")]
    NeedsNoSubscription(String),
    #[error(
        "its first payment has not succeeded yet: pay its invoice, or cancel it and subscribe anew"
    )]
    Incomplete,
    #[error("the subscription ends on {0} already")]
    EndsAlready(Timestamp),
    #[error(
        "the subscription ends on {0}, so no change can follow; POST /api/billing/subscription/reactivate keeps it"
    )]
    EndsBefore(Timestamp),
    #[error(
        "a plan that is not billed begins when the period ends that is paid for; DELETE /api/billing/subscription?immediately=true ends it now"
    )]
    NotAtOnce,
    #[error("there is no subscription, and so no period whose end a change could wait for")]
    NoPeriod,
    #[error("no change of the subscription is pending")]
    NothingPending,
    #[error(
        "a change to the plan {0:?} is pending; DELETE /api/billing/subscription/pending-change calls it off"
    )]
    ChangePending(String),
    #[error(
        "the terms of the plan change on {0}, as the operator of this service has set; only the operator can call that off, by releasing the subscription's schedule in Stripe"
    )]
    MigrationPending(Timestamp),
    #[error(
        "the subscription's schedule in Stripe changes it on {0}, which this change would undo; the operator of this service can release the schedule in Stripe's dashboard"
    )]
    ScheduledInStripe(Timestamp),
    #[error(
        "a change of the subscription is pending, and no promotion code can be redeemed beside it: redeem it with that change, or DELETE /api/billing/subscription/pending-change first"
    )]
    CodeBesideChange,
    #[error("the subscription is not about to end")]
    NotEnding,
    #[error("a trial of {plan:?} lasts at most {most} days")]
    TrialTooLong { plan: String, most: u16 },
    #[error("a trial is for the first subscription only")]
    TrialUsed,
    #[error(
        "the customer is billed in {customer}, the currency of its first invoice, and cannot change it{}; the plan is sold for {}",
        .asked.as_ref().map(|asked| format!(" to {asked:?}")).unwrap_or_default(), .offered.join(", ")
    )]
    OtherCurrency {
        customer: String,
        /// The currency that was asked for, if one was.
        asked: Option<String>,
        offered: Vec<String>,
    },
    #[error(
        "the plan {plan:?} has no price{}{}; it is sold for {}",
        .interval.map(|interval| format!(" by the {}", interval.as_str())).unwrap_or_default(),
        .currency.as_ref().map(|currency| format!(" in {currency:?}")).unwrap_or_default(),
        .offered.join(", ")
    )]
    NotOffered {
        plan: String,
        currency: Option<String>,
        interval: Option<Interval>,
        offered: Vec<String>,
    },
    #[error("{0} seats cannot be had: quantity is from 1 to {MAX_SEATS}")]
    QuantityOutOfRange(u64),
    #[error("the plan {0:?} has no seats to be bought: leave quantity out")]
    NoSeats(String),
    #[error("the plan {plan:?} has at least {fewest} seats: quantity is all of them")]
    TooFewSeats { plan: String, fewest: u32 },
    #[error(
        "{used} seats are in use, more than the {asked} asked for: free some of them, or ask for more"
    )]
    SeatsInUse { used: String, asked: u32 },
    #[error(
        "the subscription has no price of the catalogue, so its plan cannot be changed here; change it in Stripe, or add its price to the catalogue"
    )]
    UnknownItems,
}
