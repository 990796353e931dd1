//! What people see: plain HTML, and nothing about billing that the other files do not say.

use serde_json::Value;

pub struct Account<'a> {
    pub company: &'a str,
    pub teammates: u64,
    pub state: &'a Value,
    pub plans: &'a Value,
    pub cards: &'a Value,
    pub invoices: &'a Value,
    pub summary: Option<&'a str>,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A member as text: empty if there is none.
fn text(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::String(text) => escaped(text),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list["data"].as_array().into_iter().flatten()
}

fn page(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title} – Digest</title>\
         </head><body><main><h1>{title}</h1>{body}</main></body></html>"
    )
}

fn button(action: &str, label: &str, fields: &[(&str, &str)]) -> String {
    let fields: String = fields
        .iter()
        .map(|(name, value)| {
            let value = escaped(value);
            format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">")
        })
        .collect();
    format!("<form method=\"post\" action=\"{action}\">{fields}<button>{label}</button></form>")
}

fn alert(problem: &str) -> String {
    format!("<p role=\"alert\">{}</p>", escaped(problem))
}

pub fn problem(problem: &str) -> String {
    let back = "<p><a href=\"/account\">Back</a></p>";
    page("That did not work", &(alert(problem) + back))
}

pub fn sign_up() -> String {
    let form = "<form method=\"post\" action=\"/sign-up\">\
        <p><label>Company <input name=\"company\" required maxlength=\"200\"></label></p>\
        <p><label>E-mail <input name=\"email\" type=\"email\" required></label></p>\
        <button>Sign up</button></form>";
    page("Summaries of any text", form)
}

fn plan_form(account: &Account<'_>, action: &str, label: &str) -> String {
    let current = &account.state["plan"]["tier"];
    let options: String = rows(account.plans)
        .filter(|plan| plan["tier"] != "free")
        .map(|plan| {
            let selected = if plan["tier"] == *current {
                " selected"
            } else {
                ""
            };
            let (tier, name) = (text(plan, "tier"), text(plan, "name"));
            format!("<option value=\"{tier}\"{selected}>{name}</option>")
        })
        .collect();
    let seats = account.state["plan"]["seats"].as_u64().unwrap_or(1);
    format!(
        "<form method=\"post\" action=\"{action}\"><p>\
         <label>Plan <select name=\"plan\">{options}</select></label> \
         <label>Seats <input name=\"seats\" type=\"number\" min=\"1\" value=\"{seats}\"></label> \
         <button>{label}</button></p></form>"
    )
}

fn plan_and_payment(account: &Account<'_>) -> String {
    let (plan, payment) = (&account.state["plan"], &account.state["payment"]);
    let mut shown = String::new();
    if let Some(problem) = payment["problem"].as_str() {
        shown += &alert(&format!("Your last payment did not succeed: {problem}."));
    }
    let name = rows(account.plans)
        .find(|one| one["tier"] == plan["tier"])
        .map_or(text(plan, "tier"), |one| text(one, "name"));
    let seats = plan["seats"].as_u64().unwrap_or(1);
    shown += &format!(
        "<p>Plan: <strong id=\"plan\">{name}</strong>, seats: <strong id=\"seats\">{seats}</strong>, \
         payment: <strong id=\"payment\">{}</strong></p>",
        text(payment, "status")
    );
    let pending = &account.state["pendingChange"];
    if pending.is_object() {
        let plan = text(pending, "planTier");
        shown += &format!("<p id=\"pending\">Waiting for your payment: {plan}</p>");
    }
    let subscription = &account.state["subscription"];
    if subscription["cancelAtPeriodEnd"] == true {
        let end = text(subscription, "currentPeriodEnd");
        shown += &format!("<p id=\"ends\">Your plan ends on {end}.</p>");
    }
    if let Some(open) = rows(account.invoices).find(|invoice| invoice["status"] == "open") {
        let url = text(open, "hostedInvoiceUrl");
        shown += &format!("<p><a href=\"{url}\">Pay the open invoice</a></p>");
    }
    shown
}

