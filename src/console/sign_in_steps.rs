//! What follows a right password: the code of a second factor, or setting one up. Between the
//! steps the browser keeps, in a cookie, what was sealed when the password was right.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::query::{address, filled};
use super::screen::{Block, Cell, Field, Form, Refusal, Screen, Tone};
use super::session::{Fields, led_to};
use super::sign_in::{self, BEFORE, browser, own, set};
use super::webhooks::{button, notice};
use super::{Console, account};
use crate::audit::Client;
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::tenancy::auth::{BrowserSession, LoginError, OwnError, Proposal};

pub const CODE: &str = "/console/sign-in/code";
pub const ENROLMENT: &str = "/console/sign-in/second-factor";
/// The cookie with what is sealed.
pub const COOKIE: &str = "console-step";

/// On to the step that is due.
pub fn led(console: &Console, step: &str, pending: &str, next: &str) -> Response {
    let mut response = led_to(&address(step, &[("next", Some(next))]));
    set(&mut response, &console.cookie.set(COOKIE, pending));
    response
}

#[derive(Deserialize)]
pub struct Asked {
    #[serde(default, deserialize_with = "filled")]
    next: Option<String>,
}

/// A step's form, which is this browser's, and whose password was right.
struct Step {
    headers: HeaderMap,
    browser: BrowserSession,
    pending: String,
    fields: Fields,
    next: String,
}

impl Step {
    /// None: one begins again.
    async fn of(console: &Console, request: Request) -> Result<Option<Self>, Problem> {
        let headers = request.headers().clone();
        let pending = console.cookie.read(COOKIE, &headers);
        let before = console.cookie.read(BEFORE, &headers);
        let (Some(pending), Some(_)) = (pending, before) else {
            return Ok(None);
        };
        let fields = Fields::of(request).await?;
        let browser = browser(console, &headers);
        if !browser.made(fields.get("csrf").unwrap_or_default()) {
            return Ok(None);
        }
        let next = own(fields.get("next")).to_owned();
        Ok(Some(Self {
            headers,
            browser,
            pending,
            fields,
            next,
        }))
    }
}

/// A page of a step, with the browser's value that its form is bound to.
fn page(
    console: &Console,
    browser: &BrowserSession,
    screen: Screen,
    status: StatusCode,
) -> Response {
    let mut response = screen.answer_with(status);
    set(&mut response, &console.cookie.set(BEFORE, browser.token()));
    response
}

fn begin_again(console: &Console) -> Response {
    let mut response = led_to(sign_in::PATH);
    set(&mut response, &console.cookie.clear(COOKIE));
    response
}

fn failed(text: &str) -> Block {
    notice(Tone::Bad, "You are not signed in", text)
}

pub async fn code(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    if console.cookie.read(COOKIE, &headers).is_none() {
        return led_to(sign_in::PATH);
    }
    let browser = browser(&console, &headers);
    let screen = code_screen(&browser, own(asked.next.as_deref()), None);
    page(&console, &browser, screen, StatusCode::OK)
}

fn code_screen(browser: &BrowserSession, next: &str, first: Option<Block>) -> Screen {
    let form = Form {
        title: "Code".to_owned(),
        text: "What your authenticator shows now, or a recovery code.".to_owned(),
        action: CODE.to_owned(),
        csrf: Some(browser.form_token()),
        hidden: vec![("next", next.to_owned())],
        fields: vec![Field::code("Code")],
        buttons: vec![button("code", "Sign in", Tone::Main)],
        ..Form::default()
    };
    Screen::outside("Sign in")
        .above(sign_in::PATH, "Another account")
        .with_all(first)
        .with(Block::Form(form))
}

pub async fn finish(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Refusal> {
    let Some(mut step) = Step::of(&console, request).await? else {
        return Ok(begin_again(&console));
    };
    let code = step.fields.take("code");
    let finished = console.login.rules().finish(&step.pending, &code, &client);
    let (status, text) = match finished.await {
        Ok(session) => {
            let (headers, next) = (&step.headers, &step.next);
            return sign_in::entered(&console, headers, &client, &session, next).await;
        }
        Err(LoginError::BeginAgain) => return Ok(begin_again(&console)),
        Err(error) => account::said(OwnError::from(error))?,
    };
    let screen = code_screen(&step.browser, &step.next, Some(failed(&text)));
    Ok(page(&console, &step.browser, screen, status))
}

pub async fn enrolment(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let Some(pending) = console.cookie.read(COOKIE, &headers) else {
        return Ok(led_to(sign_in::PATH));
    };
    let proposal = match console.login.rules().propose_to(&pending, "").await {
        Ok(proposal) => proposal,
        Err(LoginError::BeginAgain) => return Ok(begin_again(&console)),
        Err(error) => return Err(Problem::from(error).into()),
    };
    let browser = browser(&console, &headers);
    let next = own(asked.next.as_deref());
    let screen = enrolment_screen(&browser, next, &proposal, None);
    Ok(page(&console, &browser, screen, StatusCode::OK))
}

fn enrolment_screen(
    browser: &BrowserSession,
    next: &str,
    proposal: &Proposal,
    first: Option<Block>,
) -> Screen {
    let form = Form {
        title: "Confirm it".to_owned(),
        text: String::new(),
        action: ENROLMENT.to_owned(),
        csrf: Some(browser.form_token()),
        hidden: vec![
            ("next", next.to_owned()),
            ("proposal", proposal.sealed.clone()),
        ],
        fields: vec![Field::code("Code that it shows now")],
        buttons: vec![button("enrol", "Use it and sign in", Tone::Main)],
        ..Form::default()
    };
    Screen::outside("Set up an authenticator")
        .above(sign_in::PATH, "Another account")
        .lead("Operators need a second factor here, and you have none yet.")
        .with_all(first)
        .with_all(account::shown(proposal))
        .with(Block::Form(form))
}

pub async fn enrol(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Refusal> {
    let Some(mut step) = Step::of(&console, request).await? else {
        return Ok(begin_again(&console));
    };
    let (sealed, code) = (step.fields.take("proposal"), step.fields.take("code"));
    let rules = console.login.rules();
    let enrolled = rules.enrol_and_finish(&step.pending, &sealed, &code, &client);
    let (status, text) = match enrolled.await {
        Ok((session, codes)) => {
            let on = Cell::link(step.next.clone(), "Go on to the console");
            let mut response = Screen::outside("Second factor")
                .lead("It is in use, and you are signed in.")
                .with(account::recovery_codes(&codes))
                .with(Block::Facts {
                    title: "When you have kept them".to_owned(),
                    rows: vec![("Next", on)],
                })
                .answer();
            let headers = &step.headers;
            sign_in::enter(&console, headers, &client, &session, &mut response).await?;
            return Ok(response);
        }
        Err(OwnError::WrongCode) => account::said(OwnError::WrongCode)?,
        Err(OwnError::Login(error)) => return Err(Problem::from(error).into()),
        Err(_) => return Ok(begin_again(&console)),
    };
    let proposal = match rules.propose_to(&step.pending, &sealed).await {
        Ok(proposal) => proposal,
        Err(_) => return Ok(begin_again(&console)),
    };
    let first = Some(failed(&text));
    let screen = enrolment_screen(&step.browser, &step.next, &proposal, first);
    Ok(page(&console, &step.browser, screen, status))
}
