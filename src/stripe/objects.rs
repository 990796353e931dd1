//! The objects inside of events, read from both shapes of Stripe's API: each
//! field is looked for where versions since 2025-03-31.basil have it, then
//! where older ones do. They serialize under the names of their columns.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

mod fields;
use fields::Fields;
pub use fields::ShapeError;

type Metadata = Map<String, Value>;

/// What an event shows of its object. Amounts are in the currency's minor unit.
#[derive(Debug, Clone)]
pub enum BillingObject {
    Subscription(Box<Subscription>),
    Invoice(Box<Invoice>),
    Charge(Box<Charge>),
    PaymentMethod(Box<PaymentMethod>),
}

impl BillingObject {
    pub fn id(&self) -> &str {
        match self {
            Self::Subscription(object) => &object.id,
            Self::Invoice(object) => &object.id,
            Self::Charge(object) => &object.id,
            Self::PaymentMethod(object) => &object.id,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Subscription {
    #[serde(rename = "stripe_subscription_id")]
    pub id: String,
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: String,
    #[serde(rename = "stripe_status")]
    pub status: String,
    pub currency: Option<String>,
    pub current_period_start: Option<Timestamp>,
    pub current_period_end: Option<Timestamp>,
    pub billing_cycle_anchor: Option<Timestamp>,
    pub billing_mode: Option<String>,
    pub collection_method: Option<String>,
    pub trial_start: Option<Timestamp>,
    pub trial_end: Option<Timestamp>,
    pub cancel_at: Option<Timestamp>,
    pub cancel_at_period_end: bool,
    pub canceled_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub latest_invoice_id: Option<String>,
    pub default_payment_method_id: Option<String>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
    #[serde(skip)]
    pub items: Vec<SubscriptionItem>,
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
    /// Exact, in minor units, where a price is below one of them.
    pub unit_amount_decimal: Option<String>,
    pub currency: Option<String>,
    #[serde(rename = "recurring_interval")]
    pub interval: Option<String>,
    #[serde(rename = "recurring_interval_count")]
    pub interval_count: Option<i32>,
    pub quantity: Option<i64>,
    pub current_period_start: Option<Timestamp>,
    pub current_period_end: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Invoice {
    #[serde(rename = "stripe_invoice_id")]
    pub id: String,
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: Option<String>,
    #[serde(rename = "stripe_subscription_id")]
    pub subscription_id: Option<String>,
    pub number: Option<String>,
    pub status: Option<String>,
    pub billing_reason: Option<String>,
    pub collection_method: Option<String>,
    pub currency: String,
    #[serde(rename = "subtotal_amount")]
    pub subtotal: i64,
    #[serde(rename = "tax_amount")]
    pub tax: Option<i64>,
    #[serde(rename = "total_amount")]
    pub total: i64,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
    pub starting_balance: Option<i64>,
    pub ending_balance: Option<i64>,
    pub attempt_count: i32,
    pub next_payment_attempt: Option<Timestamp>,
    pub period_start: Option<Timestamp>,
    pub period_end: Option<Timestamp>,
    pub due_date: Option<Timestamp>,
    pub finalized_at: Option<Timestamp>,
    pub paid_at: Option<Timestamp>,
    pub voided_at: Option<Timestamp>,
    pub hosted_invoice_url: Option<String>,
    pub invoice_pdf: Option<String>,
    pub metadata: Metadata,
    /// The metadata that its subscription had, which names the organization
    /// where the invoice's own does not.
    #[serde(skip)]
    pub subscription_metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
    #[serde(skip)]
    pub lines: Vec<InvoiceLine>,
    /// More lines than these are with Stripe.
    #[serde(rename = "has_more_items")]
    pub has_more_lines: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct InvoiceLine {
    #[serde(rename = "stripe_line_item_id")]
    pub id: String,
    pub description: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub quantity: Option<i64>,
    pub proration: bool,
    #[serde(rename = "stripe_price_id")]
    pub price_id: Option<String>,
    #[serde(rename = "stripe_subscription_id")]
    pub subscription_id: Option<String>,
    #[serde(rename = "stripe_subscription_item_id")]
    pub subscription_item_id: Option<String>,
    pub period_start: Option<Timestamp>,
    pub period_end: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Charge {
    #[serde(rename = "stripe_charge_id")]
    pub id: String,
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: Option<String>,
    #[serde(rename = "stripe_invoice_id")]
    pub invoice_id: Option<String>,
    #[serde(rename = "stripe_payment_intent_id")]
    pub payment_intent_id: Option<String>,
    #[serde(rename = "stripe_payment_method_id")]
    pub payment_method_id: Option<String>,
    pub status: String,
    pub currency: String,
    pub amount: i64,
    pub amount_captured: i64,
    pub amount_refunded: i64,
    pub paid: bool,
    pub captured: bool,
    pub refunded: bool,
    pub disputed: bool,
    pub failure_code: Option<String>,
    pub failure_message: Option<String>,
    pub outcome_type: Option<String>,
    pub outcome_network_status: Option<String>,
    pub outcome_reason: Option<String>,
    pub outcome_risk_level: Option<String>,
    pub outcome_seller_message: Option<String>,
    pub card_brand: Option<String>,
    pub card_last4: Option<String>,
    pub description: Option<String>,
    pub receipt_url: Option<String>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PaymentMethod {
    #[serde(rename = "stripe_payment_method_id")]
    pub id: String,
    /// The customer it is attached to, or was before it was detached.
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: Option<String>,
    /// `attached` or `detached`.
    pub status: &'static str,
    #[serde(rename = "type")]
    pub kind: String,
    pub brand: Option<String>,
    pub last4: Option<String>,
    pub exp_month: Option<i16>,
    pub exp_year: Option<i16>,
    pub funding: Option<String>,
    pub country: Option<String>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

impl Subscription {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let items = o
            .list("items")?
            .map(SubscriptionItem::read)
            .collect::<Result<Vec<_>, _>>()?;
        let with_period = items.iter().find(|item| item.current_period_end.is_some());
        Ok(Self {
            id: o.text("id")?,
            customer_id: o.id("customer")?.ok_or_else(|| o.missing("customer"))?,
            status: o.text("status")?,
            currency: o.maybe_text("currency")?,
            current_period_start: match with_period {
                Some(item) => item.current_period_start,
                None => o.time("current_period_start")?,
            },
            current_period_end: match with_period {
                Some(item) => item.current_period_end,
                None => o.time("current_period_end")?,
            },
            billing_cycle_anchor: o.time("billing_cycle_anchor")?,
            billing_mode: o.within("billing_mode")?.maybe_text("type")?,
            collection_method: o.maybe_text("collection_method")?,
            trial_start: o.time("trial_start")?,
            trial_end: o.time("trial_end")?,
            cancel_at: o.time("cancel_at")?,
            cancel_at_period_end: o.flag("cancel_at_period_end")?,
            canceled_at: o.time("canceled_at")?,
            ended_at: o.time("ended_at")?,
            latest_invoice_id: o.id("latest_invoice")?,
            default_payment_method_id: o.id("default_payment_method")?,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
            items,
        })
    }
}

impl SubscriptionItem {
    fn read(o: Fields<'_>) -> Result<Self, ShapeError> {
        let price = match o.within("price")? {
            price if price.is_present() => price,
            _ => o.within("plan")?,
        };
        let recurring = price.within("recurring")?;
        // A plan has on itself what a price has under `recurring`.
        let recurring = if recurring.is_present() {
            recurring
        } else {
            price.clone()
        };
        Ok(Self {
            id: o.text("id")?,
            price_id: price.maybe_text("id")?,
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
            quantity: o.maybe_integer("quantity")?,
            current_period_start: o.time("current_period_start")?,
            current_period_end: o.time("current_period_end")?,
        })
    }
}

impl Invoice {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let parent = o.within("parent")?.within("subscription_details")?;
        let before = o.within("subscription_details")?;
        let transitions = o.within("status_transitions")?;
        let lines = o
            .list("lines")?
            .map(InvoiceLine::read)
            .collect::<Result<Vec<_>, _>>()?;
        let mut subscription_metadata = parent.map("metadata")?;
        if subscription_metadata.is_empty() {
            subscription_metadata = before.map("metadata")?;
        }
        if subscription_metadata.is_empty() {
            // Versions before 2022 repeat it on each line only.
            subscription_metadata = match o.list("lines")?.next() {
                Some(line) => line.map("metadata")?,
                None => Metadata::new(),
            };
        }
        Ok(Self {
            id: o.text("id")?,
            customer_id: o.id("customer")?,
            subscription_id: match parent.id("subscription")? {
                Some(id) => Some(id),
                None => o.id("subscription")?,
            },
            number: o.maybe_text("number")?,
            status: o.maybe_text("status")?,
            billing_reason: o.maybe_text("billing_reason")?,
            collection_method: o.maybe_text("collection_method")?,
            currency: o.text("currency")?,
            subtotal: o.integer("subtotal")?,
            tax: tax(&o)?,
            total: o.integer("total")?,
            amount_due: o.integer("amount_due")?,
            amount_paid: o.integer("amount_paid")?,
            amount_remaining: o.integer("amount_remaining")?,
            starting_balance: o.maybe_integer("starting_balance")?,
            ending_balance: o.maybe_integer("ending_balance")?,
            attempt_count: o.small("attempt_count")?.unwrap_or(0),
            next_payment_attempt: o.time("next_payment_attempt")?,
            period_start: o.time("period_start")?,
            period_end: o.time("period_end")?,
            due_date: o.time("due_date")?,
            finalized_at: transitions.time("finalized_at")?,
            paid_at: transitions.time("paid_at")?,
            voided_at: transitions.time("voided_at")?,
            hosted_invoice_url: o.maybe_text("hosted_invoice_url")?,
            invoice_pdf: o.maybe_text("invoice_pdf")?,
            metadata: o.map("metadata")?,
            subscription_metadata,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
            lines,
            has_more_lines: o.within("lines")?.flag("has_more")?,
        })
    }
}

/// The sum of `total_taxes`, in older versions `total_tax_amounts` or `tax`.
fn tax(o: &Fields<'_>) -> Result<Option<i64>, ShapeError> {
    for name in ["total_taxes", "total_tax_amounts"] {
        let mut sum = None;
        for entry in o.array(name)? {
            let amount = entry.integer("amount")?;
            let so_far: i64 = sum.unwrap_or(0);
            sum = Some(
                so_far
                    .checked_add(amount)
                    .ok_or_else(|| entry.too_large("amount"))?,
            );
        }
        if sum.is_some() {
            return Ok(sum);
        }
    }
    o.maybe_integer("tax")
}

impl InvoiceLine {
    fn read(o: Fields<'_>) -> Result<Self, ShapeError> {
        let parent = o.within("parent")?;
        let by_item = parent.within("subscription_item_details")?;
        let by_invoice_item = parent.within("invoice_item_details")?;
        let price = o.within("pricing")?.within("price_details")?;
        let period = o.within("period")?;
        let first = |found: [Option<String>; 3]| found.into_iter().flatten().next();
        Ok(Self {
            id: o.text("id")?,
            description: o.maybe_text("description")?,
            amount: o.integer("amount")?,
            currency: o.text("currency")?,
            quantity: o.maybe_integer("quantity")?,
            proration: by_item.flag("proration")?
                || by_invoice_item.flag("proration")?
                || o.flag("proration")?,
            price_id: first([price.id("price")?, o.id("price")?, o.id("plan")?]),
            subscription_id: first([
                by_item.id("subscription")?,
                by_invoice_item.id("subscription")?,
                o.id("subscription")?,
            ]),
            subscription_item_id: first([
                by_item.id("subscription_item")?,
                o.id("subscription_item")?,
                None,
            ]),
            period_start: period.time("start")?,
            period_end: period.time("end")?,
        })
    }
}

impl Charge {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let outcome = o.within("outcome")?;
        let card = o.within("payment_method_details")?.within("card")?;
        Ok(Self {
            id: o.text("id")?,
            customer_id: o.id("customer")?,
            invoice_id: o.id("invoice")?,
            payment_intent_id: o.id("payment_intent")?,
            payment_method_id: o.id("payment_method")?,
            status: o.text("status")?,
            currency: o.text("currency")?,
            amount: o.integer("amount")?,
            amount_captured: o.maybe_integer("amount_captured")?.unwrap_or(0),
            amount_refunded: o.maybe_integer("amount_refunded")?.unwrap_or(0),
            paid: o.flag("paid")?,
            captured: o.flag("captured")?,
            refunded: o.flag("refunded")?,
            disputed: o.flag("disputed")?,
            failure_code: o.maybe_text("failure_code")?,
            failure_message: o.maybe_text("failure_message")?,
            outcome_type: outcome.maybe_text("type")?,
            outcome_network_status: outcome.maybe_text("network_status")?,
            outcome_reason: outcome.maybe_text("reason")?,
            outcome_risk_level: outcome.maybe_text("risk_level")?,
            outcome_seller_message: outcome.maybe_text("seller_message")?,
            card_brand: card.maybe_text("brand")?,
            card_last4: card.maybe_text("last4")?,
            description: o.maybe_text("description")?,
            receipt_url: o.maybe_text("receipt_url")?,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }
}

impl PaymentMethod {
    /// `previous_attributes` name the customer that a detached one belonged to.
    pub fn read(object: &Value, previous: Option<&Map<String, Value>>) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let kind = o.text("type")?;
        let details = o.within(&kind)?;
        let customer = o.id("customer")?;
        let owner_before = previous
            .and_then(|p| p.get("customer"))
            .and_then(Value::as_str);
        Ok(Self {
            id: o.text("id")?,
            status: if customer.is_some() {
                "attached"
            } else {
                "detached"
            },
            customer_id: customer.or_else(|| owner_before.map(str::to_owned)),
            brand: match details.maybe_text("brand")? {
                Some(brand) => Some(brand),
                None => details.maybe_text("bank_name")?,
            },
            last4: details.maybe_text("last4")?,
            exp_month: details.small("exp_month")?,
            exp_year: details.small("exp_year")?,
            funding: details.maybe_text("funding")?,
            country: details.maybe_text("country")?,
            kind,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }
}
