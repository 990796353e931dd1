//! Subscriptions and their items.

use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::discount::{Discount, Discounts};
use super::fields::{Fields, ShapeError, collection_method, customer};

#[derive(Debug, Clone, Serialize)]
pub struct Subscription {
    #[serde(rename = "stripe_subscription_id")]
    pub id: String,
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: String,
    #[serde(rename = "stripe_status")]
    pub status: SubscriptionStatus,
    pub currency: Option<String>,
    pub current_period_start: Option<Timestamp>,
    pub current_period_end: Option<Timestamp>,
    /// The month in which usage counts, if it is not the billing period. Only the catalogue
    /// knows.
    pub usage_period_start: Option<Timestamp>,
    pub usage_period_end: Option<Timestamp>,
    pub billing_cycle_anchor: Option<Timestamp>,
    pub billing_mode: Option<String>,
    pub collection_method: Option<String>,
    /// What becomes of its invoices while collection is paused; `None`: it is not paused.
    pub collection_paused: Option<String>,
    pub trial_start: Option<Timestamp>,
    pub trial_end: Option<Timestamp>,
    pub cancel_at: Option<Timestamp>,
    pub cancel_at_period_end: bool,
    pub canceled_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub latest_invoice_id: Option<String>,
    pub default_payment_method_id: Option<String>,
    /// Whether a coupon or promotion applies, to it or to an item.
    pub discounted: bool,
    /// Its own discounts, in the order in which they apply.
    pub discount_ids: Vec<String>,
    /// The discounts that are shown whole, of it and of its items.
    #[serde(skip)]
    pub discounts: Vec<Discount>,
    /// Whether tax is added.
    pub taxed: bool,
    #[serde(rename = "stripe_test_clock_id")]
    pub test_clock_id: Option<String>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
    /// A change that waits for its payment, as Stripe's object.
    pub pending_update: Option<Value>,
    #[serde(skip)]
    pub items: Vec<SubscriptionItem>,
    /// Whether Stripe has more items than these.
    pub has_more_items: bool,
    /// The schedule that drives it.
    #[serde(rename = "stripe_schedule_id")]
    pub schedule_id: Option<String>,
    /// What the customer said on canceling.
    pub cancellation_comment: Option<String>,
    /// One of Stripe's words for why.
    pub cancellation_feedback: Option<String>,
    /// Stripe's cause: a request, a failed payment or a dispute.
    pub cancellation_reason: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionItem {
    #[serde(rename = "stripe_subscription_item_id")]
    pub id: String,
    #[serde(rename = "stripe_price_id")]
    pub price_id: Option<String>,
    #[serde(rename = "stripe_product_id")]
    pub product_id: Option<String>,
    pub lookup_key: Option<String>,
    #[serde(skip)]
    pub price_metadata: Metadata,
    pub usage_type: Option<String>,
    pub unit_amount: Option<i64>,
    /// In minor units, exact for prices with fractions of one.
    pub unit_amount_decimal: Option<String>,
    pub currency: Option<String>,
    #[serde(rename = "recurring_interval")]
    pub interval: Option<String>,
    #[serde(rename = "recurring_interval_count")]
    pub interval_count: Option<i32>,
    pub quantity: Option<i64>,
    /// The quantity is sold in packages of so many, rounded `up` or `down`.
    pub quantity_divide_by: Option<i64>,
    pub quantity_round: Option<String>,
    /// Whether the amount is with or without the tax that Stripe computes.
    pub tax_behavior: Option<String>,
    /// The rates of tax that the amount includes, added up.
    pub included_tax_percent: Option<Decimal>,
    /// Its own discounts, in the order in which they apply.
    pub discount_ids: Vec<String>,
    #[serde(skip)]
    pub discounts: Vec<Discount>,
    pub current_period_start: Option<Timestamp>,
    pub current_period_end: Option<Timestamp>,
    /// When it was added to the subscription.
    #[serde(skip)]
    pub created: Option<Timestamp>,
}

impl Subscription {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let own = Discounts::of(&o)?;
        let items = items_of(&o)?;
        // The catalogue decides which item's period counts; this default is the
        // one that ends first.
        let with_period = items
            .iter()
            .filter(|item| item.current_period_end.is_some())
            .min_by_key(|item| (item.current_period_end, item.current_period_start));
        let cancellation = o.within("cancellation_details")?;
        Ok(Self {
            id: o.own_id()?,
            customer_id: customer(&o)?.ok_or_else(|| o.missing("customer"))?,
            status: o.text("status")?.into(),
            currency: o.maybe_text("currency")?,
            current_period_start: match with_period {
                Some(item) => item.current_period_start,
                None => o.time("current_period_start")?,
            },
            current_period_end: match with_period {
                Some(item) => item.current_period_end,
                None => o.time("current_period_end")?,
            },
            usage_period_start: None,
            usage_period_end: None,
            billing_cycle_anchor: o.time("billing_cycle_anchor")?,
            billing_mode: billing_mode(&o)?,
            collection_method: collection_method(&o)?,
            collection_paused: o.within("pause_collection")?.maybe_text("behavior")?,
            trial_start: o.time("trial_start")?,
            trial_end: o.time("trial_end")?,
            cancel_at: o.time("cancel_at")?,
            cancel_at_period_end: o.flag("cancel_at_period_end")?,
            canceled_at: o.time("canceled_at")?,
            ended_at: o.time("ended_at")?,
            latest_invoice_id: o.id("latest_invoice")?,
            default_payment_method_id: match o.id("default_payment_method")? {
                Some(id) => Some(id),
                None => o.id("default_source")?,
            },
            discounted: !own.ids.is_empty()
                || items.iter().any(|item| !item.discount_ids.is_empty()),
            discounts: items
                .iter()
                .flat_map(|item| &item.discounts)
                .chain(&own.shown)
                .cloned()
                .collect(),
            discount_ids: own.ids,
            taxed: is_taxed(&o)?,
            test_clock_id: o.id("test_clock")?,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: created(&o)?,
            pending_update: o.object("pending_update")?,
            items,
            has_more_items: o.within("items")?.flag("has_more")?,
            schedule_id: o.id("schedule")?,
            cancellation_comment: cancellation.maybe_text("comment")?,
            cancellation_feedback: cancellation.maybe_text("feedback")?,
            cancellation_reason: cancellation.maybe_text("reason")?,
        })
    }
}

