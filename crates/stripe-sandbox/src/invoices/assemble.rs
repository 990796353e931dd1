//! Assembles invoices from lines. Nothing is recorded here, so that a preview
//! is exactly the invoice that would be created.

use billing_domain::period::Period;

use crate::discounts::model::Discount;
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoice_items::InvoiceItem;
use crate::invoices::describe;
use crate::invoices::model::{Invoice, Line, LineContent, Parent, Status, Transitions};
use crate::metadata::Metadata;
use crate::meter_events;
use crate::state::State;
use crate::store::Keyed;
use crate::subscriptions::change::Catalogue;
use crate::subscriptions::model::{Item, Subscription};
use crate::subscriptions::periods;

/// A line of a draft.
#[derive(Debug, Clone)]
pub struct DraftLine {
    /// The invoice item that the line consumes.
    pub invoice_item: Option<String>,
    pub content: LineContent,
}

impl From<LineContent> for DraftLine {
    fn from(content: LineContent) -> Self {
        Self {
            invoice_item: None,
            content,
        }
    }
}

/// An invoice that has no ids yet.
#[derive(Debug, Clone)]
pub struct Draft {
    pub customer: String,
    /// The subscription that it belongs to.
    pub parent: Option<Parent>,
    /// Stripe's `billing_reason`.
    pub reason: &'static str,
    /// The period shown on the invoice.
    pub period: (i64, i64),
    pub currency: String,
    pub lines: Vec<DraftLine>,
    /// The subscription's discounts; if there are none, the customer's apply.
    pub discounts: Vec<Discount>,
    /// Whether taxes follow from the customer's address.
    pub automatic_tax: bool,
    pub default_tax_rates: Vec<String>,
    /// Whether it is finalized and collected automatically.
    pub auto_advance: bool,
    /// When it is finalized automatically, unless immediately.
    pub finalizes_at_secs: Option<i64>,
}

impl Draft {
    /// A draft for a subscription.
    #[must_use]
    pub fn for_subscription(
        subscription: &Subscription,
        reason: &'static str,
        period: (i64, i64),
        lines: Vec<DraftLine>,
    ) -> Self {
        Self {
            customer: subscription.customer.clone(),
            parent: Some(Parent {
                subscription: subscription.id.clone(),
                metadata: subscription.metadata.clone(),
                mode: subscription.mode,
                proration_secs: None,
            }),
            reason,
            period,
            currency: subscription.currency.clone(),
            lines,
            discounts: subscription.discounts.clone(),
            automatic_tax: subscription.automatic_tax,
            default_tax_rates: subscription.default_tax_rates.clone(),
            auto_advance: true,
            finalizes_at_secs: None,
        }
    }

    /// Assigns ids. The result is a draft invoice.
    #[must_use]
    pub fn into_invoice(self, ids: &mut IdSource, now_secs: i64) -> Invoice {
        Invoice {
            id: ids.next("in"),
            number: None,
            customer: self.customer,
            parent: self.parent,
            status: Status::Draft,
            reason: self.reason,
            created_secs: now_secs,
            period: self.period,
            currency: self.currency,
            lines: self
                .lines
                .into_iter()
                .map(|line| {
                    let id = ids.next("il");
                    // Prorations are invoice items, in previews as well.
                    let invoice_item = line
                        .invoice_item
                        .or_else(|| line.content.proration.then(|| ids.next("ii")));
                    Line::new(id, invoice_item, line.content)
                })
                .collect(),
            discounts: self.discounts,
            automatic_tax: self.automatic_tax,
            default_tax_rates: self.default_tax_rates,
            starting_balance: 0,
            ending_balance: None,
            amount_due: 0,
            amount_paid: 0,
            attempt_count: 0,
            attempted: false,
            next_attempt_secs: None,
            auto_advance: self.auto_advance,
            finalizes_at_secs: self.finalizes_at_secs,
            transitions: Transitions::default(),
            payment_intent: None,
            charge: None,
            default_payment_method: None,
            paid_out_of_band: false,
            description: None,
            footer: None,
            metadata: Metadata::new(),
        }
    }
}

/// The pending invoice items that an invoice of this subscription includes: its
/// own, and those of the customer without a subscription.
#[must_use]
pub fn pending(state: &State, subscription: &Subscription) -> Vec<DraftLine> {
    state
        .invoice_items
        .iter()
        .filter(|item| {
            let mine = item
                .content
                .subscription
                .as_ref()
                .is_none_or(|id| *id == subscription.id);
            item.invoice.is_none()
                && item.customer == subscription.customer
                && mine
                && item.content.currency == subscription.currency
        })
        .map(InvoiceItem::draft_line)
        .collect()
}

