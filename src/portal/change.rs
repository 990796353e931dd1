//! A change of plan, interval or seats: what it costs, and until when that holds; then the
//! change, which charges exactly that.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;

use super::look::{Around, Message, Notice, Tone, clock_step};
use super::meters::{name_of, quantity};
use super::overview::plan_name;
use super::plans::{self, feature_name, value_text};
use super::text::{capitalized, clock, day, minute, money, rate, web_address};
use super::visitor::{Acting, Managing, Posted, Signed};
use super::{Portal, cards, words};
use crate::catalogue::{Interval, When};
use crate::pages::form::Fields;
use crate::pages::number::grouped;
use crate::pages::{led_to, once};
use crate::server::layers::idempotency::Passing;
use crate::server::problem::Problem;
use crate::subscriptions::{
    ActionRequired, AskedAddons, Command, Outcome, Preview, Selection, SubscriptionState,
    change_beside_payer,
};

pub const PREVIEW: &str = "/portal/plans/preview";
pub const PATH: &str = "/portal/plans/change";
/// What the names of add-ons' fields begin with.
pub const ADDON: &str = "addon:";

/// What the form asks for.
#[derive(Debug, Clone, Default)]
struct Asked {
    plan: String,
    interval: Option<Interval>,
    quantity: Option<u64>,
    /// None where the form has no field of any.
    addons: Option<AskedAddons>,
    code: Option<String>,
}

impl Asked {
    fn of(fields: &Fields) -> Result<Self, Problem> {
        let invalid = |code, detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail);
        let quantity = fields.get("quantity").map(str::trim);
        let quantity = quantity.map(|text| {
            let whole = text.parse().ok();
            let detail = "write the number of seats in digits";
            whole.ok_or_else(|| invalid("quantity_out_of_range", detail))
        });
        let interval = match fields.get("interval") {
            None => None,
            Some("month") => Some(Interval::Month),
            Some("year") => Some(Interval::Year),
            Some(_) => {
                let detail = "plans are paid by the month or by the year";
                return Err(invalid("price_not_offered", detail));
            }
        };
        let mut addons = None::<AskedAddons>;
        for (id, number) in fields.beginning(ADDON) {
            let detail = "write the number of each add-on in digits";
            let number = match number.trim() {
                "" => 0,
                digits => digits
                    .parse::<u32>()
                    .map_err(|_| invalid("quantity_out_of_range", detail))?,
            };
            let addons = addons.get_or_insert_default();
            if number > 0 {
                addons.insert(id.to_owned(), number.into());
            }
        }
        let code = fields.get("code").map(str::trim);
        Ok(Self {
            plan: fields.get("plan").unwrap_or_default().to_owned(),
            interval,
            quantity: quantity.transpose()?,
            addons,
            code: code.filter(|code| !code.is_empty()).map(str::to_owned),
        })
    }

    fn selection(&self) -> Selection<'_> {
        Selection {
            tier: &self.plan,
            interval: self.interval,
            currency: None,
            quantity: self.quantity,
            addons: self.addons.as_ref(),
        }
    }

    /// The same in hidden fields, but for the code.
    fn hidden(&self) -> Vec<(String, String)> {
        let mut hidden = vec![("plan".to_owned(), self.plan.clone())];
        if let Some(interval) = self.interval {
            hidden.push(("interval".to_owned(), interval.as_str().to_owned()));
        }
        if let Some(quantity) = self.quantity {
            hidden.push(("quantity".to_owned(), quantity.to_string()));
        }
        if let Some(addons) = &self.addons {
            // Of none at all, too: without a field, those of before would stay.
            let none = addons
                .is_empty()
                .then(|| (ADDON.to_owned(), "0".to_owned()));
            let some = addons.iter();
            let some = some.map(|(id, number)| (format!("{ADDON}{id}"), number.to_string()));
            hidden.extend(some.chain(none));
        }
        hidden
    }
}