fn items_of(o: &Fields<'_>) -> Result<Vec<SubscriptionItem>, ShapeError> {
    let mut items = if o.has("items") {
        o.list("items")?
            .map(SubscriptionItem::read)
            .collect::<Result<Vec<_>, _>>()?
    } else {
        SubscriptionItem::of_plan(o)?.into_iter().collect()
    };
    // The rates of the whole are those of items without their own.
    if let Some(percent) = included_tax(o, "default_tax_rates")? {
        for item in &mut items {
            item.included_tax_percent.get_or_insert(percent);
        }
    }
    Ok(items)
}

/// Taxed automatically, by its own or its items' rates, or by a percentage in
/// versions before 2020-08-27.
fn is_taxed(o: &Fields<'_>) -> Result<bool, ShapeError> {
    Ok(o.within("automatic_tax")?.flag("enabled")?
        || has_members(o, "default_tax_rates")?
        || o.has_nonzero("tax_percent")
        || any(o.list("items")?, |item| has_members(item, "tax_rates"))?)
}

/// The rates under `name` that the amount includes, added up; `None` where no rate is named.
fn included_tax(o: &Fields<'_>, name: &str) -> Result<Option<Decimal>, ShapeError> {
    let mut sum = None;
    for rate in o.array(name)? {
        let sum = sum.get_or_insert(Decimal::ZERO);
        if rate.flag("inclusive")? {
            let percent = rate.decimal("percentage")?;
            let percent = percent.and_then(|percent| percent.parse::<Decimal>().ok());
            let percent = percent.ok_or_else(|| rate.missing("percentage"))?;
            *sum = sum
                .checked_add(percent)
                .ok_or_else(|| rate.too_large("percentage"))?;
        }
    }
    Ok(sum)
}

