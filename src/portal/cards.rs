//! Cards and other ways to pay: which one is charged, another one, and the end of one.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;

use super::look::{Around, Ask, Message, Notice, Tone};
use super::text::{capitalized, web_address, words as worded};
use super::visitor::{Acting, Managing, Posted, Signed};
use super::{Portal, words};
use crate::pages::query::address;
use crate::pages::{led_to, once};
use crate::payment_methods::PaymentMethod;
use crate::server::extract::Query;
use crate::server::pagination::page::{Limit, Paging};
use crate::server::problem::Problem;

pub const PATH: &str = "/portal/payment-methods";
pub const ADD: &str = "/portal/payment-methods/add";
pub const DEFAULT: &str = "/portal/payment-methods/default";
pub const REMOVE: &str = "/portal/payment-methods/remove";

#[derive(Deserialize, Default)]
pub struct Asked {
    #[serde(default)]
    cursor: Option<String>,
    /// What was just done, in one of our words.
    #[serde(default)]
    done: Option<String>,
    /// The card that a question is about.
    #[serde(default)]
    id: Option<String>,
}

#[derive(Template)]
#[template(path = "portal/cards.html")]
struct List {
    around: Around,
    rows: Vec<Row>,
    add: &'static str,
    next: Option<String>,
}

struct Row {
    id: String,
    name: String,
    expiry: String,
    expired: bool,
    is_default: bool,
    make_default: String,
    remove: String,
}

