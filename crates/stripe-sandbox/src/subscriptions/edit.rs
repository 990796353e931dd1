//! Changes of a subscription's items.

use crate::error::ApiError;
use crate::ids::IdSource;
use crate::metadata::{Metadata, MetadataChange};
use crate::prices::Price;
use crate::subscriptions::change::Catalogue;
use crate::subscriptions::model::{Item, Subscription};
use crate::subscriptions::share::Share;
use crate::taxes::rates;
use crate::validate;

/// A requested change of one item.
#[derive(Debug, Clone, Default)]
pub struct ItemEdit {
    /// The name of the parameter, for errors, such as `items[0]`.
    pub param: String,
    /// The existing item. If `None`, an item is added.
    pub id: Option<String>,
    pub price: Option<String>,
    pub quantity: Option<u64>,
    pub deleted: bool,
    pub metadata: MetadataChange,
    /// The new tax rates, if they change.
    pub tax_rates: Option<Vec<String>>,
}

/// The currency that an item's price must have, and what decided it.
#[derive(Debug, Clone, Copy)]
pub enum ExpectedCurrency<'a> {
    /// The subscription's, or the one that the request names.
    Fixed(&'a str),
    /// That of the first item of a new subscription.
    OfOtherItems(&'a str),
}

impl ExpectedCurrency<'_> {
    /// Why the price cannot be used, in Stripe's words; `None` if it can.
    fn refusal(self, price: &Price) -> Option<String> {
        let has = &price.currency;
        match self {
            Self::Fixed(expected) if has != expected => Some(format!(
                "The price specified only supports `{has}`. This doesn't match the expected currency: `{expected}`."
            )),
            Self::OfOtherItems(expected) if has != expected => Some(format!(
                "This `price` has `currency={has}`, but other items use `currency={expected}`. All items must have pricing in the same currency. When using multi-currency prices, you can specify `currency` at the top level, to be used by all items."
            )),
            _ => None,
        }
    }
}

/// The items after the edits: at least one, and none with the same price.
pub fn edit_items(
    before: &Subscription,
    edits: &[ItemEdit],
    catalogue: Catalogue<'_>,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Vec<Item>, ApiError> {
    let mut items = before.items.clone();
    let currency = ExpectedCurrency::Fixed(&before.currency);
    for edit in edits {
        match &edit.id {
            Some(id) => edit_item(&mut items, id, edit, currency, catalogue)?,
            None => {
                let item = new_item(edit, currency, catalogue, ids, now_secs)?;
                refuse_used_price(&items, &item)?;
                items.push(item);
            }
        }
    }
    if items.is_empty() {
        return Err(ApiError::bad_param(
            "items",
            "A subscription must have at least one active plan. In order to cancel a subscription, please use the cancel API endpoint.",
        ));
    }
    for (index, item) in items.iter().enumerate() {
        if items[..index].iter().any(|other| other.price == item.price) {
            return Err(ApiError::bad_param(
                "items",
                format!(
                    "Cannot add multiple subscription items with the same plan: {}",
                    item.price
                ),
            ));
        }
    }
    Ok(items)
}

/// Refuses to add an item whose price another item has.
fn refuse_used_price(items: &[Item], added: &Item) -> Result<(), ApiError> {
    match items.iter().find(|item| item.price == added.price) {
        None => Ok(()),
        Some(existing) => Err(ApiError::bad_param(
            "plan",
            format!(
                "A new item with Price {} can't be added to this Subscription because an existing Subscription Item {} is already using that Price. If you want to update the existing item (e.g., to adjust the quantity), pass the existing Subscription Item's `id` in your update request: https://stripe.com/docs/api/subscriptions/update#update_subscription-items-id",
                added.price, existing.id
            ),
        )),
    }
}