/// Versions before 2016 have only the start.
fn created(o: &Fields<'_>) -> Result<Option<Timestamp>, ShapeError> {
    for name in ["created", "start_date", "start"] {
        if let Some(at) = o.time(name)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Preview versions of 2025 have it as a text.
fn billing_mode(o: &Fields<'_>) -> Result<Option<String>, ShapeError> {
    match o.within("billing_mode")? {
        mode if mode.is_present() => mode.maybe_text("type"),
        _ => o.maybe_text("billing_mode"),
    }
}

fn has_members(o: &Fields<'_>, name: &str) -> Result<bool, ShapeError> {
    Ok(o.array(name)?.next().is_some())
}

fn any<'a>(
    mut items: impl Iterator<Item = Fields<'a>>,
    holds: impl Fn(&Fields<'a>) -> Result<bool, ShapeError>,
) -> Result<bool, ShapeError> {
    items.try_fold(false, |found, item| Ok(found || holds(&item)?))
}

impl SubscriptionItem {
    /// Versions before 2016 have one plan and no items. Its item gets the
    /// subscription's id.
    fn of_plan(o: &Fields<'_>) -> Result<Option<Self>, ShapeError> {
        let has_plan = o.within("plan")?.is_present();
        has_plan.then(|| Self::read(o.clone())).transpose()
    }

    fn read(o: Fields<'_>) -> Result<Self, ShapeError> {
        let id = o.own_id()?;
        Self::priced(id, &o)
    }

    /// What has a price as an item has it.
    pub(super) fn priced(id: String, o: &Fields<'_>) -> Result<Self, ShapeError> {
        let price = match o.within("price")? {
            price if price.is_present() => price,
            _ => o.within("plan")?,
        };
        let recurring = price.within("recurring")?;
        let packages = price.within("transform_quantity")?;
        let packages = match packages.is_present() {
            true => packages,
            false => price.within("transform_usage")?,
        };
        // The discounts of a plan at the top are the subscription's.
        let discounts = if o.has("status") {
            Discounts::default()
        } else {
            Discounts::of(o)?
        };
        // A plan has the fields that a price has under `recurring`.
        let recurring = if recurring.is_present() {
            recurring
        } else {
            price.clone()
        };
        Ok(Self {
            id,
            // An object, or an id that is not expanded.
            price_id: match o.id("price")? {
                Some(id) => Some(id),
                None => o.id("plan")?,
            },
            product_id: price.id("product")?,
            lookup_key: price.maybe_text("lookup_key")?,
            price_metadata: price.map("metadata")?,
            usage_type: recurring.maybe_text("usage_type")?,
            unit_amount: match price.maybe_integer("unit_amount")? {
                Some(amount) => Some(amount),
                None => price.maybe_integer("amount")?,
            },
            unit_amount_decimal: match price.decimal("unit_amount_decimal")? {
                Some(amount) => Some(amount),
                None => price.decimal("amount_decimal")?,
            },
            currency: price.maybe_text("currency")?,
            interval: recurring.maybe_text("interval")?,
            interval_count: recurring.small("interval_count")?,
            quantity: o.quantity("quantity")?,
            quantity_divide_by: packages.maybe_integer("divide_by")?.filter(|by| *by > 0),
            quantity_round: packages.maybe_text("round")?,
            tax_behavior: price.maybe_text("tax_behavior")?,
            included_tax_percent: included_tax(o, "tax_rates")?,
            discount_ids: discounts.ids,
            discounts: discounts.shown,
            current_period_start: o.time("current_period_start")?,
            current_period_end: o.time("current_period_end")?,
            created: o.time("created")?,
        })
    }
}
