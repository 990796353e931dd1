//! Invoices and their lines.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Metadata;
use super::fields::{Fields, ShapeError, collection_method, customer};

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
    /// The metadata of its subscription, which may name the organization where the
    /// invoice's own does not.
    #[serde(skip)]
    pub subscription_metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
    #[serde(skip)]
    pub lines: Vec<InvoiceLine>,
    /// Whether Stripe has more lines than these.
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

impl Invoice {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let parent = o.within("parent")?.within("subscription_details")?;
        let before = o.within("subscription_details")?;
        let transitions = o.within("status_transitions")?;
        let amounts = Amounts::of(&o)?;
        let lines = o
            .list("lines")?
            .map(InvoiceLine::read)
            .collect::<Result<Vec<_>, _>>()?;
        let mut subscription_metadata = parent.map("metadata")?;
        if subscription_metadata.is_empty() {
            subscription_metadata = before.map("metadata")?;
        }
        if subscription_metadata.is_empty() {
            // Versions before 2022 have it only on each line.
            subscription_metadata = match o.list("lines")?.next() {
                Some(line) => line.map("metadata")?,
                None => Metadata::new(),
            };
        }
        Ok(Self {
            id: o.own_id()?,
            customer_id: customer(&o)?,
            subscription_id: match parent.id("subscription")? {
                Some(id) => Some(id),
                None => o.id("subscription")?,
            },
            number: o.maybe_text("number")?,
            status: status(&o)?,
            billing_reason: o.maybe_text("billing_reason")?,
            collection_method: collection_method(&o)?,
            currency: o.text("currency")?,
            subtotal: o.integer("subtotal")?,
            tax: tax(&o)?,
            total: o.integer("total")?,
            amount_due: amounts.due,
            amount_paid: amounts.paid,
            amount_remaining: amounts.remaining,
            starting_balance: o.maybe_integer("starting_balance")?,
            ending_balance: o.maybe_integer("ending_balance")?,
            attempt_count: o.small("attempt_count")?.unwrap_or(0),
            next_payment_attempt: o.time("next_payment_attempt")?,
            period_start: o.time("period_start")?,
            period_end: o.time("period_end")?,
            due_date: o.time("due_date")?,
            // At the top level until 2019-03-14.
            finalized_at: match transitions.time("finalized_at")? {
                Some(at) => Some(at),
                None => o.time("finalized_at")?,
            },
            paid_at: transitions.time("paid_at")?,
            voided_at: transitions.time("voided_at")?,
            hosted_invoice_url: o.maybe_text("hosted_invoice_url")?,
            invoice_pdf: o.maybe_text("invoice_pdf")?,
            metadata: o.map("metadata")?,
            subscription_metadata,
            livemode: o.flag("livemode")?,
            created: match o.time("created")? {
                Some(at) => Some(at),
                // Until 2019-03-14.
                None => o.time("date")?,
            },
            lines,
            has_more_lines: o.within("lines")?.flag("has_more")?,
        })
    }
}

/// Versions before 2018-11-08 have no status, but fields that imply it.
fn status(o: &Fields<'_>) -> Result<Option<String>, ShapeError> {
    if let Some(status) = o.maybe_text("status")? {
        return Ok(Some(status));
    }
    let status = if o.flag("paid")? {
        "paid"
    } else if o.flag("forgiven")? {
        "uncollectible"
    } else if o.flag("attempted")? || o.flag("closed")? {
        "open"
    } else {
        "draft"
    };
    let told = ["paid", "forgiven", "attempted", "closed"];
    let is_told = told.iter().any(|name| o.has(name));
    Ok(is_told.then(|| status.to_owned()))
}

/// The amounts due and paid of an invoice.
struct Amounts {
    due: i64,
    paid: i64,
    remaining: i64,
}

impl Amounts {
    /// Versions before 2018 have no partial payments.
    fn of(o: &Fields<'_>) -> Result<Self, ShapeError> {
        let due = o.integer("amount_due")?;
        let paid = match o.maybe_integer("amount_paid")? {
            Some(amount) => amount,
            None if o.has("paid") || o.has("status") => match status(o)?.as_deref() {
                Some("paid") => due,
                _ => 0,
            },
            None => return Err(o.missing("amount_paid")),
        };
        let remaining = match o.maybe_integer("amount_remaining")? {
            Some(amount) => amount,
            None => due
                .checked_sub(paid)
                .ok_or_else(|| o.too_large("amount_due"))?,
        };
        Ok(Self {
            due,
            paid,
            remaining,
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
            id: o.own_id()?,
            description: o.maybe_text("description")?,
            amount: o.integer("amount")?,
            currency: o.text("currency")?,
            quantity: o.quantity("quantity")?,
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