fn edit_item(
    items: &mut Vec<Item>,
    id: &str,
    edit: &ItemEdit,
    currency: ExpectedCurrency<'_>,
    catalogue: Catalogue<'_>,
) -> Result<(), ApiError> {
    let position = items.iter().position(|item| item.id == id).ok_or_else(|| {
        ApiError::no_such("subscription_item", id, &format!("{}[id]", edit.param))
    })?;
    if edit.deleted {
        items.remove(position);
        return Ok(());
    }
    let item = &mut items[position];
    if let Some(price) = &edit.price
        && *price != item.price
    {
        let metered = subscribable(price, edit, currency, catalogue)?
            .meter()
            .is_some();
        item.price.clone_from(price);
        item.quantity = if metered {
            None
        } else {
            Some(item.quantity.unwrap_or(1))
        };
    }
    if let Some(quantity) = edit.quantity {
        item.quantity = Some(checked_quantity(quantity, &item.price, edit, catalogue)?);
    }
    if let Some(rates) = checked_tax_rates(edit, catalogue)? {
        item.tax_rates = rates;
    }
    let name = format!("{}[metadata]", edit.param);
    edit.metadata.check_room(&item.metadata, &name)?;
    edit.metadata.clone().apply(&mut item.metadata);
    Ok(())
}

/// A new item for a price.
pub fn new_item(
    edit: &ItemEdit,
    currency: ExpectedCurrency<'_>,
    catalogue: Catalogue<'_>,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Item, ApiError> {
    let price_id = edit
        .price
        .as_ref()
        .ok_or_else(|| ApiError::missing_param(&format!("{}[price]", edit.param)))?;
    let price = subscribable(price_id, edit, currency, catalogue)?;
    let quantity = match edit.quantity {
        Some(quantity) => Some(checked_quantity(quantity, price_id, edit, catalogue)?),
        None if price.meter().is_some() => None,
        None => Some(1),
    };
    Ok(Item {
        id: ids.next("si"),
        price: price_id.clone(),
        quantity,
        last_debited: None,
        charged: Share::ALL,
        tax_rates: checked_tax_rates(edit, catalogue)?.unwrap_or_default(),
        metered_since_secs: None,
        created_secs: now_secs,
        metadata: match &edit.metadata {
            MetadataChange::Merge(_) => edit.metadata.clone().initial(),
            MetadataChange::Keep | MetadataChange::Clear => Metadata::new(),
        },
    })
}

fn checked_tax_rates(
    edit: &ItemEdit,
    catalogue: Catalogue<'_>,
) -> Result<Option<Vec<String>>, ApiError> {
    let Some(ids) = &edit.tax_rates else {
        return Ok(None);
    };
    rates::check(
        catalogue.tax_rates,
        ids,
        &format!("{}[tax_rates]", edit.param),
    )?;
    Ok(Some(ids.clone()))
}

fn subscribable<'a>(
    id: &str,
    edit: &ItemEdit,
    currency: ExpectedCurrency<'_>,
    catalogue: Catalogue<'a>,
) -> Result<&'a Price, ApiError> {
    let param = format!("{}[price]", edit.param);
    let price = catalogue
        .prices
        .get(id)
        .ok_or_else(|| ApiError::no_such("price", id, &param))?;
    let problem = if !price.active {
        "The price specified is inactive. This field only accepts active prices.".to_owned()
    } else if price.recurring.is_none() {
        format!(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`: {id}"
        )
    } else if let Some(refusal) = currency.refusal(price) {
        refusal
    } else {
        return Ok(price);
    };
    Err(ApiError::bad_param(&param, problem))
}

fn checked_quantity(
    quantity: u64,
    price: &str,
    edit: &ItemEdit,
    catalogue: Catalogue<'_>,
) -> Result<u64, ApiError> {
    let param = format!("{}[quantity]", edit.param);
    let price = catalogue.price(price)?;
    if price.meter().is_some() {
        return Err(ApiError::bad_param(
            &param,
            "You cannot set the quantity for metered plans. Usage is reported to the meter.",
        ));
    }
    let fits = price
        .charge(quantity)
        .and_then(|charge| charge.full_amount().ok())
        .is_some_and(|amount| amount <= validate::LARGEST_AMOUNT);
    if fits {
        Ok(quantity)
    } else {
        Err(ApiError::bad_param(
            &param,
            "Quantity times unit amount is too large.",
        ))
    }
}