/// `Visa ending in 4242`.
pub fn name_of(method: &PaymentMethod) -> String {
    let kind = method.brand.as_deref().unwrap_or(&method.r#type);
    match &method.last4 {
        Some(last4) => format!("{} ending in {last4}", worded(kind)),
        None => worded(kind),
    }
}

impl Row {
    fn of(method: &PaymentMethod, now: Timestamp) -> Self {
        let expiry = method.expiry_month.zip(method.expiry_year);
        let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
        let is_over =
            |(month, year): (i16, i16)| (year, month) < (today.year(), i16::from(today.month()));
        Self {
            id: method.id.clone(),
            name: name_of(method),
            expiry: expiry
                .map(|(month, year)| format!("{month:02}/{year}"))
                .unwrap_or_default(),
            expired: expiry.is_some_and(is_over),
            is_default: method.is_default,
            make_default: once(DEFAULT),
            remove: address(REMOVE, &[("id", Some(&method.id))]),
        }
    }
}

pub async fn list(
    State(portal): State<Arc<Portal>>,
    signed: Signed,
    Query(asked): Query<Asked>,
) -> Response {
    let said = asked.done.as_deref().and_then(said);
    let page = listed(&portal, &signed, asked.cursor, said, StatusCode::OK).await;
    portal.shown(&signed, page)
}

fn said(done: &str) -> Option<Notice> {
    let (title, text) = match done {
        "added" => (
            "Welcome back",
            "A card that you have added is here in a moment: load the page again if it is not.",
        ),
        "default" => ("This card is charged from now on", ""),
        "removed" => ("The card is removed", ""),
        _ => return None,
    };
    Some(Notice::new(Tone::Good, title, text))
}

async fn listed(
    portal: &Portal,
    signed: &Signed,
    cursor: Option<String>,
    notice: Option<Notice>,
    status: StatusCode,
) -> Result<Response, Problem> {
    let paging = Paging {
        limit: Limit::default(),
        cursor,
    };
    let organization = signed.principal.organization_id;
    let page = portal.methods.page(organization, &paging).await?;
    let state = portal.state(signed).await?;
    let (now, next) = (Timestamp::now(), page.next_cursor.as_deref());
    let list = List {
        around: signed
            .around(portal, &state, PATH, "Payment methods")
            .with(notice),
        rows: page.data.iter().map(|one| Row::of(one, now)).collect(),
        add: ADD,
        next: next.map(|cursor| address(PATH, &[("cursor", Some(cursor))])),
    };
    Ok(portal.look.answer(status, &list))
}

/// What went wrong stays on the page of the cards.
async fn beside_cards(portal: &Portal, signed: &Signed, problem: &Problem) -> Response {
    let notice = Some(words::said(problem));
    let page = listed(portal, signed, None, notice, problem.status()).await;
    portal.shown(signed, page)
}

/// Stripe's page for another card. It is a link away, since a form may lead to no other site.
pub async fn add(
    State(portal): State<Arc<Portal>>,
    Managing(Posted { signed, .. }): Managing,
) -> Response {
    let back = match portal.look.is_framed() {
        // The page has a window of its own, in which nobody is signed in here.
        true => signed.visitor.return_url.clone(),
        false => None,
    };
    let own = || format!("{}{PATH}?done=added", portal.public_url);
    let caller = signed.principal.clone();
    let made = portal.methods.setup_page(caller, back.unwrap_or_else(own));
    let page = match made.await {
        Ok(made) => match web_address(made.url.as_deref()) {
            Some(page) => to_setup(&portal, &signed, page).await,
            None => Err(Problem::internal()),
        },
        Err(problem) => return beside_cards(&portal, &signed, &problem).await,
    };
    portal.shown(&signed, page)
}

async fn to_setup(portal: &Portal, signed: &Signed, page: String) -> Result<Response, Problem> {
    let state = portal.state(signed).await?;
    let notice = Notice::new(
        Tone::Plain,
        "The card is entered on the payment service's page",
        "We never see its number. The page leads you back here.",
    );
    let notice = match portal.look.is_framed() {
        true => notice.away(page, "Continue"),
        false => notice.link(page, "Continue"),
    };
    let message = Message {
        around: signed
            .around(portal, &state, PATH, "Add a card")
            .with([notice]),
        lead: String::new(),
        back: None,
    };
    Ok(portal.look.answer(StatusCode::OK, &message))
}

pub async fn make_default(State(portal): State<Arc<Portal>>, acting: Acting) -> Response {
    let (signed, id) = (acting.signed, acting.fields.get("id").unwrap_or_default());
    let made = portal.methods.make_default(signed.principal.clone(), id);
    match made.await {
        Ok(()) => led_to(&address(PATH, &[("done", Some("default"))])),
        Err(problem) => beside_cards(&portal, &signed, &problem).await,
    }
}

pub async fn ask_to_remove(
    State(portal): State<Arc<Portal>>,
    signed: Signed,
    Query(asked): Query<Asked>,
) -> Response {
    let id = asked.id.unwrap_or_default();
    let page = asked_to_remove(&portal, &signed, &id).await;
    portal.shown(&signed, page)
}

async fn asked_to_remove(portal: &Portal, signed: &Signed, id: &str) -> Result<Response, Problem> {
    signed.check_manages()?;
    let organization = signed.principal.organization_id;
    let method = portal.methods.one(organization, id).await?;
    let state = portal.state(signed).await?;
    let name = capitalized(&name_of(&method));
    let ask = Ask {
        around: signed.around(portal, &state, PATH, "Remove this card?"),
        text: "It is removed for good. To use it again, you enter it again.".to_owned(),
        facts: vec![("Card", name)],
        action: once(REMOVE),
        hidden: vec![("id", method.id)],
        act: "Remove it",
        tone: Tone::Bad,
        back: (PATH, "Keep it"),
    };
    Ok(portal.look.answer(StatusCode::OK, &ask))
}

pub async fn remove(State(portal): State<Arc<Portal>>, acting: Acting) -> Response {
    let (signed, mut fields) = (acting.signed, acting.fields);
    let removed = portal
        .methods
        .remove(signed.principal.clone(), fields.take("id"));
    match removed.await {
        Ok(()) => led_to(&address(PATH, &[("done", Some("removed"))])),
        Err(problem) => beside_cards(&portal, &signed, &problem).await,
    }
}