#[derive(Template)]
#[template(path = "portal/change.html")]
struct Quote {
    around: Around,
    from: String,
    to: String,
    due_now: String,
    due_text: String,
    next: String,
    next_text: String,
    lines: Vec<(String, String, String)>,
    sums: Vec<(&'static str, String)>,
    changes: Vec<(String, String, String)>,
    code: String,
    /// The card that is charged.
    card: Option<String>,
    /// Whether there is nothing to be charged, and there has to be.
    needs_card: bool,
    clock: usize,
    holds_until: String,
    hidden: Vec<(String, String)>,
    token: String,
    preview: &'static str,
    change: String,
    act: String,
    add_card: &'static str,
    back: &'static str,
}

pub async fn preview(
    State(portal): State<Arc<Portal>>,
    Managing(Posted { signed, fields }): Managing,
) -> Response {
    let asked = match Asked::of(&fields) {
        Ok(asked) => asked,
        Err(problem) => return beside_plans(&portal, &signed, &problem).await,
    };
    let page = match quoted(&portal, &signed, &asked, None).await {
        // The price without the code, and what is wrong with it.
        Err(problem) if asked.code.is_some() && problem.code() == "promotion_code_invalid" => {
            let without = Asked {
                code: None,
                ..asked
            };
            quoted(&portal, &signed, &without, Some(&problem)).await
        }
        page => page,
    };
    match page {
        Ok(page) => page,
        Err(problem) => beside_plans(&portal, &signed, &problem).await,
    }
}

/// What went wrong stays on the page where one can choose again.
async fn beside_plans(portal: &Portal, signed: &Signed, problem: &Problem) -> Response {
    let notice = words::said(problem);
    let page = plans::shown(portal, signed, Some(notice), problem.status()).await;
    portal.shown(signed, page)
}

/// The price of a change, and the form that makes it.
async fn quoted(
    portal: &Portal,
    signed: &Signed,
    asked: &Asked,
    beside: Option<&Problem>,
) -> Result<Response, Problem> {
    let now = Timestamp::now();
    let organization = signed.principal.organization_id;
    let preview = portal
        .subscriptions
        .preview(
            organization,
            asked.selection(),
            None,
            asked.code.as_deref(),
            now,
        )
        .await?;
    let state = portal.state(signed).await?;
    let card = charged_card(portal, signed).await?;
    let quote = Quote::of(portal, signed, &state, (preview, asked, card), now);
    let status = beside.map_or(StatusCode::OK, Problem::status);
    let notice = beside.map(words::said);
    let quote = Quote {
        around: quote.around.with(notice),
        ..quote
    };
    Ok(portal.look.answer(status, &quote))
}

/// The card that invoices are charged to.
async fn charged_card(portal: &Portal, signed: &Signed) -> Result<Option<String>, Problem> {
    let organization = signed.principal.organization_id;
    let charged = portal.methods.charged(organization).await?;
    Ok(charged.as_ref().map(cards::name_of))
}

impl Quote {
    fn of(
        portal: &Portal,
        signed: &Signed,
        state: &SubscriptionState,
        (preview, asked, card): (Preview, &Asked, Option<String>),
        now: Timestamp,
    ) -> Self {
        let money = |minor| money(minor, &preview.currency);
        let to = plan_name(portal, &preview.new_plan);
        let from = plan_name(portal, &preview.current_plan);
        let due = preview.due_now_amount_minor;
        let billed = portal.catalogue.plan(&preview.new_plan);
        let billed = billed.is_some_and(crate::catalogue::Plan::is_billed);
        // The free plan begins when the subscription ends.
        let held = state.subscription.as_ref();
        let ends = !billed && held.is_some_and(|one| !one.is_incomplete());
        let later = ends || preview.when == Some(When::PeriodEnd);
        let title = match from == to {
            true => format!("Change {to}"),
            false => format!("Change to {to}"),
        };
        let act = match due {
            1.. => format!("Pay {} and change", money(due)),
            _ if later => format!("Change on {}", day(preview.effective_date)),
            _ => "Change now".to_owned(),
        };
        let lines = preview.lines.iter().map(|line| {
            let period = format!("{} – {}", day(line.period_start), day(line.period_end));
            (line.description.clone(), period, money(line.amount))
        });
        let expires = preview.preview_token_expires_at;
        Self {
            around: signed.around(portal, state, plans::PATH, &title),
            due_now: money(due),
            due_text: due_text(&preview, later),
            next: money(preview.next_invoice_amount_minor),
            next_text: format!("on {}, without usage", day(preview.next_invoice_date)),
            lines: lines.collect(),
            sums: sums(&preview),
            changes: changes(portal, &preview),
            code: preview.promotion_code.clone().unwrap_or_default(),
            card,
            // What is paid today is paid by something.
            needs_card: billed && state.subscription.is_none() && !state.has_payment_method,
            clock: clock_step(expires.as_second() - now.as_second()),
            holds_until: clock(expires),
            hidden: asked.hidden(),
            token: preview.preview_token,
            preview: PREVIEW,
            change: once(PATH),
            act,
            add_card: cards::ADD,
            back: plans::PATH,
            from,
            to,
        }
    }
}

fn due_text(preview: &Preview, later: bool) -> String {
    let credit = preview.prorated_amount_minor < 0;
    match preview.due_now_amount_minor {
        _ if later => format!("It begins on {}", day(preview.effective_date)),
        1.. => "charged at once".to_owned(),
        _ if credit => format!(
            "{} are credited on your next invoice",
            money(
                preview.prorated_amount_minor.saturating_neg(),
                &preview.currency
            )
        ),
        _ if preview.prorated_amount_minor > 0 => format!(
            "{} come with your next invoice",
            money(preview.prorated_amount_minor, &preview.currency)
        ),
        _ => "Nothing is charged now".to_owned(),
    }
}

fn sums(preview: &Preview) -> Vec<(&'static str, String)> {
    let totals = &preview.totals;
    let money = |minor| money(minor, &preview.currency);
    let mut sums = Vec::new();
    if totals.discount_amount != 0 {
        sums.push(("Discount", money(totals.discount_amount.saturating_neg())));
    }
    if totals.tax_amount != 0 {
        sums.push(("Tax", money(totals.tax_amount)));
    }
    sums.push(("Total of the change", money(totals.total_amount)));
    sums
}

/// What differs between the plans: its name, before, and after.
fn changes(portal: &Portal, preview: &Preview) -> Vec<(String, String, String)> {
    let catalogue = &portal.catalogue;
    let terms = |metric: &str, quota: Option<&str>, each: &str| {
        let quota = quota.map_or_else(
            || "unlimited".to_owned(),
            |quota| quantity(catalogue, metric, quota),
        );
        match each {
            "0" => quota,
            each => format!("{quota}, then {} each", rate(each, &preview.currency)),
        }
    };
    let quotas = preview.changes.iter().map(|one| {
        let digits = |quota: &Option<Box<serde_json::value::RawValue>>| {
            quota.as_ref().map(|quota| quota.get().to_owned())
        };
        let (before, after) = (digits(&one.current_quota), digits(&one.new_quota));
        let metric = &one.metric;
        (
            name_of(catalogue, metric),
            terms(metric, before.as_deref(), &one.current_overage_rate),
            terms(metric, after.as_deref(), &one.new_overage_rate),
        )
    });
    let features = preview.feature_changes.iter().map(|one| {
        let (before, after) = (one.current_value.as_ref(), one.new_value.as_ref());
        let name = feature_name(portal, &one.feature);
        (name, value_text(before), value_text(after))
    });
    let addons = preview.addon_changes.iter().map(|one| {
        let name = catalogue.addon(&one.id).map(|addon| addon.name.clone());
        let name = name.unwrap_or_else(|| super::text::words(&one.id));
        (
            name,
            grouped(one.current_quantity),
            grouped(one.new_quantity),
        )
    });
    quotas.chain(features).chain(addons).collect()
}

pub async fn change(State(portal): State<Arc<Portal>>, acting: Acting) -> Response {
    let Acting {
        signed,
        fields,
        key,
    } = acting;
    let asked = match Asked::of(&fields) {
        Ok(asked) => asked,
        Err(problem) => return beside_plans(&portal, &signed, &problem).await,
    };
    let Some(token) = fields.get("token").map(str::to_owned) else {
        // Nobody has seen a price yet.
        return portal.shown(&signed, quoted(&portal, &signed, &asked, None).await);
    };
    let (caller, wanted) = (signed.principal.clone(), asked.clone());
    let made = change_beside_payer(
        &portal.subscriptions,
        caller,
        Some(key),
        move |subscriptions, requester| async move {
            let command = Command::Change {
                selection: wanted.selection(),
                when: None,
                promotion_code: wanted.code.as_deref(),
            };
            let requester = requester.with_payer();
            subscriptions
                .change(&requester, command, Some(&token))
                .await
        },
    );
    match made.await {
        Ok(Outcome::Done(state)) => led_to(match is_planned(&state, &asked) {
            true => "/portal?done=scheduled",
            false => "/portal?done=changed",
        }),
        Ok(Outcome::AwaitsPayer(required)) => {
            let page = to_confirm(&portal, &signed, &required).await;
            let page = portal.shown(&signed, page);
            (Extension(Passing), page).into_response()
        }
        // The price of now, with what is wrong above it; or the plans.
        Err(problem) => match quoted(&portal, &signed, &asked, Some(&problem)).await {
            Ok(page) => page,
            Err(_) => beside_plans(&portal, &signed, &problem).await,
        },
    }
}

/// Whether what was asked for begins later.
fn is_planned(state: &SubscriptionState, asked: &Asked) -> bool {
    let held = state.subscription.as_ref();
    held.is_some_and(|one| one.pending.is_some() || one.ends() && state.plan_tier != asked.plan)
}

/// The bank wants to hear from the payer: how they go on.
async fn to_confirm(
    portal: &Portal,
    signed: &Signed,
    required: &ActionRequired,
) -> Result<Response, Problem> {
    let state = portal.state(signed).await?;
    let next = &required.next_action;
    let until = next
        .expires_at
        .map(|at| format!(" It waits until {}.", minute(at)));
    let text = format!(
        "Your bank asks you to confirm it. Your plan stays as it is until then.{}",
        until.unwrap_or_default()
    );
    let notice = Notice::new(Tone::Warn, "One step is left", text);
    let notice = match web_address(next.hosted_invoice_url.as_deref()) {
        Some(page) => notice.away(page, "Confirm the payment"),
        None => notice,
    };
    let message = Message {
        around: signed
            .around(portal, &state, plans::PATH, "Confirm your payment")
            .with([notice.link(super::cancel::CALL_OFF, "Call it off")]),
        lead: capitalized("when it is confirmed, the overview shows your new plan."),
        back: None,
    };
    Ok(portal.look.answer(StatusCode::ACCEPTED, &message))
}
