//! Invoices: read only. The projection writes them from Stripe's events; this
//! module lists them and fetches lines that the events left out.

mod csv;
mod lines;
pub mod routes;
mod store;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use csv::csv;
pub use lines::fetch_missing;

use crate::server::Shared;
use crate::server::pagination::page::{Page, Paging};
use crate::server::problem::Problem;

/// An invoice; amounts are in the currency's minor unit.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Invoice {
    /// Stripe's id (in_…).
    pub id: String,
    #[schema(required)]
    pub number: Option<String>,
    /// Stripe's status: draft, open, paid, uncollectible or void.
    #[schema(required)]
    pub status: Option<String>,
    #[schema(required)]
    pub billing_reason: Option<String>,
    pub currency: String,
    /// Before discounts and the taxes that are added.
    pub subtotal_amount: i64,
    /// What discounts take off; null where Stripe did not say it.
    #[schema(required)]
    pub discount_amount: Option<i64>,
    /// All tax; null where none was computed.
    #[schema(required)]
    pub tax_amount: Option<i64>,
    /// The tax that the subtotal includes; null where Stripe did not say it.
    #[schema(required)]
    pub included_tax_amount: Option<i64>,
    pub total_amount: i64,
    pub due_amount: i64,
    pub paid_amount: i64,
    pub remaining_amount: i64,
    #[schema(required)]
    pub period_start: Option<Timestamp>,
    #[schema(required)]
    pub period_end: Option<Timestamp>,
    #[schema(required)]
    pub due_date: Option<Timestamp>,
    #[schema(required)]
    pub paid_at: Option<Timestamp>,
    #[schema(required)]
    pub created_at: Option<Timestamp>,
    #[schema(required)]
    pub hosted_invoice_url: Option<String>,
    /// Whether `/pdf` redirects to a PDF.
    pub has_pdf: bool,
}

/// A line of an invoice.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = InvoiceLine)]
pub struct Line {
    #[schema(required)]
    pub description: Option<String>,
    /// Before discounts and the taxes that are added.
    pub amount: i64,
    pub discount_amount: i64,
    /// All tax.
    pub tax_amount: i64,
    /// The tax that `amount` includes.
    pub included_tax_amount: i64,
    pub currency: String,
    #[schema(required)]
    pub quantity: Option<i64>,
    pub proration: bool,
    #[schema(required)]
    pub period_start: Option<Timestamp>,
    #[schema(required)]
    pub period_end: Option<Timestamp>,
}

/// An invoice with its lines.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = InvoiceDetails)]
pub struct Details {
    #[serde(flatten)]
    pub invoice: Invoice,
    pub lines: Vec<Line>,
    /// Whether Stripe has lines that are not here yet.
    pub has_more_lines: bool,
}

/// An invoice's position in the list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    created_at: Option<Timestamp>,
    id: String,
}

/// How many invoices to pay are shown beside other things.
const UNPAID: i64 = 10;

/// A page of an organization's invoices, newest first.
pub async fn page(
    shared: &Shared,
    organization: Uuid,
    paging: &Paging,
) -> Result<Page<Invoice>, Problem> {
    let page = shared.page(organization, "invoices", paging).await?;
    let mut tx = shared.read(organization).await?;
    let rows = store::list(&mut tx, page.after.as_ref(), page.rows()).await?;
    Ok(page.of(rows))
}

/// The newest invoices with an amount still to be paid.
pub async fn unpaid(shared: &Shared, organization: Uuid) -> Result<Vec<Invoice>, Problem> {
    let mut tx = shared.read(organization).await?;
    Ok(store::unpaid(&mut tx, UNPAID).await?)
}

/// An invoice with its lines.
pub async fn details(shared: &Shared, organization: Uuid, id: &str) -> Result<Details, Problem> {
    let mut tx = shared.read(organization).await?;
    let found = store::one(&mut tx, id).await?;
    found.ok_or_else(|| Problem::not_found("invoice not found"))
}

/// Stripe's address of an invoice's PDF.
pub async fn pdf(shared: &Shared, organization: Uuid, id: &str) -> Result<String, Problem> {
    let mut tx = shared.read(organization).await?;
    let address = store::pdf(&mut tx, id).await?;
    let address = address.filter(|address| address.starts_with("http"));
    address.ok_or_else(|| Problem::not_found("invoice not found, or it has no PDF yet"))
}
