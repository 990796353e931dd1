//! Signing in and out. A session's token is made when the password was right, so that none
//! can be known before.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;

use super::Console;
use super::query::{address, filled};
use super::screen::{Frame, Refusal, answer};
use super::session::{Fields, Posted, led_to};
use super::{sign_in_steps as steps, single_sign_on};
use crate::audit::Client;
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::tenancy::auth::{Begun, BrowserSession, LoginError, Operator, Session, SingleSignOn};

pub const PATH: &str = "/console/sign-in";
/// The cookie that binds the form of somebody who has no session yet.
pub(super) const BEFORE: &str = "console-form";

/// What a form says that was not this browser's.
const OTHER_FORM: &str =
    "Nothing was done: the form was of another session of the browser. Send this one.";
const NO_COOKIE: &str = "Nothing was done: the browser sent no cookie with the form. Allow cookies \
                         for this host; where PUBLIC_URL is https, open the console by https.";

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    frame: Frame,
    /// Why the last attempt failed.
    fault: Option<String>,
    form_token: String,
    next: String,
    email: String,
    /// The identity provider's host, and where its sign-in begins.
    provider: Option<(String, String)>,
    passwords: bool,
}

#[derive(Deserialize)]
pub struct Asked {
    /// The page to go on to.
    #[serde(default, deserialize_with = "filled")]
    next: Option<String>,
}

/// The browser before it has a session.
pub(super) fn browser(console: &Console, headers: &HeaderMap) -> BrowserSession {
    let kept = console.cookie.read(BEFORE, headers);
    let kept = kept.filter(|kept| kept.len() == 64 && kept.bytes().all(|b| b.is_ascii_hexdigit()));
    let new = || hex::encode(rand::random::<[u8; 32]>());
    BrowserSession::new(kept.unwrap_or_else(new))
}

/// The form, which keeps the browser's value of before: other tabs have it as well.
fn form(
    console: &Console,
    headers: &HeaderMap,
    status: StatusCode,
    fault: Option<String>,
    next: &str,
    email: &str,
) -> Response {
    let browser = browser(console, headers);
    let sign_in = SignIn {
        frame: Frame::of("Sign in"),
        fault,
        form_token: browser.form_token(),
        next: next.to_owned(),
        email: email.to_owned(),
        provider: console.single_sign_on.as_ref().map(|provider| {
            let begins = address(single_sign_on::PATH, &[("next", Some(next))]);
            (provider.host(), begins)
        }),
        passwords: console
            .single_sign_on
            .as_ref()
            .is_none_or(SingleSignOn::allows_passwords),
    };
    let mut response = answer(status, &sign_in);
    set(&mut response, &console.cookie.set(BEFORE, browser.token()));
    response
}

pub(super) fn set(response: &mut Response, cookie: &str) {
    let cookie = HeaderValue::try_from(cookie).expect("a cookie is plain text");
    response.headers_mut().append(header::SET_COOKIE, cookie);
}

pub async fn page(
    State(console): State<Arc<Console>>,
    operator: Option<Extension<Operator>>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    let next = own(asked.next.as_deref());
    match operator {
        Some(_) => led_to(next),
        None => form(&console, &headers, StatusCode::OK, None, next, ""),
    }
}

/// Longer ones leave no room for the rest of what a cookie seals.
const LONGEST_NEXT: usize = 1_024;

/// A page of the console, and of no other site.
pub(super) fn own(next: Option<&str>) -> &str {
    let own = |next: &&str| {
        let rest = next.strip_prefix("/console");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
            && next.len() <= LONGEST_NEXT
            && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
    };
    next.filter(own).unwrap_or("/console")
}

