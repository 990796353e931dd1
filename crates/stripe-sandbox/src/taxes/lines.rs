//! The taxes of invoice lines, computed line by line on what discounts leave,
//! and rounded half up.

use serde_json::{Value, json};

use crate::invoices::model::{Invoice, Line};
use crate::percent::Percent;
use crate::state::State;
use crate::taxes::automatic;
use crate::taxes::rates::TaxRate;

/// The tax of a line at one rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineTax {
    /// `None` where nothing is collected.
    pub rate: Option<String>,
    pub amount: i64,
    /// The amount that is taxed, without the tax.
    pub taxable: i64,
    /// Whether the line includes the tax.
    pub inclusive: bool,
    pub reason: &'static str,
}

impl LineTax {
    /// The API object, in the current shape.
    #[must_use]
    pub fn render(&self) -> Value {
        let rate = self.rate.as_ref();
        json!({
            "amount": self.amount,
            "tax_behavior": if self.inclusive { "inclusive" } else { "exclusive" },
            "tax_rate_details": rate.map(|rate| json!({ "tax_rate": rate })),
            "taxability_reason": self.reason,
            "taxable_amount": self.taxable,
            "type": "tax_rate_details",
        })
    }

    /// The API object before basil.
    #[must_use]
    pub fn render_legacy(&self) -> Value {
        json!({
            "amount": self.amount,
            "inclusive": self.inclusive,
            "tax_rate": self.rate,
            "taxability_reason": self.reason,
            "taxable_amount": self.taxable,
        })
    }
}

/// Computes the taxes of every line.
pub fn compute(state: &State, invoice: &mut Invoice) {
    let location = state
        .customers
        .get(&invoice.customer)
        .and_then(automatic::location);
    let (automatic, defaults) = (invoice.automatic_tax, invoice.default_tax_rates.clone());
    for line in &mut invoice.lines {
        line.taxes = if automatic {
            let inclusive = line.content.includes_tax(state);
            let rate = location
                .as_ref()
                .and_then(|location| automatic::rate(state, location, inclusive));
            vec![automatic_tax(line, rate, inclusive)]
        } else {
            let own = &line.content.tax_rates;
            let ids = if own.is_empty() { &defaults } else { own };
            let rates: Vec<&TaxRate> = ids
                .iter()
                .filter_map(|id| state.tax_rates.get(id))
                .collect();
            manual_taxes(line, &rates)
        };
    }
}

fn net(line: &Line) -> i64 {
    line.content.amount - line.off()
}

fn automatic_tax(line: &Line, rate: Option<&TaxRate>, inclusive: bool) -> LineTax {
    let net = net(line);
    match rate {
        None => LineTax {
            rate: None,
            amount: 0,
            taxable: 0,
            inclusive,
            reason: "not_collecting",
        },
        Some(rate) => taxed(net, rate, rate.percentage, "standard_rated"),
    }
}

/// Rates are all inclusive or all exclusive.
fn manual_taxes(line: &Line, rates: &[&TaxRate]) -> Vec<LineTax> {
    let together = rates
        .iter()
        .fold(Percent::ZERO, |sum, rate| sum.plus(rate.percentage));
    rates
        .iter()
        .map(|rate| taxed(net(line), rate, together, "not_available"))
        .collect()
}

/// The tax at a rate; `together` is the sum of all rates that a line includes.
fn taxed(net: i64, rate: &TaxRate, together: Percent, reason: &'static str) -> LineTax {
    let (amount, taxable) = if rate.inclusive {
        (
            rate.percentage.included_beside(net, together),
            net - together.included_in(net),
        )
    } else {
        (rate.percentage.of(net), net)
    };
    LineTax {
        rate: Some(rate.id.clone()),
        amount,
        taxable,
        inclusive: rate.inclusive,
        reason,
    }
}

/// The taxes of an invoice, one for each rate.
#[must_use]
pub fn totals(lines: &[Line]) -> Vec<LineTax> {
    let mut totals: Vec<LineTax> = Vec::new();
    for tax in lines.iter().flat_map(|line| &line.taxes) {
        let known = totals.iter_mut().find(|total| {
            total.rate == tax.rate && total.inclusive == tax.inclusive && total.reason == tax.reason
        });
        match known {
            Some(total) => {
                total.amount += tax.amount;
                total.taxable += tax.taxable;
            }
            None => totals.push(tax.clone()),
        }
    }
    totals
}

/// The tax that amounts before discounts include.
#[must_use]
pub fn included_in_subtotal(invoice: &Invoice, state: &State) -> i64 {
    let of_line = |line: &Line| -> i64 {
        let together = line
            .taxes
            .iter()
            .filter(|tax| tax.inclusive)
            .filter_map(|tax| state.tax_rates.get(tax.rate.as_ref()?))
            .fold(Percent::ZERO, |sum, rate| sum.plus(rate.percentage));
        together.included_in(line.content.amount)
    };
    invoice.lines.iter().map(of_line).sum()
}