fn cards(account: &Account<'_>) -> String {
    let cards: String = rows(account.cards)
        .map(|card| {
            let (brand, last4) = (text(card, "brand"), text(card, "last4"));
            let choice = match card["isDefault"].as_bool() {
                Some(true) => " (charged)".to_owned(),
                _ => {
                    let id = card["id"].as_str().unwrap_or_default();
                    button(
                        "/cards/default",
                        &format!("Charge {last4}"),
                        &[("card", id)],
                    )
                }
            };
            format!("<li>{brand} ending in {last4}{choice}</li>")
        })
        .collect();
    let add = button("/cards", "Add a card", &[]);
    let invoices = button("/portal", "All invoices", &[]);
    format!("<h2>Cards</h2><ul>{cards}</ul>{add}{invoices}")
}

/// The customer's page: the plan, what is wrong with its payment, and what can be done.
pub fn account(account: &Account<'_>) -> String {
    let subscription = &account.state["subscription"];
    let is_paid = subscription.is_object() && account.state["plan"]["tier"] != "free";
    let plan = match (is_paid, subscription["cancelAtPeriodEnd"] == true) {
        (false, _) => plan_form(account, "/subscribe", "Subscribe"),
        (true, true) => {
            plan_form(account, "/change", "See the price") + &button("/stay", "Stay after all", &[])
        }
        (true, false) => {
            plan_form(account, "/change", "See the price") + &button("/cancel", "Cancel", &[])
        }
    };
    let summary = account.summary.map_or(String::new(), |summary| {
        format!(
            "<blockquote id=\"summary\">{}</blockquote>",
            escaped(summary)
        )
    });
    let body = format!(
        "{}<h2>Summarize</h2><form method=\"post\" action=\"/summaries\">\
         <p><label>Text <textarea name=\"text\" required></textarea></label></p>\
         <button>Summarize</button></form>{summary}\
         <h2>Team</h2><p>Teammates: <strong id=\"teammates\">{}</strong></p>{}\
         <h2>Plan</h2>{plan}{}",
        plan_and_payment(account),
        account.teammates,
        button("/teammates", "Add a teammate", &[]),
        cards(account),
    );
    page(account.company, &body)
}

/// An amount in the minor unit of a currency that has cents.
fn money(amount: &Value, currency: &str) -> String {
    let amount = amount.as_i64().unwrap_or_default();
    let (sign, amount) = (if amount < 0 { "-" } else { "" }, amount.unsigned_abs());
    let currency = escaped(&currency.to_uppercase());
    format!("{sign}{}.{:02} {currency}", amount / 100, amount % 100)
}

/// The price of a change, before anything is charged.
pub fn preview(shown: &Value, key: &str) -> String {
    let currency = shown["currency"].as_str().unwrap_or_default();
    let lines: String = shown["lines"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|line| {
            let amount = money(&line["amount"], currency);
            format!("<li>{}: {amount}</li>", text(line, "description"))
        })
        .collect();
    let value = |name: &str| shown[name].as_str().unwrap_or_default();
    let fields = [
        ("plan", value("newPlan")),
        ("token", value("previewToken")),
        ("key", key),
    ];
    let body = format!(
        "<p>Due now: <strong id=\"due\">{}</strong>, from {} on: {}</p><ul>{lines}</ul>{}\
         <p><a href=\"/account\">Back</a></p>",
        money(&shown["dueNowAmountMinor"], currency),
        text(shown, "nextInvoiceDate"),
        money(&shown["nextInvoiceAmountMinor"], currency),
        button("/change/confirm", "Change my plan", &fields),
    );
    page("Your new plan", &body)
}

/// The bank asks its cardholder: the plan stays as it is until they have paid.
pub fn confirm_payment(next: &Value, fields: &[(&str, &str)]) -> String {
    let body = format!(
        "<p>Your bank asks you to confirm this payment.</p>\
         <p><a href=\"{}\" target=\"_blank\">Go to your bank</a></p>{}",
        text(next, "hostedInvoiceUrl"),
        button("/change/confirm", "I have confirmed", fields),
    );
    page("Confirm your payment", &body)
}
