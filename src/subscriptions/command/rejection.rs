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
    #[error("there is no subscription, and so no period at whose end a change could be made")]
    NoPeriod,
    #[error("no change of the subscription is pending")]
    NothingPending,
    #[error(
        "a change to the plan {0:?} is pending; DELETE /api/billing/subscription/pending-change calls it off"
    )]
    ChangePending(String),
    #[error(
        "a change to the plan {tier:?} waits for its payer{}; ask for the same once more to see how to pay, or DELETE /api/billing/subscription/pending-change to call it off",
        .until.map(|until| format!(" until {until}")).unwrap_or_default()
    )]
    AwaitsPayment {
        tier: String,
        until: Option<Timestamp>,
    },
    #[error(
        "the payment that the change waits for is with the payer's bank, and cannot be stopped: the change is made if the bank pays, and goes if it does not; look again later"
    )]
    PaymentProcessing,
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
    #[error(
        "Stripe's page cannot sell the plan {0:?}, whose usage is billed in another interval than its fee: add a card with /api/billing/payment-methods/setup, then POST /api/billing/subscription"
    )]
    NotByCheckout(String),
    #[error("the subscription is not about to end")]
    NotEnding,
    #[error("a trial of {plan:?} lasts at most {most} days")]
    TrialTooLong { plan: String, most: u16 },
    #[error("a trial is for the first subscription only")]
    TrialUsed,
    #[error("this card has had a trial before: subscribe without one, or with another card")]
    CardHadTrial,
    #[error(
        "a trial begins with a card that can be charged: add a payment method, and make it the default if there are several"
    )]
    TrialNeedsCard,
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
    #[error("{0} seats cannot be bought: quantity must be from 1 to {MAX_SEATS}")]
    QuantityOutOfRange(u64),
    #[error("the plan {0:?} does not sell seats: leave quantity out")]
    NoSeats(String),
    #[error("the plan {plan:?} has at least {fewest} seats: quantity must count all of them")]
    TooFewSeats { plan: String, fewest: u32 },
    #[error(
        "{used} seats are in use, more than the {asked} asked for: free some of them, or ask for more"
    )]
    SeatsInUse { used: String, asked: u32 },
    #[error(
        "there is no add-on {addon:?}; {}",
        match .addons.as_slice() {
            [] => format!("the plan {plan:?} has none"),
            addons => format!("those of the plan {plan:?} are {}", addons.join(", ")),
        }
    )]
    UnknownAddon {
        addon: String,
        plan: String,
        addons: Vec<String>,
    },
    #[error(
        "the add-on {addon:?} does not go with the plan {plan:?}; {}",
        match .plans.as_slice() {
            [] => "it goes with no plan that is sold".to_owned(),
            plans => format!("it goes with {}", plans.join(", ")),
        }
    )]
    AddonExcluded {
        addon: String,
        plan: String,
        plans: Vec<String>,
    },
    #[error(
        "the add-on {addon:?} is not sold any more: {}",
        match .held {
            0 => "leave it out".to_owned(),
            held => format!("at most the {held} that there are can be kept"),
        }
    )]
    AddonRetired { addon: String, held: u32 },
    #[error(
        "{quantity} of the add-on {addon:?} cannot be had: its quantity is from 1 to {most}; to have none, leave it out"
    )]
    AddonQuantity {
        addon: String,
        quantity: i64,
        most: u32,
    },
    #[error(
        "nobody can be charged in this trial, so that no more add-ons can be had in it: add a payment method first, or leave them out of \"addons\" until the trial is over"
    )]
    AddonsInTrial,
    #[error("the add-on {0:?} is named twice: name it once, with its quantity")]
    AddonTwice(String),
    #[error(
        "the add-on {addon:?} is not sold for {currency} by the {}, as the plan is paid then{}; leave it out of \"addons\", or choose another interval",
        .interval.as_str(),
        match .offered.as_slice() {
            [] => String::new(),
            offered => format!(": it costs {}", offered.join(", ")),
        }
    )]
    AddonNotOffered {
        addon: String,
        currency: String,
        interval: Interval,
        offered: Vec<String>,
    },
    #[error(
        "the subscription has no price of the catalogue, so its plan cannot be changed here; change it in Stripe, or add its price to the catalogue"
    )]
    UnknownItems,
}
