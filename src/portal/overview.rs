//! The first page: the plan, what is used of it, and what needs somebody.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde::Deserialize;

use super::look::{Around, Notice, Tone};
use super::meters::{self, Meter};
use super::text::{day, minute, money, web_address};
use super::visitor::Signed;
use super::{Portal, cancel, invoices, plans};
use crate::invoices::Invoice;
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::subscriptions::{PendingChangeView, PendingWhen, SubscriptionRow, SubscriptionState};

pub const PATH: &str = "/portal";

#[derive(Deserialize)]
pub struct Asked {
    /// What was just done, in one of our words.
    #[serde(default)]
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "portal/overview.html")]
struct Overview {
    around: Around,
    plan: PlanCard,
    meters: Vec<Meter>,
}

struct PlanCard {
    name: String,
    price: String,
    status: (Tone, &'static str),
    facts: Vec<(&'static str, String)>,
    /// Whether there is something to cancel.
    can_end: bool,
}

pub async fn page(
    State(portal): State<Arc<Portal>>,
    signed: Signed,
    Query(asked): Query<Asked>,
) -> Response {
    let page = read(&portal, &signed, asked.done.as_deref(), Timestamp::now()).await;
    portal.shown(&signed, page)
}

async fn read(
    portal: &Portal,
    signed: &Signed,
    done: Option<&str>,
    now: Timestamp,
) -> Result<Response, Problem> {
    let organization = signed.principal.organization_id;
    let state = portal.state(signed).await?;
    let (meters, graces) = meters::read(portal, &signed.principal, now).await?;
    let unpaid = crate::invoices::unpaid(&portal.shared, organization).await?;
    let notices = done
        .and_then(said)
        .into_iter()
        .chain(of_payment(&state, &unpaid))
        .chain(of_changes(portal, &state, &unpaid))
        .chain(graces);
    let notices: Vec<Notice> = notices
        .map(|notice| match signed.manages() {
            true => notice,
            // They look, and change nothing.
            false => Notice {
                links: notice.links.into_iter().filter(|link| link.2).collect(),
                ..notice
            },
        })
        .collect();
    let overview = Overview {
        around: signed
            .around(portal, &state, PATH, "Overview")
            .with(notices),
        plan: card(portal, &state),
        meters,
    };
    Ok(portal.look.answer(StatusCode::OK, &overview))
}

/// What was just done.
fn said(done: &str) -> Option<Notice> {
    let (title, text) = match done {
        "changed" => ("Your plan is changed", "It holds from now on."),
        "scheduled" => (
            "Your change is planned",
            "Until then, everything stays as it is.",
        ),
        "canceled" => (
            "Your subscription is canceled",
            "It stays yours until its end. You can change your mind until then.",
        ),
        "ended" => ("Your subscription has ended", "Nothing more is charged."),
        "kept" => ("Your subscription goes on", "It renews as before."),
        "called-off" => ("The change is called off", "Everything stays as it is."),
        _ => return None,
    };
    Some(Notice::new(Tone::Good, title, text))
}

fn pay(notice: Notice, invoice: Option<&Invoice>) -> Notice {
    let Some(invoice) = invoice else {
        return notice;
    };
    let amount = money(invoice.remaining_amount, &invoice.currency);
    match web_address(invoice.hosted_invoice_url.as_deref()) {
        Some(page) => notice.away(page, format!("Pay {amount}")),
        None => notice.link(invoices::address(&invoice.id), "See the invoice"),
    }
}

fn of_payment(state: &SubscriptionState, unpaid: &[Invoice]) -> Option<Notice> {
    let status = state.subscription.as_ref().map(|one| &one.status);
    let first = unpaid.first();
    let (tone, title, text) = match status {
        Some(SubscriptionStatus::PastDue) => (
            Tone::Bad,
            "Your last payment failed",
            "Pay the invoice, or choose another card: it is tried again by itself.",
        ),
        Some(SubscriptionStatus::Unpaid) => (
            Tone::Bad,
            "Your subscription is not paid",
            "The payment failed too often, and is not tried again. Pay the invoice to go on.",
        ),
        Some(SubscriptionStatus::Paused) => (
            Tone::Warn,
            "Your subscription is paused",
            "The trial has ended, and there is no card. Add one to go on.",
        ),
        // It waits for its payer, which is said with the change.
        Some(SubscriptionStatus::Incomplete) => return None,
        _ if state.awaited().is_some() => return None,
        _ => {
            first?;
            (
                Tone::Warn,
                "An invoice is to be paid",
                "It is open, and you can pay it now.",
            )
        }
    };
    let notice = pay(Notice::new(tone, title, text), first);
    Some(match status {
        Some(SubscriptionStatus::Paused | SubscriptionStatus::PastDue) => {
            notice.link(super::cards::PATH, "Payment methods")
        }
        _ => notice,
    })
}

/// What becomes of the subscription.
fn of_changes(portal: &Portal, state: &SubscriptionState, unpaid: &[Invoice]) -> Vec<Notice> {
    let Some(subscription) = &state.subscription else {
        return Vec::new();
    };
    let mut notices = Vec::new();
    if let Some(pending) = PendingChangeView::of(subscription) {
        notices.push(of_pending(portal, subscription, &pending, unpaid));
    }
    if let (true, Some(at)) = (subscription.ends(), subscription.ends_at()) {
        let title = format!("Your subscription ends on {}", day(at));
        let text = "Until then it is yours, and it is not renewed. What you use beyond the plan, \
                    and what is open, is still charged.";
        notices.push(Notice::new(Tone::Warn, title, text).link(cancel::KEEP, "Keep it"));
    }
    notices
}

fn of_pending(
    portal: &Portal,
    subscription: &SubscriptionRow,
    pending: &PendingChangeView,
    unpaid: &[Invoice],
) -> Notice {
    let plan = pending.plan_tier.as_deref();
    let plan = plan.map_or_else(|| "another plan".to_owned(), |tier| plan_name(portal, tier));
    if pending.when == PendingWhen::Paid {
        let until = pending
            .expires_at
            .map(|at| format!(" until {}", minute(at)));
        let text = format!(
            "{plan} begins once its invoice is paid. It waits{}.",
            until.unwrap_or_default()
        );
        let id = pending.stripe_invoice_id.as_deref();
        let invoice = unpaid.iter().find(|one| Some(one.id.as_str()) == id);
        let notice = Notice::new(Tone::Warn, "Confirm your payment", text);
        return pay(notice, invoice).link(cancel::CALL_OFF, "Call it off");
    }
    let at = pending.effective_at.map(day).unwrap_or_default();
    let notice = Notice::new(
        Tone::Plain,
        format!("{plan} begins on {at}"),
        "Until then, everything stays as it is.",
    );
    // What the operator has set, they alone call off.
    match subscription
        .pending
        .as_ref()
        .is_some_and(|one| one.migrates)
    {
        true => notice,
        false => notice.link(cancel::CALL_OFF, "Call it off"),
    }
}

pub fn plan_name(portal: &Portal, tier: &str) -> String {
    let plan = portal.catalogue.plan(tier);
    plan.map_or_else(|| super::text::words(tier), |plan| plan.name.clone())
}

fn card(portal: &Portal, state: &SubscriptionState) -> PlanCard {
    let name = plan_name(portal, &state.plan_tier);
    let Some(subscription) = &state.subscription else {
        let price = portal.catalogue.plan(&state.plan_tier);
        let price = price.map(|plan| &plan.price).filter(|one| one.amount == 0);
        return PlanCard {
            name,
            price: price.map_or_else(String::new, |one| money(0, &one.currency)),
            status: (Tone::Good, "Active"),
            facts: Vec::new(),
            can_end: false,
        };
    };
    let mut facts = Vec::new();
    match (subscription.ends_at(), subscription.period_end) {
        (Some(at), _) => facts.push(("Ends on", day(at))),
        (None, Some(at)) => facts.push(("Renews on", day(at))),
        (None, None) => {}
    }
    if let Some(at) = subscription.trial_end.filter(|_| subscription.on_trial()) {
        facts.push(("Trial until", day(at)));
    }
    if let Some(seats) = state.bought.seats {
        facts.push(("Seats", seats.to_string()));
    }
    for (id, quantity) in &state.bought.addons {
        let name = portal.catalogue.addon(id).map(|addon| addon.name.clone());
        let name = name.unwrap_or_else(|| super::text::words(id));
        facts.push(("Add-on", format!("{quantity} × {name}")));
    }
    PlanCard {
        name,
        price: price_of(portal, subscription).unwrap_or_default(),
        status: status_of(subscription),
        facts,
        can_end: !subscription.ends(),
    }
}

/// What is paid in each interval, without usage; none where an item's price is no whole
/// number of minor units.
fn price_of(portal: &Portal, subscription: &SubscriptionRow) -> Option<String> {
    let (base, _) = subscription.base_item(&portal.catalogue)?;
    let interval = base.plan_interval()?;
    let licensed = subscription.items.iter().filter(|item| !item.metered);
    let amounts = licensed.map(|item| item.unit_amount?.checked_mul(item.quantity.unwrap_or(1)));
    let total = amounts.sum::<Option<i64>>()?;
    let amount = money(total, subscription.currency.as_deref()?);
    Some(format!("{amount} per {}", interval.as_str()))
}

fn status_of(subscription: &SubscriptionRow) -> (Tone, &'static str) {
    match &subscription.status {
        _ if subscription.ends() => (Tone::Warn, "Ending"),
        SubscriptionStatus::Active => (Tone::Good, "Active"),
        SubscriptionStatus::Trialing => (Tone::Good, "Trial"),
        SubscriptionStatus::PastDue => (Tone::Bad, "Payment failed"),
        SubscriptionStatus::Unpaid => (Tone::Bad, "Unpaid"),
        SubscriptionStatus::Incomplete => (Tone::Warn, "Waits for payment"),
        SubscriptionStatus::Paused => (Tone::Warn, "Paused"),
        _ => (Tone::Plain, "Ended"),
    }
}

impl PlanCard {
    fn plans(&self) -> &'static str {
        plans::PATH
    }

    fn cancel(&self) -> &'static str {
        cancel::CANCEL
    }
}
