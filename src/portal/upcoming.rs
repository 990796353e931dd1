//! The next invoice as it would be now: its lines, and what is used over the quotas.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::look::{Around, Message};
use super::meters::{name_of, quantity};
use super::text::{day, money};
use super::visitor::Signed;
use super::{Portal, invoices};
use crate::server::problem::Problem;
use crate::subscriptions::Upcoming;

pub const PATH: &str = "/portal/invoices/upcoming";

#[derive(Template)]
#[template(path = "portal/upcoming.html")]
struct Next {
    around: Around,
    due: String,
    on: Option<String>,
    lines: Vec<(String, String, String)>,
    sums: Vec<(&'static str, String)>,
    /// What is used over the quotas: its name, how much, and what that costs.
    overages: Vec<(String, String, String)>,
    back: &'static str,
}

pub async fn page(State(portal): State<Arc<Portal>>, signed: Signed) -> Response {
    let page = shown(&portal, &signed).await;
    portal.shown(&signed, page)
}

async fn shown(portal: &Portal, signed: &Signed) -> Result<Response, Problem> {
    let organization = signed.principal.organization_id;
    let upcoming = portal.subscriptions.upcoming(organization).await?;
    let state = portal.state(signed).await?;
    let around = signed.around(portal, &state, invoices::PATH, "Next invoice");
    let Some(upcoming) = upcoming else {
        let message = Message {
            around,
            lead: "There is nothing that will be invoiced.".to_owned(),
            back: None,
        };
        return Ok(portal.look.answer(StatusCode::OK, &message));
    };
    let lines = upcoming.lines.iter().map(|line| {
        let period = format!("{} – {}", day(line.period_start), day(line.period_end));
        let amount = money(line.amount, &upcoming.currency);
        (line.description.clone(), period, amount)
    });
    let next = Next {
        around,
        due: money(upcoming.due_amount, &upcoming.currency),
        on: upcoming.invoice_date.map(day),
        lines: lines.collect(),
        sums: sums(&upcoming),
        overages: overages(portal, &upcoming),
        back: invoices::PATH,
    };
    Ok(portal.look.answer(StatusCode::OK, &next))
}

fn sums(upcoming: &Upcoming) -> Vec<(&'static str, String)> {
    let money = |minor| money(minor, &upcoming.currency);
    let mut sums = vec![("Subtotal", money(upcoming.subtotal_amount))];
    if upcoming.discount_amount != 0 {
        let discount = upcoming.discount_amount.saturating_neg();
        sums.push(("Discount", money(discount)));
    }
    if let Some(tax) = upcoming.tax_amount.filter(|amount| *amount != 0) {
        sums.push(("Tax", money(tax)));
    }
    sums.push(("Total", money(upcoming.total_amount)));
    match upcoming.starting_balance_amount {
        Some(credit) if credit < 0 => sums.push(("Your credit", money(credit))),
        Some(debt) if debt > 0 => sums.push(("From before", money(debt))),
        _ => {}
    }
    sums.push(("To be paid", money(upcoming.due_amount)));
    sums
}

fn overages(portal: &Portal, upcoming: &Upcoming) -> Vec<(String, String, String)> {
    let overages = upcoming.overages.iter().filter_map(|used| {
        let currency = used.currency.as_deref().unwrap_or(&upcoming.currency);
        Some((
            name_of(&portal.catalogue, &used.metric),
            quantity(&portal.catalogue, &used.metric, used.overage.0),
            money(used.overage_amount?, currency),
        ))
    });
    overages.collect()
}
