//! The invoice and its lines.

use billing_domain::preview::BillingMode;

use crate::discounts::model::Discount;
use crate::invoices::assemble::DraftLine;
use crate::invoices::credits::CreditedLines;
use crate::metadata::Metadata;
use crate::pricing::DecimalAmount;
use crate::state::State;
use crate::store::Keyed;
use crate::taxes::lines::LineTax;

/// The status of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It can still be changed.
    Draft,
    /// It awaits payment.
    Open,
    /// It is paid, or nothing was due.
    Paid,
    Uncollectible,
    Void,
}

impl Status {
    /// Stripe's name for the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Uncollectible => "uncollectible",
            Self::Void => "void",
        }
    }
}

/// The content of a line, on an invoice or pending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineContent {
    /// In minor units; negative for credits.
    pub amount: i64,
    pub currency: String,
    pub description: Option<String>,
    /// The half-open interval that is charged.
    pub period: (i64, i64),
    pub price: Option<String>,
    pub quantity: Option<u64>,
    /// Whether the line is for unused or remaining time.
    pub proration: bool,
    pub subscription: Option<String>,
    /// The subscription item.
    pub item: Option<String>,
    /// The unit amount, if there is no price.
    pub unit: Option<DecimalAmount>,
    /// The lines that this one credits.
    pub credited: Option<CreditedLines>,
    /// The tax rates of the subscription item, instead of the invoice's.
    pub tax_rates: Vec<String>,
    pub metadata: Metadata,
}

impl LineContent {
    /// Whether discounts apply: not to prorations, which include them, nor to
    /// credits.
    #[must_use]
    pub const fn discountable(&self) -> bool {
        !self.proration && self.amount >= 0
    }

    /// Whether the amount includes tax, where tax is automatic.
    #[must_use]
    pub fn includes_tax(&self, state: &State) -> bool {
        let price = self.price.as_ref().and_then(|id| state.prices.get(id));
        price.is_some_and(|price| price.tax_behavior == "inclusive")
    }

    /// The product of the price.
    #[must_use]
    pub fn product(&self, state: &State) -> Option<String> {
        let price = state.prices.get(self.price.as_ref()?)?;
        Some(price.product.clone())
    }
}

/// A line of an invoice.
#[derive(Debug, Clone)]
pub struct Line {
    pub id: String,
    /// The invoice item that the line was created from, if any.
    pub invoice_item: Option<String>,
    pub content: LineContent,
    /// What each discount of the invoice takes off.
    pub discounts: Vec<i64>,
    /// What each tax adds, or how much of it the amount includes.
    pub taxes: Vec<LineTax>,
}

impl Line {
    #[must_use]
    pub const fn new(id: String, invoice_item: Option<String>, content: LineContent) -> Self {
        Self {
            id,
            invoice_item,
            content,
            discounts: Vec::new(),
            taxes: Vec::new(),
        }
    }

    /// The taxes that the amount includes, or that are added to it.
    #[must_use]
    pub fn tax(&self, inclusive: bool) -> i64 {
        let taxes = self.taxes.iter();
        taxes
            .filter(|tax| tax.inclusive == inclusive)
            .map(|tax| tax.amount)
            .sum()
    }

    /// What all discounts take off.
    #[must_use]
    pub fn off(&self) -> i64 {
        self.discounts.iter().sum()
    }
}

impl Keyed for Line {
    fn id(&self) -> &str {
        &self.id
    }
}

/// The subscription of an invoice, as it was when the invoice was created.
#[derive(Debug, Clone)]
pub struct Parent {
    pub subscription: String,
    pub metadata: Metadata,
    /// The billing mode, which determines how lines are rendered.
    pub mode: BillingMode,
    /// The time from which a preview prorates.
    pub proration_secs: Option<i64>,
}

/// When an invoice changed its status, as Unix times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transitions {
    pub finalized: Option<i64>,
    pub uncollectible: Option<i64>,
    pub paid: Option<i64>,
    pub voided: Option<i64>,
}

