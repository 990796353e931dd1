//! Invoices as CSV (RFC 4180), with fields that no spreadsheet runs as formulas. Amounts are in
//! the currency's minor unit, as everywhere in the API.

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use uuid::Uuid;

use super::{Invoice, Position, store};
use crate::audit::csv::field;
use crate::server::Shared;
use crate::server::pagination::page::Listed as _;

/// Invoices that are read at a time.
const AT_ONCE: i64 = 500;

const HEADINGS: [&str; 16] = [
    "id",
    "number",
    "status",
    "billingReason",
    "currency",
    "subtotalAmount",
    "discountAmount",
    "taxAmount",
    "totalAmount",
    "dueAmount",
    "paidAmount",
    "remainingAmount",
    "periodStart",
    "periodEnd",
    "createdAt",
    "paidAt",
];

/// An invoice as a line, without its line ending.
fn line(invoice: &Invoice) -> String {
    let at = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let number = |amount: Option<i64>| amount.map(|amount| amount.to_string());
    let text = |text: &Option<String>| text.as_deref().map(field);
    let fields = [
        Some(field(&invoice.id)),
        text(&invoice.number),
        text(&invoice.status),
        text(&invoice.billing_reason),
        Some(field(&invoice.currency)),
        number(Some(invoice.subtotal_amount)),
        number(invoice.discount_amount),
        number(invoice.tax_amount),
        number(Some(invoice.total_amount)),
        number(Some(invoice.due_amount)),
        number(Some(invoice.paid_amount)),
        number(Some(invoice.remaining_amount)),
        at(invoice.period_start),
        at(invoice.period_end),
        at(invoice.created_at),
        at(invoice.paid_at),
    ];
    fields.map(Option::unwrap_or_default).join(",")
}

/// Breaks the connection of a list that cannot be completed.
#[derive(Debug, thiserror::Error)]
#[error("the list of invoices was cut off")]
struct Interrupted;

/// All invoices, newest first, as fast as the client reads. Each part is read in its own
/// transaction, so that a slow client holds none open.
pub fn csv(shared: Shared, organization: Uuid) -> Response {
    let headings = format!("{}\r\n", HEADINGS.join(","));
    let rest = stream::try_unfold(Some(None::<Position>), move |after| {
        let shared = shared.clone();
        async move {
            let Some(after) = after else {
                return Ok(None);
            };
            let mut tx = shared.read(organization).await.map_err(|_| Interrupted)?;
            let rows = store::list(&mut tx, after.as_ref(), AT_ONCE).await;
            let rows = rows.map_err(|error| {
                tracing::warn!(%error, "a list of invoices was cut off");
                Interrupted
            })?;
            let lines = rows.iter().map(|one| format!("{}\r\n", line(one)));
            let next = rows.last().map(|last| Some(last.position()));
            Ok(Some((lines.collect::<String>(), next)))
        }
    });
    let text = stream::once(async { Ok::<_, Interrupted>(headings) }).chain(rest);
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"invoices.csv\"",
        ),
    ];
    (headers, Body::from_stream(text)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers_and_what_others_wrote_is_no_formula() {
        let invoice = Invoice {
            id: "in_1".to_owned(),
            number: Some("=HYPERLINK(\"x\")".to_owned()),
            status: Some("paid".to_owned()),
            billing_reason: None,
            currency: "usd".to_owned(),
            subtotal_amount: -500,
            discount_amount: None,
            tax_amount: Some(0),
            included_tax_amount: None,
            total_amount: -500,
            due_amount: 0,
            paid_amount: 0,
            remaining_amount: 0,
            period_start: None,
            period_end: None,
            due_date: None,
            paid_at: None,
            created_at: "2026-12-01T00:00:00Z".parse().ok(),
            hosted_invoice_url: None,
            has_pdf: false,
        };
        let expected = "in_1,\"'=HYPERLINK(\"\"x\"\")\",paid,,usd,-500,,0,-500,0,0,0,,,\
                        2026-12-01T00:00:00Z,";
        assert_eq!(line(&invoice), expected);
    }
}
