//! Decides the outcome of a subscription change. The decision is pure and
//! shared by the change and its preview, so that the two cannot differ.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::BillingMode;
use billing_domain::proration::{Charge, Proration, prorate};

use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoices::describe;
use crate::invoices::model::LineContent;
use crate::prices::Price;
use crate::products::Product;
use crate::store::{Keyed, Store};
use crate::subscriptions::edit::{self, ItemEdit};
use crate::subscriptions::model::{Item, Status, Subscription};

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
}

impl ChangeRequest {
    /// Whether it changes items, the period or the trial.
    #[must_use]
    pub const fn changes_items_or_timing(&self) -> bool {
        !self.edits.is_empty() || self.restart || self.trial_end.is_some()
    }
}

/// Products and prices.
#[derive(Debug, Clone, Copy)]
pub struct Catalogue<'a> {
    pub prices: &'a Store<Price>,
    pub products: &'a Store<Product>,
}

impl<'a> Catalogue<'a> {
    pub fn price(&self, id: &str) -> Result<&'a Price, ApiError> {
        self.prices
            .get(id)
            .ok_or_else(|| ApiError::no_such("price", id, "price"))
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
    after.cadence = edit::common_cadence(&after, catalogue)?;
    let restart = restarts_period(before, &after, request, catalogue)?;
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
        BillingMode::Flexible if interval_changes => Err(ApiError::unsupported(
            "items",
            "a change of interval in flexible billing mode without `billing_cycle_anchor=now`",
        )),
        BillingMode::Flexible => Ok(false),
        BillingMode::Classic => {
            let from_free = total(before, catalogue)? == 0 && total(after, catalogue)? > 0;
            Ok(interval_changes || from_free)
        }
    }
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

fn charge_of(item: &Item, catalogue: Catalogue<'_>) -> Result<Option<Charge>, ApiError> {
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

/// The changed items, as pairs of before and after. If the period restarts, all
/// items count as changed.
fn changed_items<'a>(
    before: &'a Subscription,
    after: &'a Subscription,
    restart: bool,
) -> Vec<(Option<&'a Item>, Option<&'a Item>)> {
    let find = |items: &'a [Item], id: &str| items.iter().find(|item| item.id == id);
    let existing = before.items.iter().filter_map(|old| {
        let new = find(&after.items, &old.id);
        let same = new.is_some_and(|new| new.price == old.price && new.quantity == old.quantity);
        (restart || !same).then_some((Some(old), new))
    });
    let added = after
        .items
        .iter()
        .filter(|new| find(&before.items, &new.id).is_none())
        .map(|new| (None, Some(new)));
    existing.chain(added).collect()
}

/// The lines for unused and remaining time.
pub fn prorations(
    before: &Subscription,
    after: &Subscription,
    request: &ChangeRequest,
    restart: bool,
    catalogue: Catalogue<'_>,
) -> Result<Vec<LineContent>, ApiError> {
    let mut lines = Vec::new();
    for (old, new) in changed_items(before, after, restart) {
        let credited = match old {
            None => None,
            Some(item) => {
                let current = charge_of(item, catalogue)?;
                match before.mode {
                    BillingMode::Flexible => {
                        current.map(|charge| item.last_debited.unwrap_or(charge))
                    }
                    BillingMode::Classic => current,
                }
            }
        };
        let debited = match new {
            // A restarted period is charged in full instead of prorated.
            Some(item) if !restart => charge_of(item, catalogue)?,
            _ => None,
        };
        let amounts = prorate(&Proration {
            period: before.period,
            change_at_secs: request.proration_secs,
            credited,
            debited,
        })
        .map_err(|error| ApiError::invalid(error.to_string()))?;
        let at_secs = request.proration_secs;
        let credit = old.zip(credited).zip(amounts.credit);
        let debit = new.zip(debited).zip(amounts.debit);
        for (kind, line) in [(Side::Unused, credit), (Side::Remaining, debit)] {
            if let Some(((item, charge), amount)) = line {
                lines.push(
                    ProrationLine {
                        kind,
                        item,
                        charge,
                        amount,
                        at_secs,
                    }
                    .content(before, catalogue)?,
                );
            }
        }
    }
    Ok(lines)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Unused,
    Remaining,
}

struct ProrationLine<'a> {
    kind: Side,
    item: &'a Item,
    charge: Charge,
    amount: i64,
    at_secs: i64,
}

impl ProrationLine<'_> {
    fn content(
        &self,
        subscription: &Subscription,
        catalogue: Catalogue<'_>,
    ) -> Result<LineContent, ApiError> {
        let price = catalogue.price(&self.item.price)?;
        let (unused, quantity) = (self.kind == Side::Unused, self.charge.quantity);
        let product = catalogue.product_name(price);
        Ok(LineContent {
            amount: self.amount,
            currency: subscription.currency.clone(),
            description: Some(describe::proration(unused, quantity, product, self.at_secs)),
            period: (self.at_secs, subscription.period.end_secs()),
            price: Some(price.id().to_owned()),
            quantity: Some(quantity),
            proration: true,
            subscription: Some(subscription.id.clone()),
            item: Some(self.item.id.clone()),
            unit: None,
            credited: None,
            metadata: subscription.metadata.clone(),
        })
    }
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
    for item in &mut after.items {
        let old = before.items.iter().find(|old| old.id == item.id);
        let same = old.is_some_and(|old| old.price == item.price && old.quantity == item.quantity);
        if restart || before.on_trial() {
            item.last_debited = None;
        } else if !same {
            item.last_debited = match request.behavior {
                ProrationBehavior::None => Some(
                    match old {
                        Some(old) => old.last_debited.or(charge_of(old, catalogue)?),
                        None => None,
                    }
                    .unwrap_or(Charge {
                        unit_amount: 0,
                        quantity: 0,
                    }),
                ),
                ProrationBehavior::AlwaysInvoice | ProrationBehavior::CreateProrations => None,
            };
        }
    }
    Ok(())
}
