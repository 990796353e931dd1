//! Why an invoice comes to its amount, line by line, and why it is paid or not.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::store::{self, Entries, InvoiceHeld, InvoiceLine};
use super::{Cause, CauseKind, ExplainError, Explanation, at, money};

/// Audit entries that an answer shows.
const SHOWN: i64 = 20;

pub async fn explain(conn: &mut PgConnection, id: &str) -> Result<Explanation, ExplainError> {
    let invoice = store::invoice(conn, id).await?;
    let invoice = invoice.ok_or_else(|| ExplainError::NoInvoice(id.to_owned()))?;
    let mut causes = Vec::new();
    for line in store::invoice_lines(conn, invoice.organization_id, id).await? {
        causes.push(cause_of(&line));
    }
    causes.extend(discounts(&invoice));
    causes.extend(balance(&invoice));
    for charge in store::charges(conn, invoice.organization_id, id).await? {
        let amount = money(charge.amount, &charge.currency);
        let sentence = match &charge.failure_code {
            Some(code) => format!("Charge {} of {amount} failed: {code}.", charge.id),
            None => format!("Charge {} of {amount} {}.", charge.id, charge.status),
        };
        let facts = json!({
            "stripeChargeId": charge.id, "amount": charge.amount, "currency": charge.currency,
            "status": charge.status, "failureCode": charge.failure_code,
        });
        causes.push(Cause::new(CauseKind::Payment, sentence, facts));
    }
    let entries = Entries {
        resource_id: Some(id),
        ..Entries::of(invoice.organization_id, SHOWN)
    };
    for entry in store::entries(conn, &entries).await? {
        causes.push(entry.cause());
    }
    Ok(Explanation {
        subject: id.to_owned(),
        organization_id: Some(invoice.organization_id),
        answer: answer(&invoice),
        causes,
    })
}

fn answer(invoice: &InvoiceHeld) -> String {
    let amount = |minor| money(minor, &invoice.currency);
    let why = match invoice.billing_reason.as_deref() {
        Some("subscription_create") => "a subscription began",
        Some("subscription_cycle") => "a period began",
        Some("subscription_update") => "a subscription was changed",
        Some("subscription_threshold") => "usage reached a threshold",
        Some("manual") => "somebody made it in Stripe",
        _ => "Stripe made it",
    };
    let paid = match invoice.status.as_str() {
        "paid" => "It is paid.".to_owned(),
        "open" => {
            let next = invoice.next_payment_attempt.map_or(String::new(), |time| {
                format!(", and Stripe tries again at {}", at(time))
            });
            format!(
                "{} of it are open after {} attempts{next}.",
                amount(invoice.amount_remaining),
                invoice.attempt_count
            )
        }
        "draft" => "It is a draft, which Stripe may still change.".to_owned(),
        status => format!("It is {status}."),
    };
    format!(
        "Invoice {} comes to {}, since {why}. {paid}",
        invoice.number.as_deref().unwrap_or(&invoice.id),
        amount(invoice.total_amount)
    )
}

fn cause_of(line: &InvoiceLine) -> Cause {
    let amount = money(line.amount, &line.currency);
    let period = match (line.period_start, line.period_end) {
        (Some(start), Some(end)) => format!(" from {} to {}", at(start), at(end)),
        _ => String::new(),
    };
    let tier = line.plan_tier.as_deref();
    let version = line
        .version
        .map_or(String::new(), |one| format!(", version {one}"));
    let sentence = match (&line.metric, tier) {
        _ if line.proration => format!(
            "{amount} for {}{period}: the items changed within the period, and Stripe prorates \
             to the second.",
            described(line)
        ),
        (Some(metric), Some(tier)) => {
            let used = match (line.used, line.included) {
                (Some(used), Some(included)) => format!(
                    " {} were used, of which the plan includes {}.",
                    used.normalize(),
                    included.normalize()
                ),
                _ => String::new(),
            };
            format!("{amount} for usage of {metric} at the price of {tier}{version}{period}.{used}")
        }
        _ if line.addon.is_some() => format!(
            "{amount} for {} × the add-on {}{period}.",
            line.quantity.unwrap_or(1),
            line.addon.as_deref().unwrap_or_default()
        ),
        (None, Some(tier)) => {
            format!(
                "{amount} for {} × {tier}{version}{period}.",
                line.quantity.unwrap_or(1)
            )
        }
        (_, None) if line.price_id.is_some() => format!(
            "{amount} for {}{period}, by a price that the catalogue does not know.",
            described(line)
        ),
        (_, None) => format!("{amount} for {}, an item without a price.", described(line)),
    };
    let facts = json!({
        "stripeLineItemId": line.id, "description": line.description, "amount": line.amount,
        "currency": line.currency, "quantity": line.quantity, "proration": line.proration,
        "stripePriceId": line.price_id, "planTier": tier, "planVersion": line.version,
        "addon": line.addon,
        "metric": line.metric, "periodStart": line.period_start, "periodEnd": line.period_end,
        "used": line.used.map(|used| used.normalize().to_string()),
        "included": line.included.map(|included| included.normalize().to_string()),
        "overageRate": line.overage_rate.map(|rate| rate.normalize().to_string()),
    });
    Cause::new(CauseKind::Line, sentence, facts)
}

fn described(line: &InvoiceLine) -> &str {
    line.description
        .as_deref()
        .unwrap_or("an item without a description")
}

/// What discounts and tax add to the lines.
fn discounts(invoice: &InvoiceHeld) -> Option<Cause> {
    let (subtotal, total) = (invoice.subtotal_amount, invoice.total_amount);
    let tax = invoice.tax_amount.unwrap_or(0);
    if total == subtotal && tax == 0 {
        return None;
    }
    let amount = |minor| money(minor, &invoice.currency);
    let sentence = format!(
        "The lines come to {}; discounts and taxes make it {}, {} of it tax.",
        amount(subtotal),
        amount(total),
        amount(tax)
    );
    let facts = json!({"subtotalAmount": subtotal, "taxAmount": tax, "totalAmount": total});
    Some(Cause::new(CauseKind::Rule, sentence, facts))
}

/// What the customer's balance has paid or added.
fn balance(invoice: &InvoiceHeld) -> Option<Cause> {
    let differs = invoice.amount_due != invoice.total_amount;
    let starting = invoice.starting_balance.filter(|_| differs)?;
    let sentence = format!(
        "The customer's balance was {} before it, so that {} are due.",
        money(starting, &invoice.currency),
        money(invoice.amount_due, &invoice.currency)
    );
    let facts: Value = json!({
        "startingBalance": starting, "endingBalance": invoice.ending_balance,
        "dueAmount": invoice.amount_due,
    });
    Some(Cause::new(CauseKind::Payment, sentence, facts))
}
