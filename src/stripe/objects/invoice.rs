//! Invoices and their lines.

use billing_domain::status::InvoiceStatus;
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
    pub status: Option<InvoiceStatus>,
    pub billing_reason: Option<String>,
    pub collection_method: Option<String>,
    pub currency: String,
    #[serde(rename = "subtotal_amount")]
    pub subtotal: i64,
    /// What discounts take off; `None` in versions that do not say it.
    #[serde(rename = "discount_amount")]
    pub discount: Option<i64>,
    /// The same, by the id of each discount.
    #[serde(skip)]
    pub discounts: Vec<(String, i64)>,
    /// All tax, including what is part of the subtotal.
    #[serde(rename = "tax_amount")]
    pub tax: Option<i64>,
    /// The tax that is part of the subtotal.
    #[serde(rename = "included_tax_amount")]
    pub included_tax: Option<i64>,
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
    /// Before discounts and the taxes that it does not include.
    pub amount: i64,
    #[serde(rename = "discount_amount")]
    pub discount: i64,
    /// The same, by the id of each discount.
    #[serde(skip)]
    pub discounts: Vec<(String, i64)>,
    /// All tax, including what is part of the amount.
    #[serde(rename = "tax_amount")]
    pub tax: i64,
    #[serde(rename = "included_tax_amount")]
    pub included_tax: i64,
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
        let transitions = o.within("status_transitions")?;
        let amounts = Amounts::of(&o)?;
        let discounts = discount_amounts(&o, "total_discount_amounts")?;
        let taxes = taxes(&o, ["total_taxes", "total_tax_amounts"])?;
        let lines = o
            .list("lines")?
            .map(InvoiceLine::read)
            .collect::<Result<Vec<_>, _>>()?;
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
            discount: match o.has("total_discount_amounts") {
                true => Some(sum(&o, &discounts)?),
                false => None,
            },
            discounts,
            tax: match taxes {
                Some((all, _)) => Some(all),
                None => o.maybe_integer("tax")?,
            },
            included_tax: taxes.map(|(_, included)| included),
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
            subscription_metadata: subscription_metadata(&o)?,
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

/// The metadata of its subscription. Versions before 2022 have it only on each line.
fn subscription_metadata(o: &Fields<'_>) -> Result<Metadata, ShapeError> {
    let parent = o.within("parent")?.within("subscription_details")?;
    for holder in [parent, o.within("subscription_details")?] {
        let metadata = holder.map("metadata")?;
        if !metadata.is_empty() {
            return Ok(metadata);
        }
    }
    match o.list("lines")?.next() {
        Some(line) => line.map("metadata"),
        None => Ok(Metadata::new()),
    }
}

/// Versions before 2018-11-08 have no status, but fields that imply it.
fn status(o: &Fields<'_>) -> Result<Option<InvoiceStatus>, ShapeError> {
    if let Some(status) = o.maybe_text("status")? {
        return Ok(Some(status.into()));
    }
    let status = if o.flag("paid")? {
        InvoiceStatus::Paid
    } else if o.flag("forgiven")? {
        InvoiceStatus::Uncollectible
    } else if o.flag("attempted")? || o.flag("closed")? {
        InvoiceStatus::Open
    } else {
        InvoiceStatus::Draft
    };
    let told = ["paid", "forgiven", "attempted", "closed"];
    let is_told = told.iter().any(|name| o.has(name));
    Ok(is_told.then_some(status))
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
            None if o.has("paid") || o.has("status") => match status(o)? {
                Some(InvoiceStatus::Paid) => due,
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

/// The tax of an invoice or a line, and the part of it that the amount includes,
/// from the first of `names` that has entries.
fn taxes(o: &Fields<'_>, names: [&str; 2]) -> Result<Option<(i64, i64)>, ShapeError> {
    for name in names {
        let mut sums = None;
        for entry in o.array(name)? {
            let amount = entry.integer("amount")?;
            let is_included = entry.is("tax_behavior", "inclusive") || entry.flag("inclusive")?;
            let (all, included): (i64, i64) = sums.unwrap_or((0, 0));
            let too_large = || entry.too_large("amount");
            let more = if is_included { amount } else { 0 };
            sums = Some((
                all.checked_add(amount).ok_or_else(too_large)?,
                included.checked_add(more).ok_or_else(too_large)?,
            ));
        }
        if sums.is_some() {
            return Ok(sums);
        }
    }
    Ok(None)
}

/// What each discount takes off, by its id.
fn discount_amounts(o: &Fields<'_>, name: &str) -> Result<Vec<(String, i64)>, ShapeError> {
    let entries = o.array(name)?;
    entries
        .map(|entry| {
            let id = entry.id("discount")?.unwrap_or_default();
            Ok((id, entry.integer("amount")?))
        })
        .collect()
}

fn sum(o: &Fields<'_>, amounts: &[(String, i64)]) -> Result<i64, ShapeError> {
    let mut amounts = amounts.iter().map(|(_, amount)| *amount);
    amounts
        .try_fold(0_i64, i64::checked_add)
        .ok_or_else(|| o.too_large("amount"))
}

impl InvoiceLine {
    fn read(o: Fields<'_>) -> Result<Self, ShapeError> {
        let parent = o.within("parent")?;
        let by_item = parent.within("subscription_item_details")?;
        let by_invoice_item = parent.within("invoice_item_details")?;
        let price = o.within("pricing")?.within("price_details")?;
        let period = o.within("period")?;
        let discounts = discount_amounts(&o, "discount_amounts")?;
        let (tax, included_tax) = taxes(&o, ["taxes", "tax_amounts"])?.unwrap_or((0, 0));
        let first = |found: [Option<String>; 3]| found.into_iter().flatten().next();
        Ok(Self {
            id: o.own_id()?,
            description: o.maybe_text("description")?,
            amount: o.integer("amount")?,
            discount: sum(&o, &discounts)?,
            discounts,
            tax,
            included_tax,
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
