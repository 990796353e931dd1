//! What a command requires in Stripe. Pure, so that preview and change agree.

use jiff::Timestamp;

use super::preview::token::Quote;
use super::selection::{Quantities, Selection};
use super::state::{SubscriptionRow, SubscriptionState};
use crate::catalogue::{Catalogue, Interval, MAX_SEATS, Plan};

/// What a customer may request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// A first subscription.
    Subscribe {
        selection: Selection<'a>,
        trial_days: u16,
    },
    /// Another plan, including the first one and the free one, another interval, or
    /// other seats.
    Change { selection: Selection<'a> },
    /// Another version of its plan. Only operators migrate.
    Migrate {
        subscription_id: &'a str,
        terms: &'a Plan,
        version: i32,
    },
    /// The end of the subscription.
    Cancel { immediately: bool },
    /// Keep a subscription that is set to end.
    Reactivate,
}

impl Command<'_> {
    /// What a change does not say is as it was previewed.
    pub fn or_as_quoted(self, quote: Option<&Quote>) -> Self {
        match (self, quote) {
            (Self::Change { selection }, Some(quote)) => Self::Change {
                selection: selection.or_as_quoted(quote),
            },
            (command, _) => command,
        }
    }
}

/// What Stripe is asked to do.
#[derive(Debug, Clone)]
pub enum StripeAction<'a> {
    Create {
        /// As it is bought.
        plan: Box<Plan>,
        quantities: Quantities,
        trial_days: u16,
    },
    /// Replace the prices of the plan's items, or their quantities.
    Switch {
        subscription: &'a SubscriptionRow,
        /// As it is bought.
        plan: Box<Plan>,
        /// The version of the plan; `None` for the one that is sold.
        version: Option<i32>,
        quantities: Quantities,
        /// Whether only quantities change: the subscriber keeps prices and terms.
        keeps_prices: bool,
    },
    EndWithPeriod {
        subscription: &'a SubscriptionRow,
    },
    EndNow {
        subscription: &'a SubscriptionRow,
    },
    Keep {
        subscription: &'a SubscriptionRow,
    },
    /// The command is already fulfilled.
    Nothing {
        subscription: &'a SubscriptionRow,
    },
}

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

/// The action that fulfils `command`, given the organization's `state`.
pub fn decide<'a>(
    state: &'a SubscriptionState,
    catalogue: &'a Catalogue,
    command: Command<'a>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    let subscription = state.subscription.as_ref();
    match command {
        Command::Subscribe {
            selection,
            trial_days,
        } => {
            let plan = plan(catalogue, selection.tier)?;
            if subscription.is_some() {
                return Err(ChangeRejection::SubscriptionExists);
            }
            subscribe(state, plan, selection, trial_days)
        }
        Command::Change { selection } => {
            let plan = plan(catalogue, selection.tier)?;
            match subscription {
                Some(subscription) => change(subscription, catalogue, plan, selection),
                None if state.plan_tier == plan.tier => {
                    Err(ChangeRejection::SamePlan(plan.tier.clone()))
                }
                None if !plan.is_billed() => Err(ChangeRejection::NoSubscription),
                None => subscribe(state, plan, selection, 0),
            }
        }
        Command::Migrate {
            subscription_id,
            terms,
            version,
        } => {
            let subscription = subscription.ok_or(ChangeRejection::NoSubscription)?;
            if subscription.id != subscription_id {
                return Err(ChangeRejection::Surplus {
                    counts: subscription.id.clone(),
                });
            }
            migrate(subscription, catalogue, terms, version)
        }
        Command::Cancel { immediately } => {
            let subscription = subscription.ok_or(ChangeRejection::NoSubscription)?;
            // Nothing has been paid yet, so there is no period to wait for.
            if immediately || subscription.is_incomplete() {
                Ok(StripeAction::EndNow { subscription })
            } else if subscription.ends() {
                Ok(StripeAction::Nothing { subscription })
            } else {
                Ok(StripeAction::EndWithPeriod { subscription })
            }
        }
        Command::Reactivate => match subscription.ok_or(ChangeRejection::NoSubscription)? {
            subscription if subscription.ends() => Ok(StripeAction::Keep { subscription }),
            _ => Err(ChangeRejection::NotEnding),
        },
    }
}

fn plan<'a>(catalogue: &'a Catalogue, tier: &str) -> Result<&'a Plan, ChangeRejection> {
    catalogue
        .plan(tier)
        .ok_or_else(|| ChangeRejection::UnknownPlan {
            tier: tier.chars().take(64).collect(),
            tiers: catalogue.plans().iter().map(|p| p.tier.clone()).collect(),
        })
}

