//! The invoice and its lines.

use billing_domain::preview::BillingMode;

use crate::invoices::assemble::DraftLine;
use crate::invoices::credits::Credited;
use crate::metadata::Metadata;
use crate::pricing::Decimal;
use crate::store::Keyed;

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Can still be changed.
    Draft,
    /// Waits for payment.
    Open,
    /// Paid, or nothing was due.
    Paid,
    /// Given up.
    Uncollectible,
    /// Annulled.
    Void,
}

impl Status {
    /// Stripe's word for it.
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

/// What a line says, be it on an invoice or waiting for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// In minor units; credits are negative.
    pub amount: i64,
    /// The currency.
    pub currency: String,
    /// For people.
    pub description: Option<String>,
    /// The time it is for, half-open.
    pub period: (i64, i64),
    /// The price behind it.
    pub price: Option<String>,
    /// Units.
    pub quantity: Option<u64>,
    /// Whether it is for unused or remaining time.
    pub proration: bool,
    /// The subscription it comes from.
    pub subscription: Option<String>,
    /// The subscription item it comes from.
    pub item: Option<String>,
    /// What a unit costs, where no price says it.
    pub unit: Option<Decimal>,
    /// The lines that this one gives credit for.
    pub credited: Option<Credited>,
    /// Texts of the user.
    pub metadata: Metadata,
}

/// A line of an invoice.
#[derive(Debug, Clone)]
pub struct Line {
    /// The line's id.
    pub id: String,
    /// The invoice item it was made from, unless it was made directly.
    pub invoice_item: Option<String>,
    /// What it says.
    pub content: Content,
}

impl Keyed for Line {
    fn id(&self) -> &str {
        &self.id
    }
}

/// The subscription behind an invoice, as it was when the invoice was made.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Its id.
    pub subscription: String,
    /// Its metadata.
    pub metadata: Metadata,
    /// How it is billed: the lines look different.
    pub mode: BillingMode,
    /// The time a preview prorates from.
    pub proration_secs: Option<i64>,
}

/// When an invoice's status changed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transitions {
    /// Draft to open.
    pub finalized: Option<i64>,
    /// To uncollectible.
    pub uncollectible: Option<i64>,
    /// To paid.
    pub paid: Option<i64>,
    /// To void.
    pub voided: Option<i64>,
}

/// An invoice.
#[derive(Debug, Clone)]
pub struct Invoice {
    /// The id.
    pub id: String,
    /// Given when it is finalized.
    pub number: Option<String>,
    /// The customer.
    pub customer: String,
    /// The subscription behind it.
    pub parent: Option<Parent>,
    /// Where it stands.
    pub status: Status,
    /// Such as `subscription_cycle`.
    pub reason: &'static str,
    /// When it was made.
    pub created_secs: i64,
    /// The period that usage is billed for.
    pub period: (i64, i64),
    /// The currency.
    pub currency: String,
    /// Its lines, oldest first.
    pub lines: Vec<Line>,
    /// The customer's balance before.
    pub starting_balance: i64,
    /// The customer's balance after; known once it is finalized.
    pub ending_balance: Option<i64>,
    /// What is to be paid: the total and what the balance makes of it.
    pub amount_due: i64,
    /// What has been paid.
    pub amount_paid: i64,
    /// How often payment was tried.
    pub attempt_count: u32,
    /// Whether payment was tried, or was not needed.
    pub attempted: bool,
    /// When payment is tried again.
    pub next_attempt_secs: Option<i64>,
    /// Whether it finalizes and collects by itself.
    pub auto_advance: bool,
    /// When a draft finalizes by itself.
    pub finalizes_at_secs: Option<i64>,
    /// When its status changed.
    pub transitions: Transitions,
    /// The payment intent, once something is due.
    pub payment_intent: Option<String>,
    /// The newest charge.
    pub charge: Option<String>,
    /// Charged instead of the subscription's and customer's default.
    pub default_payment_method: Option<String>,
    /// Whether somebody said it was paid elsewhere.
    pub paid_out_of_band: bool,
    /// For the customer to read.
    pub description: Option<String>,
    /// For the customer to read, below.
    pub footer: Option<String>,
    /// Texts of the user.
    pub metadata: Metadata,
}

impl Keyed for Invoice {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Invoice {
    /// The sum of the lines.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.lines.iter().map(|line| line.content.amount).sum()
    }

    /// Adds a line to a draft.
    pub fn add_line(&mut self, id: String, line: DraftLine) {
        self.lines.push(Line {
            id,
            invoice_item: line.invoice_item,
            content: line.content,
        });
        self.amount_due = settle(self.total(), self.starting_balance, &self.currency).amount_due;
    }

    /// What is still to be paid.
    #[must_use]
    pub const fn amount_remaining(&self) -> i64 {
        match self.status {
            Status::Paid => 0,
            _ => self.amount_due - self.amount_paid,
        }
    }

    /// The subscription's id.
    #[must_use]
    pub fn subscription(&self) -> Option<&str> {
        self.parent
            .as_ref()
            .map(|parent| parent.subscription.as_str())
    }
}

/// What the customer's balance makes of a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// To be paid.
    pub amount_due: i64,
    /// The balance afterwards.
    pub ending_balance: i64,
}

/// Applies the balance to a total: credit is used up, a negative total
/// becomes credit, and what is too small to charge is owed until next time.
#[must_use]
pub fn settle(total: i64, balance: i64, currency: &str) -> Settlement {
    let owed = total.saturating_add(balance);
    if total < 0 || owed < minimum_charge(currency) {
        return Settlement {
            amount_due: 0,
            ending_balance: owed,
        };
    }
    Settlement {
        amount_due: owed,
        ending_balance: 0,
    }
}

/// The least that Stripe charges, where it names one.
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
            settle(total, balance, "usd"),
            Settlement {
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
    fn what_is_too_small_to_charge_is_owed_until_next_time() {
        check(49, 0, 0, 49);
        check(50, 0, 50, 0);
        check(0, 0, 0, 0);
    }
}
