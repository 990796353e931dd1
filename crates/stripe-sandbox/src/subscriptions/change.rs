//! Decides the outcome of a subscription change. The decision is pure and
//! shared by the change and its preview, so that the two cannot differ.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::BillingMode;
use billing_domain::proration::Charge;

use crate::customers::Customer;
use crate::discounts::model::Discount;
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoices::model::LineContent;
use crate::prices::Price;
use crate::products::Product;
use crate::store::Store;
use crate::subscriptions::accrued;
use crate::subscriptions::edit::{self, ItemEdit};
use crate::subscriptions::model::{Item, Status, Subscription};
use crate::subscriptions::periods;
use crate::subscriptions::prorations::prorations;
use crate::subscriptions::share::Share;
use crate::taxes::rates::TaxRate;

/// Stripe's maximum length of a trial: two years.
const MAX_TRIAL_SECS: i64 = 730 * 86_400;

/// When a change is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProrationBehavior {
    /// With the next invoice.
    CreateProrations,
    /// Immediately.
    AlwaysInvoice,
    /// Never.
    None,
}

impl ProrationBehavior {
    /// Stripe's name for the behavior.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CreateProrations => "create_prorations",
            Self::AlwaysInvoice => "always_invoice",
            Self::None => "none",
        }
    }
}

/// A requested end of the trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialEnd {
    Now,
    /// At a Unix time.
    At(i64),
}

/// A requested change of a subscription.
#[derive(Debug, Clone)]
pub struct ChangeRequest {
    pub edits: Vec<ItemEdit>,
    /// When the change is charged.
    pub behavior: ProrationBehavior,
    /// The time from which proration counts.
    pub proration_secs: i64,
    /// `billing_cycle_anchor=now`.
    pub restart: bool,
    /// `trial_end`.
    pub trial_end: Option<TrialEnd>,
    /// The new discounts, if they change.
    pub discounts: Option<Vec<Discount>>,
}

impl ChangeRequest {
    /// Whether it changes items, the period or the trial.
    #[must_use]
    pub const fn changes_items_or_timing(&self) -> bool {
        !self.edits.is_empty() || self.changes_timing()
    }

    /// Whether it changes the period or the trial.
    #[must_use]
    pub const fn changes_timing(&self) -> bool {
        self.restart || self.trial_end.is_some()
    }
}

/// What is sold, how it is taxed, and the customers with their discounts.
#[derive(Debug, Clone, Copy)]
pub struct Catalogue<'a> {
    pub prices: &'a Store<Price>,
    pub products: &'a Store<Product>,
    pub customers: &'a Store<Customer>,
    pub tax_rates: &'a Store<TaxRate>,
}

impl<'a> Catalogue<'a> {
    pub fn price(&self, id: &str) -> Result<&'a Price, ApiError> {
        self.prices
            .get(id)
            .ok_or_else(|| ApiError::no_such("price", id, "price"))
    }

    /// The discounts of a subscription, or else of its customer.
    #[must_use]
    pub fn discounts_of<'b>(&self, subscription: &'b Subscription) -> &'b [Discount]
    where
        'a: 'b,
    {
        if !subscription.discounts.is_empty() {
            return &subscription.discounts;
        }
        self.customers
            .get(&subscription.customer)
            .and_then(|customer| customer.discount.as_ref())
            .map_or(&[][..], std::slice::from_ref)
    }

    /// The name of a price's product.
    #[must_use]
    pub fn product_name(&self, price: &Price) -> &'a str {
        self.products
            .get(&price.product)
            .map_or("Product", |product| product.name.as_str())
    }
}

/// The outcome of a change.
#[derive(Debug)]
pub struct Change {
    /// The subscription after the change.
    pub after: Subscription,
    /// The lines for unused and remaining time.
    pub prorations: Vec<LineContent>,
    pub invoice: Invoicing,
}

/// What a change invoices immediately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invoicing {
    /// Nothing: everything is deferred to the renewal.
    Later,
    /// The pending lines.
    Pending,
    /// The pending lines and a whole period, because the period restarts.
    FullPeriod,
}

/// Decides the outcome of a change at `now_secs`.
pub fn decide(
    before: &Subscription,
    request: &ChangeRequest,
    catalogue: Catalogue<'_>,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Change, ApiError> {
    let items = edit::edit_items(before, &request.edits, catalogue, ids, now_secs)?;
    decide_items(before, items, request, catalogue, now_secs)
}

/// Decides the outcome of a change to these items, whatever the request's edits.
pub fn decide_items(
    before: &Subscription,
    items: Vec<Item>,
    request: &ChangeRequest,
    catalogue: Catalogue<'_>,
    now_secs: i64,
) -> Result<Change, ApiError> {
    let mut after = Subscription {
        items,
        ..before.clone()
    };
    accrued::begin(before, &mut after, now_secs);
    if let Some(discounts) = &request.discounts {
        after.discounts.clone_from(discounts);
    }
    after.cadence = periods::shortest_cadence(&after, catalogue)?;
    let restart = restarts_period(before, &after, request, catalogue)?;
    let mixes = !restart && periods::check_mixed_change(before, &after, catalogue)?;
    // A trial goes on, whatever comes after it.
    if !restart && after.cadence != before.cadence && !before.on_trial() {
        after.period = match mixes {
            true => periods::of_shortest(before, after.cadence, now_secs)?,
            false => lengthened_period(before, after.cadence)?,
        };
    }
    if let Some(TrialEnd::At(end_secs)) = request.trial_end {
        extend_trial(&mut after, end_secs, now_secs)?;
        return Ok(Change {
            after,
            prorations: Vec::new(),
            invoice: Invoicing::Later,
        });
    }
    let prorations = if before.on_trial() || request.behavior == ProrationBehavior::None {
        Vec::new()
    } else {
        prorations(before, &after, request, restart, catalogue)?
    };
    remember_debits(before, &mut after, request, restart, catalogue)?;
    if restart {
        after.anchor_secs = now_secs;
        after.period = full_period(after.cadence, now_secs)?;
        if after.on_trial() {
            after.status = Status::Active;
            after.trial = before.trial.map(|(start, _)| (start, now_secs));
        }
    }
    let invoice = if restart {
        Invoicing::FullPeriod
    } else if request.behavior == ProrationBehavior::AlwaysInvoice && !prorations.is_empty() {
        Invoicing::Pending
    } else {
        Invoicing::Later
    };
    Ok(Change {
        after,
        prorations,
        invoice,
    })
}

