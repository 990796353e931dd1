//! The end of a subscription, and what takes an end or a change back. Each asks first.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::look::{Around, Ask, Message, Tone};
use super::overview::{self, plan_name};
use super::text::day;
use super::visitor::{Acting, Signed};
use super::{Portal, words};
use crate::pages::{led_to, once};
use crate::server::problem::Problem;
use crate::subscriptions::{
    ChangeRejection, Command, Failure, PendingChangeView, PendingWhen, Requester, Said,
    Subscriptions, change_detached,
};

pub const CANCEL: &str = "/portal/cancel";
pub const KEEP: &str = "/portal/keep";
pub const CALL_OFF: &str = "/portal/call-off";

/// Stripe's words for why one cancels, and what they mean.
const WHY: [(&str, &str); 8] = [
    ("too_expensive", "It is too expensive"),
    ("missing_features", "Something that I need is missing"),
    ("switched_service", "I use another product"),
    ("unused", "I do not use it enough"),
    ("customer_service", "I was not helped well"),
    ("too_complex", "It is too hard to use"),
    ("low_quality", "It does not work well enough"),
    ("other", "Something else"),
];

#[derive(Template)]
#[template(path = "portal/cancel.html")]
struct Cancel {
    around: Around,
    plan: String,
    ends: Option<String>,
    why: [(&'static str, &'static str); 8],
    action: String,
    back: &'static str,
}

pub async fn page(State(portal): State<Arc<Portal>>, signed: Signed) -> Response {
    let page = asked_to_cancel(&portal, &signed).await;
    portal.shown(&signed, page)
}

async fn asked_to_cancel(portal: &Portal, signed: &Signed) -> Result<Response, Problem> {
    signed.check_manages()?;
    let state = portal.state(signed).await?;
    let held = state.subscription.as_ref();
    let held = held.ok_or_else(|| Problem::from(ChangeRejection::NoSubscription))?;
    if let Some(at) = held.ends_at() {
        return Err(ChangeRejection::EndsAlready(at).into());
    }
    let ends = held.period_end.filter(|_| !held.is_incomplete());
    let cancel = Cancel {
        around: signed.around(portal, &state, overview::PATH, "Cancel your subscription"),
        plan: plan_name(portal, &state.plan_tier),
        ends: ends.map(day),
        why: WHY,
        action: once(CANCEL),
        back: overview::PATH,
    };
    Ok(portal.look.answer(StatusCode::OK, &cancel))
}

pub async fn cancel(State(portal): State<Arc<Portal>>, acting: Acting) -> Response {
    let fields = &acting.fields;
    let feedback = fields.get("feedback");
    let said = Said::of(fields.get("reason"), feedback).check();
    let said = match said {
        Ok(said) => said,
        Err(problem) => return refused(&portal, &acting.signed, &problem).await,
    };
    let made = made(
        &portal,
        acting,
        move |subscriptions, requester| async move {
            let command = Command::Cancel {
                immediately: false,
                details: said.details(),
            };
            subscriptions.change(&requester, command, None).await
        },
    );
    match made.await {
        Ok(true) => led_to("/portal?done=canceled"),
        Ok(false) => led_to("/portal?done=ended"),
        Err(page) => page,
    }
}

pub async fn ask_to_keep(State(portal): State<Arc<Portal>>, signed: Signed) -> Response {
    let page = asked_to_keep(&portal, &signed).await;
    portal.shown(&signed, page)
}

async fn asked_to_keep(portal: &Portal, signed: &Signed) -> Result<Response, Problem> {
    signed.check_manages()?;
    let state = portal.state(signed).await?;
    let ends = state.subscription.as_ref().and_then(|one| one.ends_at());
    let ends = ends.ok_or_else(|| Problem::from(ChangeRejection::NotEnding))?;
    let ask = Ask {
        around: signed.around(portal, &state, overview::PATH, "Keep your subscription?"),
        text: "It renews as before, and your card is charged for the next period then.".to_owned(),
        facts: vec![
            ("Plan", plan_name(portal, &state.plan_tier)),
            ("Would end on", day(ends)),
        ],
        action: once(KEEP),
        hidden: Vec::new(),
        act: "Keep it",
        tone: Tone::Plain,
        back: (overview::PATH, "Back"),
    };
    Ok(portal.look.answer(StatusCode::OK, &ask))
}

pub async fn keep(State(portal): State<Arc<Portal>>, acting: Acting) -> Response {
    let made = made(&portal, acting, |subscriptions, requester| async move {
        let command = Command::Reactivate;
        subscriptions.change(&requester, command, None).await
    });
    match made.await {
        Ok(_) => led_to("/portal?done=kept"),
        Err(page) => page,
    }
}

pub async fn ask_to_call_off(State(portal): State<Arc<Portal>>, signed: Signed) -> Response {
    let page = asked_to_call_off(&portal, &signed).await;
    portal.shown(&signed, page)
}

async fn asked_to_call_off(portal: &Portal, signed: &Signed) -> Result<Response, Problem> {
    signed.check_manages()?;
    let state = portal.state(signed).await?;
    let pending = state.subscription.as_ref().and_then(PendingChangeView::of);
    let pending = pending.ok_or_else(|| Problem::from(ChangeRejection::NothingPending))?;
    let mut facts = Vec::new();
    if let Some(tier) = &pending.plan_tier {
        facts.push(("Change to", plan_name(portal, tier)));
    }
    if let Some(at) = pending.effective_at {
        facts.push(("On", day(at)));
    }
    let text = match pending.when {
        PendingWhen::Paid => "Its invoice is void then, and nothing is charged for it.",
        _ => "Your plan stays as it is, and renews at its own price.",
    };
    let ask = Ask {
        around: signed.around(portal, &state, overview::PATH, "Call the change off?"),
        text: text.to_owned(),
        facts,
        action: once(CALL_OFF),
        hidden: Vec::new(),
        act: "Call it off",
        tone: Tone::Bad,
        back: (overview::PATH, "Leave it as it is"),
    };
    Ok(portal.look.answer(StatusCode::OK, &ask))
}

pub async fn call_off(State(portal): State<Arc<Portal>>, acting: Acting) -> Response {
    let made = made(&portal, acting, |subscriptions, requester| async move {
        subscriptions
            .change(&requester, Command::CallOff, None)
            .await
    });
    match made.await {
        Ok(_) => led_to("/portal?done=called-off"),
        Err(page) => page,
    }
}

/// Makes a change. Returns whether there is a subscription still, or a page that says why
/// it was not made.
async fn made<F>(
    portal: &Portal,
    acting: Acting,
    change: impl FnOnce(Subscriptions, Requester) -> F,
) -> Result<bool, Response>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (signed, key) = (acting.signed, Some(acting.key));
    let caller = signed.principal.clone();
    match change_detached(&portal.subscriptions, caller, key, change).await {
        Ok(state) => Ok(state.subscription.is_some()),
        Err(problem) => Err(refused(portal, &signed, &problem).await),
    }
}

/// What went wrong, and the way back.
async fn refused(portal: &Portal, signed: &Signed, problem: &Problem) -> Response {
    let Ok(state) = portal.state(signed).await else {
        return portal.refused(Some(signed), problem);
    };
    let title = "Nothing was changed";
    let notice = words::said(problem).link(overview::PATH, "Back to the overview");
    let message = Message {
        around: signed
            .around(portal, &state, overview::PATH, title)
            .with([notice]),
        lead: String::new(),
        back: None,
    };
    portal.look.answer(problem.status(), &message)
}
