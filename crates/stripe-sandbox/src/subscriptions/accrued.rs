//! Usage of metered items that come or go within a period. A price charges only
//! the usage since it was added. What was used before a price was removed is
//! charged in flexible billing, and lost in classic billing.

use billing_domain::preview::BillingMode;

use crate::error::ApiError;
use crate::invoices::assemble;
use crate::invoices::model::LineContent;
use crate::state::State;
use crate::subscriptions::change::{Change, Invoicing, ProrationBehavior};
use crate::subscriptions::model::{Item, Subscription};

/// Notes when items got the prices that they did not have before.
pub fn begin(before: &Subscription, after: &mut Subscription, now_secs: i64) {
    for item in &mut after.items {
        if !keeps_price(&before.items, item) {
            item.metered_since_secs = Some(now_secs);
        }
    }
}

/// Whether an item has the same price among `items`.
fn keeps_price(items: &[Item], item: &Item) -> bool {
    items
        .iter()
        .any(|other| other.id == item.id && other.price == item.price)
}

/// Charges the usage of items whose price a change removes, as pending lines like
/// those for unused time.
pub fn charge(
    state: &State,
    before: &Subscription,
    change: &mut Change,
    behavior: ProrationBehavior,
    now_secs: i64,
) -> Result<(), ApiError> {
    let restarts = change.invoice == Invoicing::FullPeriod;
    if before.mode == BillingMode::Classic || before.on_trial() || restarts {
        return Ok(());
    }
    if behavior == ProrationBehavior::None {
        return Ok(());
    }
    let mut lines: Vec<LineContent> = of_removed(state, before, &change.after, now_secs)?;
    lines.retain(|line| line.amount != 0);
    if !lines.is_empty() && behavior == ProrationBehavior::AlwaysInvoice {
        change.invoice = Invoicing::Pending;
    }
    change.prorations.extend(lines);
    Ok(())
}

fn of_removed(
    state: &State,
    before: &Subscription,
    after: &Subscription,
    now_secs: i64,
) -> Result<Vec<LineContent>, ApiError> {
    let removed = Subscription {
        items: before
            .items
            .iter()
            .filter(|item| !keeps_price(&after.items, item))
            .cloned()
            .collect(),
        ..before.clone()
    };
    let lines = assemble::metered(state, &removed, now_secs, false)?;
    Ok(lines.into_iter().map(|line| line.content).collect())
}
