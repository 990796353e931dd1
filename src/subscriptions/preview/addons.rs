//! Add-ons as items of a change, and as a preview shows them.

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use super::switch::Other;
use crate::catalogue::{Addons, Catalogue};
use crate::subscriptions::prices::PlanPrices;
use crate::subscriptions::state::{Item, SubscriptionRow};

/// An add-on of which a change leaves another number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddonChange {
    #[schema(example = "extra_tokens")]
    pub id: String,
    pub current_quantity: u32,
    pub new_quantity: u32,
}

/// The add-ons whose number differs, by id.
pub fn changes(before: &Addons, after: &Addons) -> Vec<AddonChange> {
    let ids: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let number = |addons: &Addons, id: &String| addons.get(id).copied().unwrap_or(0);
    let changes = ids.into_iter().map(|id| AddonChange {
        id: id.clone(),
        current_quantity: number(before, id),
        new_quantity: number(after, id),
    });
    changes
        .filter(|one| one.current_quantity != one.new_quantity)
        .collect()
}

/// The changes of the items that pay for add-ons. Of each that changes one item is left.
pub(super) fn changed<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    prices: &'a PlanPrices,
) -> Vec<Other<'a>> {
    let mut held = subscription.addon_items(catalogue);
    let mut changed = Vec::new();
    for addon in &prices.addons {
        let mut items = held.remove(&addon.id).unwrap_or_default();
        if addon.is_held && units(&items) == i64::from(addon.quantity) {
            continue;
        }
        let other_price = |item: &Item| item.price_id.as_deref() != Some(&addon.price_id);
        items.sort_by_key(|item| (other_price(item), &item.id));
        let mut items = items.into_iter().map(|item| item.id.as_str());
        changed.push(Other::Licensed {
            item_id: items.next(),
            price_id: &addon.price_id,
            quantity: addon.quantity.into(),
        });
        changed.extend(items.map(|item_id| Other::Removed { item_id }));
    }
    let gone = held.into_values().flatten();
    changed.extend(gone.map(|item| Other::Removed { item_id: &item.id }));
    changed
}

fn units(items: &[&Item]) -> i64 {
    let units = items.iter().map(|item| item.quantity.unwrap_or(1));
    units.fold(0, i64::saturating_add)
}