/// The period after a change of interval that keeps the anchor, in flexible
/// billing: it starts where the current one does. Stripe was seen to do so in
/// the first period, with a longer interval; nothing else is known.
fn lengthened_period(before: &Subscription, cadence: Cadence) -> Result<Period, ApiError> {
    let period = full_period(cadence, before.period.start_secs())?;
    if before.anchor_secs != before.period.start_secs()
        || period.end_secs() <= before.period.end_secs()
    {
        return Err(ApiError::unsupported(
            "items",
            "a change of interval in flexible billing mode without `billing_cycle_anchor=now`, except to a longer interval in the first period",
        ));
    }
    Ok(period)
}

/// A whole period that starts at its anchor.
pub fn full_period(cadence: Cadence, start_secs: i64) -> Result<Period, ApiError> {
    cadence
        .period_containing(start_secs, start_secs)
        .map_err(|error| ApiError::invalid(error.to_string()))
}

fn restarts_period(
    before: &Subscription,
    after: &Subscription,
    request: &ChangeRequest,
    catalogue: Catalogue<'_>,
) -> Result<bool, ApiError> {
    if request.restart || request.trial_end == Some(TrialEnd::Now) && before.on_trial() {
        return Ok(true);
    }
    if before.on_trial() {
        return Ok(false);
    }
    let interval_changes = before.cadence != after.cadence;
    match before.mode {
        BillingMode::Flexible => Ok(false),
        BillingMode::Classic => {
            let from_free = total(before, catalogue)? == 0 && total(after, catalogue)? > 0;
            Ok(interval_changes || from_free)
        }
    }
}

/// The amount of all licensed items for a whole period, before discounts.
pub fn full_amount(subscription: &Subscription, catalogue: Catalogue<'_>) -> Result<i64, ApiError> {
    i64::try_from(total(subscription, catalogue)?)
        .map_err(|_| ApiError::invalid("The amount is too large."))
}

fn total(subscription: &Subscription, catalogue: Catalogue<'_>) -> Result<i128, ApiError> {
    let mut total = 0;
    for item in &subscription.items {
        if let Some(charge) = charge_of(item, catalogue)? {
            total += i128::from(
                charge
                    .full_amount()
                    .map_err(|error| ApiError::invalid(error.to_string()))?,
            );
        }
    }
    Ok(total)
}

pub(super) fn charge_of(item: &Item, catalogue: Catalogue<'_>) -> Result<Option<Charge>, ApiError> {
    let price = catalogue.price(&item.price)?;
    Ok(price.charge(item.quantity.unwrap_or(1)))
}

fn extend_trial(after: &mut Subscription, end_secs: i64, now_secs: i64) -> Result<(), ApiError> {
    let start = after.trial.map_or(now_secs, |(start, _)| start);
    if end_secs <= now_secs || end_secs > now_secs + MAX_TRIAL_SECS {
        return Err(ApiError::bad_param(
            "trial_end",
            "Invalid timestamp: must be in the future, and within two years.",
        ));
    }
    if !after.on_trial() {
        return Err(ApiError::unsupported(
            "trial_end",
            "a trial for a subscription that has none",
        ));
    }
    after.trial = Some((start, end_secs));
    after.anchor_secs = end_secs;
    after.trial_end_announced = false;
    after.period = Period::from_seconds(after.period.start_secs(), end_secs)
        .map_err(|error| ApiError::bad_param("trial_end", error.to_string()))?;
    Ok(())
}

/// Records what was debited for the current period, which flexible billing
/// credits later.
fn remember_debits(
    before: &Subscription,
    after: &mut Subscription,
    request: &ChangeRequest,
    restart: bool,
    catalogue: Catalogue<'_>,
) -> Result<(), ApiError> {
    let discounts = catalogue.discounts_of(after).to_vec();
    for item in &mut after.items {
        let old = before.items.iter().find(|old| old.id == item.id);
        let same = old.is_some_and(|old| old.price == item.price && old.quantity == item.quantity);
        if restart || before.on_trial() {
            item.last_debited = None;
            item.charged = Share::ALL;
        } else if !same && request.behavior == ProrationBehavior::None {
            let charged = match old {
                Some(old) => old.last_debited.or(charge_of(old, catalogue)?),
                None => None,
            };
            item.last_debited = Some(charged.unwrap_or(Charge {
                unit_amount: 0,
                quantity: 0,
            }));
        } else if !same {
            let product = &catalogue.price(&item.price)?.product;
            item.last_debited = None;
            item.charged =
                Share::left_by(&discounts, Some(product.as_str()), request.proration_secs)?;
        }
    }
    Ok(())
}