/// An invoice, draft or final.
#[derive(Debug, Clone)]
pub struct Invoice {
    pub id: String,
    /// Assigned when the invoice is finalized.
    pub number: Option<String>,
    pub customer: String,
    /// The subscription that it belongs to.
    pub parent: Option<Parent>,
    pub status: Status,
    /// Stripe's `billing_reason`, such as `subscription_cycle`.
    pub reason: &'static str,
    pub created_secs: i64,
    /// The period whose usage is billed.
    pub period: (i64, i64),
    pub currency: String,
    /// Oldest first.
    pub lines: Vec<Line>,
    /// The discounts that applied when it was created.
    pub discounts: Vec<Discount>,
    /// Whether taxes follow from the customer's address.
    pub automatic_tax: bool,
    /// The tax rates of lines without their own.
    pub default_tax_rates: Vec<String>,
    /// The customer's balance before the invoice.
    pub starting_balance: i64,
    /// The customer's balance afterwards; known once the invoice is finalized.
    pub ending_balance: Option<i64>,
    /// The total after the customer's balance is applied.
    pub amount_due: i64,
    pub amount_paid: i64,
    /// The number of payment attempts.
    pub attempt_count: u32,
    /// Whether payment was attempted, or was not needed.
    pub attempted: bool,
    /// When payment is retried.
    pub next_attempt_secs: Option<i64>,
    /// Whether the invoice is finalized and collected automatically.
    pub auto_advance: bool,
    /// When a draft is finalized automatically.
    pub finalizes_at_secs: Option<i64>,
    pub transitions: Transitions,
    /// Present if an amount is due.
    pub payment_intent: Option<String>,
    /// The latest charge.
    pub charge: Option<String>,
    /// Charged instead of the default of the subscription or customer.
    pub default_payment_method: Option<String>,
    /// Whether the invoice was reported as paid outside of Stripe.
    pub paid_out_of_band: bool,
    pub description: Option<String>,
    pub footer: Option<String>,
    pub metadata: Metadata,
}

impl Keyed for Invoice {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Invoice {
    /// The sum of the lines, before discounts.
    #[must_use]
    pub fn subtotal(&self) -> i64 {
        self.lines.iter().map(|line| line.content.amount).sum()
    }

    /// The sum of the lines after discounts, with tax.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.subtotal() - self.lines.iter().map(Line::off).sum::<i64>() + self.tax(false)
    }

    /// The taxes that the lines include, or that are added to them.
    #[must_use]
    pub fn tax(&self, inclusive: bool) -> i64 {
        self.lines.iter().map(|line| line.tax(inclusive)).sum()
    }

    /// What a discount takes off all lines.
    #[must_use]
    pub fn amount_off(&self, discount: usize) -> i64 {
        self.lines
            .iter()
            .filter_map(|line| line.discounts.get(discount))
            .sum()
    }

    /// Adds a line to a draft, which must then be computed anew.
    pub fn add_line(&mut self, id: String, line: DraftLine) {
        self.lines
            .push(Line::new(id, line.invoice_item, line.content));
    }

    /// The amount that is still to be paid.
    #[must_use]
    pub const fn amount_remaining(&self) -> i64 {
        match self.status {
            Status::Paid => 0,
            _ => self.amount_due - self.amount_paid,
        }
    }

    /// The id of the subscription.
    #[must_use]
    pub fn subscription(&self) -> Option<&str> {
        self.parent
            .as_ref()
            .map(|parent| parent.subscription.as_str())
    }
}

/// The result of applying a customer's balance to an invoice total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalanceApplication {
    pub amount_due: i64,
    pub ending_balance: i64,
}

/// Applies the balance to a total. Credit is used up, a negative total becomes
/// credit, and an amount below the minimum charge is added to the balance.
#[must_use]
pub fn apply_balance(total: i64, balance: i64, currency: &str) -> BalanceApplication {
    let owed = total.saturating_add(balance);
    if total < 0 || owed < minimum_charge(currency) {
        return BalanceApplication {
            amount_due: 0,
            ending_balance: owed,
        };
    }
    BalanceApplication {
        amount_due: owed,
        ending_balance: 0,
    }
}

/// Stripe's minimum charge for the currency, if it has one.
fn minimum_charge(currency: &str) -> i64 {
    match currency {
        "usd" | "eur" | "cad" | "aud" | "chf" | "sgd" | "nzd" | "brl" | "inr" | "jpy" => 50,
        "gbp" => 30,
        "sek" | "nok" => 300,
        "dkk" => 250,
        "hkd" => 400,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(total: i64, balance: i64, amount_due: i64, ending_balance: i64) {
        assert_eq!(
            apply_balance(total, balance, "usd"),
            BalanceApplication {
                amount_due,
                ending_balance
            }
        );
    }

    #[test]
    fn credit_is_used_up_before_the_card() {
        check(2_000, -500, 1_500, 0);
        check(2_000, -5_000, 0, -3_000);
        check(2_000, 0, 2_000, 0);
        check(2_000, 300, 2_300, 0);
    }

    #[test]
    fn a_negative_total_becomes_credit() {
        check(-700, 0, 0, -700);
        check(-700, 200, 0, -500);
        check(-700, 2_000, 0, 1_300);
    }

    #[test]
    fn amounts_below_the_minimum_charge_stay_on_the_balance() {
        check(49, 0, 0, 49);
        check(50, 0, 50, 0);
        check(0, 0, 0, 0);
    }
}