/// A line for a whole period of every licensed item whose period begins with
/// the subscription's, in advance.
pub fn licensed(
    subscription: &Subscription,
    catalogue: Catalogue<'_>,
) -> Result<Vec<DraftLine>, ApiError> {
    let mut lines = Vec::new();
    for item in &subscription.items {
        let price = catalogue.price(&item.price)?;
        let quantity = item.quantity.unwrap_or(1);
        let Some(charge) = price.charge(quantity) else {
            continue;
        };
        let period = periods::of_item(subscription, item, catalogue)?;
        if period.start_secs() != subscription.period.start_secs() {
            continue;
        }
        let amount = charge
            .full_amount()
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let description = describe::recurring(quantity, catalogue.product_name(price), price);
        lines.push(
            item_line(
                subscription,
                item,
                price.id(),
                quantity,
                amount,
                description,
                period,
            )
            .into(),
        );
    }
    Ok(lines)
}

/// The usage up to a time of every metered item, in arrears. If the
/// subscription goes on, only of items whose period ends then.
pub fn metered(
    state: &State,
    subscription: &Subscription,
    until_secs: i64,
    goes_on: bool,
) -> Result<Vec<DraftLine>, ApiError> {
    let catalogue = state.catalogue();
    let mut lines = Vec::new();
    for item in &subscription.items {
        let price = catalogue.price(&item.price)?;
        let Some(meter) = price.meter() else {
            continue;
        };
        let whole = periods::of_item(subscription, item, catalogue)?;
        let ends = whole.end_secs() == until_secs;
        // Usage from before the item had its price is not charged at it.
        let since_secs = item.metered_since_secs.unwrap_or(whole.start_secs());
        let start_secs = whole.start_secs().max(since_secs);
        let Ok(period) = Period::from_seconds(start_secs, until_secs) else {
            continue;
        };
        if goes_on && !ends {
            continue;
        }
        let used = meter_events::usage(
            state,
            meter,
            &subscription.customer,
            period.start_secs(),
            period.end_secs(),
        );
        let parts = price
            .scheme
            .lines(used)
            .ok_or_else(|| ApiError::invalid("The usage is too large to be charged."))?;
        for part in parts {
            let description = describe::metered(&part, catalogue.product_name(price), price);
            let line = item_line(
                subscription,
                item,
                price.id(),
                part.quantity,
                part.amount,
                description,
                period,
            );
            lines.push(line.into());
        }
    }
    Ok(lines)
}

/// Lines of zero for the items on trial.
pub fn trial(
    subscription: &Subscription,
    catalogue: Catalogue<'_>,
) -> Result<Vec<DraftLine>, ApiError> {
    let mut lines = Vec::new();
    for item in &subscription.items {
        let price = catalogue.price(&item.price)?;
        if price.meter().is_none() {
            let quantity = item.quantity.unwrap_or(1);
            let description = describe::trial(quantity, catalogue.product_name(price));
            lines.push(
                item_line(
                    subscription,
                    item,
                    price.id(),
                    quantity,
                    0,
                    description,
                    subscription.period,
                )
                .into(),
            );
        }
    }
    Ok(lines)
}

fn item_line(
    subscription: &Subscription,
    item: &Item,
    price: &str,
    quantity: u64,
    amount: i64,
    description: String,
    period: Period,
) -> LineContent {
    LineContent {
        amount,
        currency: subscription.currency.clone(),
        description: Some(description),
        period: (period.start_secs(), period.end_secs()),
        price: Some(price.to_owned()),
        quantity: Some(quantity),
        proration: false,
        subscription: Some(subscription.id.clone()),
        item: Some(item.id.clone()),
        unit: None,
        credited: None,
        tax_rates: item.tax_rates.clone(),
        metadata: subscription.metadata.clone(),
    }
}

/// The invoice of a renewal: pending items, the usage of the ended period, and
/// the new period.
pub fn renewal(
    state: &State,
    ended: &Subscription,
    next: &Subscription,
    more_pending: Vec<LineContent>,
) -> Result<Draft, ApiError> {
    let mut lines = pending(state, ended);
    lines.extend(more_pending.into_iter().map(DraftLine::from));
    if !ended.on_trial() {
        lines.extend(metered(state, ended, ended.period.end_secs(), true)?);
    }
    lines.extend(licensed(next, state.catalogue())?);
    let period = (ended.period.start_secs(), ended.period.end_secs());
    Ok(Draft::for_subscription(
        next,
        "subscription_cycle",
        period,
        lines,
    ))
}

/// The invoice of a change that is charged immediately.
pub fn immediate(
    state: &State,
    before: &Subscription,
    after: &Subscription,
    full_period: bool,
    more_pending: Vec<LineContent>,
    now_secs: i64,
) -> Result<Draft, ApiError> {
    let mut lines = pending(state, before);
    lines.extend(more_pending.into_iter().map(DraftLine::from));
    if full_period {
        if !before.on_trial() {
            lines.extend(metered(state, before, now_secs, false)?);
        }
        lines.extend(licensed(after, state.catalogue())?);
    }
    let period = if full_period {
        (now_secs, now_secs)
    } else {
        (before.period.start_secs(), now_secs)
    };
    Ok(Draft::for_subscription(
        after,
        "subscription_update",
        period,
        lines,
    ))
}