fn subscribe<'a>(
    state: &SubscriptionState,
    plan: &Plan,
    selection: Selection<'_>,
    trial_days: u16,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if plan.retired {
        return Err(ChangeRejection::PlanRetired(plan.tier.clone()));
    }
    if !plan.is_billed() {
        return Err(ChangeRejection::NeedsNoSubscription(plan.tier.clone()));
    }
    if trial_days > plan.trial_days_max {
        return Err(ChangeRejection::TrialTooLong {
            plan: plan.tier.clone(),
            most: plan.trial_days_max,
        });
    }
    if trial_days > 0 && state.had_trial {
        return Err(ChangeRejection::TrialUsed);
    }
    let plan = selection.choose(plan, state.customer_currency.as_deref(), None)?;
    let seats = selection.seats(&plan, None)?;
    Ok(StripeAction::Create {
        quantities: Quantities::of(&plan, seats),
        plan: Box::new(plan.with_seats(seats)),
        trial_days,
    })
}

fn change<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    plan: &Plan,
    selection: Selection<'_>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if !plan.is_billed() {
        selection.seats(plan, None)?;
        if subscription.is_incomplete() {
            return Ok(StripeAction::EndNow { subscription });
        }
        let ends_at = subscription.cancel_at.or(subscription.period_end);
        return match ends_at.filter(|_| subscription.ends()) {
            Some(at) => Err(ChangeRejection::EndsAlready(at)),
            None => Ok(StripeAction::EndWithPeriod { subscription }),
        };
    }
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    let (item, current) = subscription
        .base_item(catalogue)
        .ok_or(ChangeRejection::UnknownItems)?;
    let interval = item.plan_interval();
    let stays = selection
        .interval
        .is_none_or(|asked| Some(asked) == interval);
    let held = held_terms(subscription, catalogue, current, interval);
    let seats = subscription.seats(catalogue, &held);
    if current.tier == plan.tier && stays {
        return change_seats(subscription, held, seats, selection);
    }
    if plan.retired {
        return Err(ChangeRejection::PlanRetired(plan.tier.clone()));
    }
    let currency = subscription.currency.as_deref();
    let plan = selection.choose(plan, currency, interval)?;
    let after = selection.seats(&plan, seats)?;
    Ok(StripeAction::Switch {
        subscription,
        quantities: quantities(&held, &plan, after),
        plan: Box::new(plan.with_seats(after)),
        version: None,
        keeps_prices: false,
    })
}

/// The terms that a subscription has, as they are paid.
fn held_terms(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    current: &Plan,
    interval: Option<Interval>,
) -> Plan {
    let tier = current.tier.as_str();
    let version = subscription.plan_version;
    let version = version.or_else(|| catalogue.oldest_version(tier));
    let terms = catalogue.known_terms(tier, version);
    let terms = terms.unwrap_or_else(|| current.clone());
    terms.paid_in(subscription.currency.as_deref(), interval)
}

/// Other seats of the plan that is held: prices and terms stay those that were bought.
fn change_seats<'a>(
    subscription: &'a SubscriptionRow,
    held: Plan,
    before: Option<u32>,
    selection: Selection<'_>,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if let Some(currency) = subscription.currency.as_deref()
        && selection.currency.is_some()
    {
        selection.check_currency(&held, Some(currency))?;
    }
    let after = selection.seats(&held, before)?;
    if after == before {
        let tier = held.tier;
        return Err(match subscription.ends() {
            true => ChangeRejection::SamePlanEnding(tier),
            false => ChangeRejection::SamePlan(tier),
        });
    }
    Ok(StripeAction::Switch {
        subscription,
        quantities: Quantities::of(&held, after),
        plan: Box::new(held.with_seats(after)),
        version: subscription.plan_version,
        keeps_prices: true,
    })
}

/// The quantities after a switch. Where the fee was for each seat and is not any more, it
/// is charged once.
fn quantities(held: &Plan, plan: &Plan, seats: Option<u32>) -> Quantities {
    let after = Quantities::of(plan, seats);
    let was_each = held.licensed_seats();
    let was_each = was_each.is_some_and(|seats| seats.prices.is_empty());
    Quantities {
        fee: after.fee.or(was_each.then_some(1)),
        ..after
    }
}

fn migrate<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    terms: &Plan,
    version: i32,
) -> Result<StripeAction<'a>, ChangeRejection> {
    if subscription.is_incomplete() {
        return Err(ChangeRejection::Incomplete);
    }
    let ends_at = subscription.cancel_at.or(subscription.period_end);
    if let Some(at) = ends_at.filter(|_| subscription.ends()) {
        return Err(ChangeRejection::EndsAlready(at));
    }
    let (item, current) = subscription
        .base_item(catalogue)
        .ok_or(ChangeRejection::UnknownItems)?;
    if current.tier != terms.tier {
        return Err(ChangeRejection::OtherPlan(current.tier.clone()));
    }
    if subscription.plan_version == Some(version) {
        return Ok(StripeAction::Nothing { subscription });
    }
    let interval = item.plan_interval();
    let held = held_terms(subscription, catalogue, current, interval);
    let selection = Selection::from(terms.tier.as_str());
    let plan = selection.choose(terms, subscription.currency.as_deref(), interval)?;
    let seats = selection.seats(&plan, subscription.seats(catalogue, &held))?;
    Ok(StripeAction::Switch {
        subscription,
        quantities: quantities(&held, &plan, seats),
        plan: Box::new(plan.with_seats(seats)),
        version: Some(version),
        keeps_prices: false,
    })
}
