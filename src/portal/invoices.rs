//! Invoices: each with its lines, its PDF, and the page on which it is paid.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::look::{Around, Notice, Tone};
use super::text::{day, money, web_address};
use super::visitor::Signed;
use super::{Portal, upcoming};
use crate::invoices::{self, Details, Invoice};
use crate::pages::query::{address as address_of, part};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Limit, Paging};
use crate::server::problem::Problem;

pub const PATH: &str = "/portal/invoices";
pub const CSV: &str = "/portal/invoices.csv";

#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Template)]
#[template(path = "portal/invoices.html")]
struct List {
    around: Around,
    rows: Vec<Row>,
    next: Option<String>,
    /// Whether there is a subscription, which has a next one.
    billed: bool,
    upcoming: &'static str,
    csv: &'static str,
}

struct Row {
    href: String,
    number: String,
    created: String,
    status: (Tone, &'static str),
    total: String,
    pdf: Option<String>,
    /// Where it is paid, and how much.
    pay: Option<(String, String)>,
}

impl Row {
    /// Where the pages are framed, the invoice's own page leads to its PDF.
    fn of(invoice: &Invoice, framed: bool) -> Self {
        let pdf = format!("{}/pdf", address(&invoice.id));
        Self {
            href: address(&invoice.id),
            number: number_of(invoice),
            created: invoice.created_at.map(day).unwrap_or_default(),
            status: status_of(invoice),
            total: money(invoice.total_amount, &invoice.currency),
            pdf: (invoice.has_pdf && !framed).then_some(pdf),
            pay: pay_of(invoice),
        }
    }
}

/// The page of an invoice.
pub fn address(id: &str) -> String {
    format!("{PATH}/{}", part(id))
}

fn number_of(invoice: &Invoice) -> String {
    let number = invoice.number.as_ref();
    number.unwrap_or(&invoice.id).clone()
}

fn is_to_pay(invoice: &Invoice) -> bool {
    invoice.status.as_deref() == Some("open") && invoice.remaining_amount > 0
}

fn pay_of(invoice: &Invoice) -> Option<(String, String)> {
    let page = web_address(invoice.hosted_invoice_url.as_deref())?;
    let amount = money(invoice.remaining_amount, &invoice.currency);
    is_to_pay(invoice).then(|| (page, format!("Pay {amount}")))
}

fn status_of(invoice: &Invoice) -> (Tone, &'static str) {
    match invoice.status.as_deref() {
        Some("paid") => (Tone::Good, "Paid"),
        Some("open") if invoice.remaining_amount > 0 => (Tone::Warn, "To be paid"),
        Some("open") => (Tone::Plain, "Open"),
        Some("uncollectible") => (Tone::Bad, "Not paid"),
        Some("void") => (Tone::Plain, "Void"),
        _ => (Tone::Plain, "In preparation"),
    }
}

pub async fn list(
    State(portal): State<Arc<Portal>>,
    signed: Signed,
    Query(asked): Query<Asked>,
) -> Response {
    let page = listed(&portal, &signed, asked).await;
    portal.shown(&signed, page)
}

async fn listed(portal: &Portal, signed: &Signed, asked: Asked) -> Result<Response, Problem> {
    let paging = Paging {
        limit: Limit::default(),
        cursor: asked.cursor,
    };
    let organization = signed.principal.organization_id;
    let page = invoices::page(&portal.shared, organization, &paging).await?;
    let state = portal.state(signed).await?;
    let next = page.next_cursor.as_deref();
    let framed = portal.look.is_framed();
    let rows = page.data.iter().map(|one| Row::of(one, framed));
    let list = List {
        around: signed.around(portal, &state, PATH, "Invoices"),
        rows: rows.collect(),
        next: next.map(|cursor| address_of(PATH, &[("cursor", Some(cursor))])),
        billed: state.subscription.is_some(),
        upcoming: upcoming::PATH,
        csv: CSV,
    };
    Ok(portal.look.answer(StatusCode::OK, &list))
}

/// All invoices, for spreadsheets.
pub async fn csv(State(portal): State<Arc<Portal>>, signed: Signed) -> Response {
    invoices::csv(portal.shared.clone(), signed.principal.organization_id)
}

#[derive(Template)]
#[template(path = "portal/invoice.html")]
struct One {
    around: Around,
    row: Row,
    period: Option<String>,
    lines: Vec<Line>,
    sums: Vec<(&'static str, String)>,
    more: bool,
    back: &'static str,
}

struct Line {
    description: String,
    period: String,
    quantity: String,
    amount: String,
}

pub async fn one(
    State(portal): State<Arc<Portal>>,
    signed: Signed,
    Path(id): Path<String>,
) -> Response {
    let page = detailed(&portal, &signed, &id).await;
    portal.shown(&signed, page)
}

async fn detailed(portal: &Portal, signed: &Signed, id: &str) -> Result<Response, Problem> {
    let organization = signed.principal.organization_id;
    let found = invoices::details(&portal.shared, organization, id).await?;
    let state = portal.state(signed).await?;
    let invoice = &found.invoice;
    let framed = portal.look.is_framed();
    let mut row = Row::of(invoice, framed);
    if framed && invoice.has_pdf {
        row.pdf = pdf_at_stripe(portal, organization, id).await?;
    }
    let between = |from: Option<_>, to: Option<_>| {
        let (from, to) = from.zip(to)?;
        Some(format!("{} – {}", day(from), day(to)))
    };
    let lines = found.lines.iter().map(|line| Line {
        description: line.description.clone().unwrap_or_default(),
        period: between(line.period_start, line.period_end).unwrap_or_default(),
        quantity: line.quantity.map(|one| one.to_string()).unwrap_or_default(),
        amount: money(line.amount, &line.currency),
    });
    let due = row.pay.clone().map(|(page, pay)| {
        let text = "It opens on the payment service's page, in a tab of its own.";
        Notice::new(Tone::Warn, "This invoice is to be paid", text).away(page, pay)
    });
    let title = format!("Invoice {}", number_of(invoice));
    let one = One {
        around: signed.around(portal, &state, PATH, &title).with(due),
        period: between(invoice.period_start, invoice.period_end),
        lines: lines.collect(),
        sums: sums(&found),
        more: found.has_more_lines,
        back: PATH,
        row,
    };
    Ok(portal.look.answer(StatusCode::OK, &one))
}

/// Stripe's address of the PDF, if a browser may be led there. The cookie of a frame is kept
/// for the site around it: in a tab of its own nobody is signed in here, to be led on.
async fn pdf_at_stripe(
    portal: &Portal,
    organization: Uuid,
    id: &str,
) -> Result<Option<String>, Problem> {
    match invoices::pdf(&portal.shared, organization, id).await {
        Ok(address) => Ok(web_address(Some(&address))),
        Err(problem) if problem.status() == StatusCode::NOT_FOUND => Ok(None),
        Err(problem) => Err(problem),
    }
}

fn sums(found: &Details) -> Vec<(&'static str, String)> {
    let invoice = &found.invoice;
    let money = |minor| money(minor, &invoice.currency);
    let mut sums = vec![("Subtotal", money(invoice.subtotal_amount))];
    let discount = invoice.discount_amount.filter(|amount| *amount != 0);
    if let Some(discount) = discount {
        sums.push(("Discount", money(discount.saturating_neg())));
    }
    if let Some(tax) = invoice.tax_amount.filter(|amount| *amount != 0) {
        sums.push(("Tax", money(tax)));
    }
    sums.push(("Total", money(invoice.total_amount)));
    if invoice.paid_amount != 0 {
        sums.push(("Paid", money(invoice.paid_amount)));
    }
    if is_to_pay(invoice) {
        sums.push(("To be paid", money(invoice.remaining_amount)));
    }
    sums
}

pub async fn pdf(
    State(portal): State<Arc<Portal>>,
    signed: Signed,
    Path(id): Path<String>,
) -> Response {
    let organization = signed.principal.organization_id;
    let address = invoices::pdf(&portal.shared, organization, &id).await;
    let page = address.and_then(|address| {
        let address = HeaderValue::try_from(address).map_err(|_| Problem::internal())?;
        Ok((StatusCode::FOUND, [(header::LOCATION, address)]).into_response())
    });
    portal.shown(&signed, page)
}