pub async fn sign_in(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Client>,
    operator: Option<Extension<Operator>>,
    request: Request,
) -> Result<Response, Refusal> {
    let headers = request.headers().clone();
    let before = console.cookie.read(BEFORE, &headers);
    let before = before.map(BrowserSession::new);
    let mut fields = match &before {
        Some(_) => Fields::of(request).await?,
        None => Fields::none(),
    };
    let next = own(fields.get("next")).to_owned();
    let token = fields.get("csrf").unwrap_or_default();
    if !before.as_ref().is_some_and(|before| before.made(token)) {
        if operator.is_some() {
            return Ok(led_to(&next));
        }
        let fault = before.map_or(NO_COOKIE, |_| OTHER_FORM);
        let (status, fault) = (StatusCode::FORBIDDEN, Some(fault.to_owned()));
        return Ok(form(&console, &headers, status, fault, &next, ""));
    }
    let (email, password) = (fields.take("email"), fields.take("password"));
    let begun = console.login.rules().begin(&email, password, &client);
    match begun.await {
        Ok(Begun::SignedIn(session)) if session.role.is_operator() => {
            entered(&console, &headers, &client, &session, &next).await
        }
        Ok(Begun::SignedIn(session)) => {
            console.login.log_out(&session.token, &client).await?;
            let fault = "This account is no operator's: it belongs to an organization, and sees it in \
                         the product. An operator is made with `valuecanvas-billing users create --role \
                         operator`.";
            let (status, fault) = (StatusCode::FORBIDDEN, Some(fault.to_owned()));
            Ok(form(&console, &headers, status, fault, &next, &email))
        }
        Ok(Begun::CodeDue(pending)) => Ok(steps::led(&console, steps::CODE, &pending, &next)),
        Ok(Begun::EnrolmentDue(pending)) => {
            Ok(steps::led(&console, steps::ENROLMENT, &pending, &next))
        }
        Err(error) => refused(&console, &headers, error, &next, &email),
    }
}

/// Gives the browser its session, and ends what it had before.
pub(super) async fn entered(
    console: &Console,
    headers: &HeaderMap,
    client: &Client,
    session: &Session,
    next: &str,
) -> Result<Response, Refusal> {
    let mut response = led_to(next);
    enter(console, headers, client, session, &mut response).await?;
    Ok(response)
}

/// The same with an answer that is more than the way on.
pub(super) async fn enter(
    console: &Console,
    headers: &HeaderMap,
    client: &Client,
    session: &Session,
    response: &mut Response,
) -> Result<(), Refusal> {
    if let Some(former) = console.cookie.read(BrowserSession::COOKIE, headers) {
        console.login.log_out(&former, client).await?;
    }
    let cookie = console.cookie;
    set(
        response,
        &cookie.set(BrowserSession::COOKIE, &session.token),
    );
    set(response, &cookie.clear(steps::COOKIE));
    Ok(())
}

fn refused(
    console: &Console,
    headers: &HeaderMap,
    error: LoginError,
    next: &str,
    email: &str,
) -> Result<Response, Refusal> {
    let (status, fault) = match &error {
        LoginError::InvalidCredentials => (
            StatusCode::UNAUTHORIZED,
            "Wrong e-mail address or password.".to_owned(),
        ),
        LoginError::Throttled { retry_after_secs } => (
            StatusCode::TOO_MANY_REQUESTS,
            format!("Too many failed attempts. Try again in {retry_after_secs} seconds."),
        ),
        LoginError::Busy => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many people sign in at the moment. Try again.".to_owned(),
        ),
        LoginError::ByProviderOnly => (
            StatusCode::FORBIDDEN,
            "Operators sign in by the identity provider here, and by no password.".to_owned(),
        ),
        LoginError::WrongCode
        | LoginError::CodeNeeded
        | LoginError::NoSecondFactor
        | LoginError::BeginAgain => (
            StatusCode::UNAUTHORIZED,
            "Something has changed meanwhile. Sign in again.".to_owned(),
        ),
        LoginError::Database(_) => return Err(Problem::from(error).into()),
    };
    Ok(form(console, headers, status, Some(fault), next, email))
}

pub async fn sign_out(
    State(console): State<Arc<Console>>,
    Posted { signed, .. }: Posted,
) -> Result<Response, Refusal> {
    let client = &signed.operator.client;
    console
        .login
        .log_out(signed.session.token(), client)
        .await?;
    let mut response = led_to(PATH);
    set(&mut response, &console.cookie.clear(BrowserSession::COOKIE));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn one_is_led_to_our_own_pages_alone() {
        for page in ["/console", "/console?a=b", "/console/webhooks/evt_1"] {
            assert_eq!(own(Some(page)), page);
        }
        for foreign in [
            "",
            "/",
            "//example.com",
            "https://example.com/console",
            "/console.example.com",
            "/console\\evil",
            "/console/\n",
            &format!("/console?a={}", "b".repeat(1_024)),
        ] {
            assert_eq!(own(Some(foreign)), "/console");
        }
        assert_eq!(own(None), "/console");
    }
}
