//! Invoices, as Stripe's events told of them.

pub mod routes;
mod store;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An invoice; amounts are in the currency's minor unit.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Invoice {
    /// Stripe's id (in_…).
    pub id: String,
    pub number: Option<String>,
    /// Stripe's word: draft, open, paid, uncollectible or void.
    pub status: Option<String>,
    pub billing_reason: Option<String>,
    pub currency: String,
    pub subtotal_amount: i64,
    pub tax_amount: Option<i64>,
    pub total_amount: i64,
    pub due_amount: i64,
    pub paid_amount: i64,
    pub remaining_amount: i64,
    pub period_start: Option<Timestamp>,
    pub period_end: Option<Timestamp>,
    pub due_date: Option<Timestamp>,
    pub paid_at: Option<Timestamp>,
    pub created_at: Option<Timestamp>,
    pub hosted_invoice_url: Option<String>,
    /// Whether `/pdf` leads to one.
    pub has_pdf: bool,
}

/// A line of an invoice.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub description: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub quantity: Option<i64>,
    pub proration: bool,
    pub period_start: Option<Timestamp>,
    pub period_end: Option<Timestamp>,
}

/// An invoice with its lines.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(flatten)]
    pub invoice: Invoice,
    pub lines: Vec<Line>,
    /// Stripe has more lines than its event carried.
    pub has_more_lines: bool,
}

/// Where a page ends: lists are newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    created_at: Option<Timestamp>,
    id: String,
}

impl Place {
    fn of(invoice: &Invoice) -> Self {
        Self {
            created_at: invoice.created_at,
            id: invoice.id.clone(),
        }
    }

    /// As a cursor. It names a place in the caller's own list and nothing
    /// else: whatever is written into one, no other rows are shown.
    fn write(&self) -> String {
        let text = serde_json::to_vec(self).expect("a place is plain values");
        URL_SAFE_NO_PAD.encode(text)
    }

    fn read(cursor: &str) -> Option<Self> {
        let text = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        serde_json::from_slice(&text).ok()
    }
}
