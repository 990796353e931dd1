//! Signing in with an address and a password, for organizations' own users. The form belongs
//! to the browser that got it, so that nobody can sign another's browser in.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::look::Around;
use super::visitor::Posted;
use super::{Portal, overview};
use crate::audit::Client;
use crate::pages::form::Fields;
use crate::pages::query::filled;
use crate::pages::{led_to, set_cookie};
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::tenancy::auth::{BrowserSession, LoginError, Principal, portal_sessions};

pub const PATH: &str = "/portal/sign-in";
/// The cookie of a browser that has not signed in.
const BEFORE: &str = "portal-sign-in";

const OTHER_FORM: &str = "This form is of another session. Send it again.";
const NO_COOKIE: &str = "Your browser has kept no cookie of this page, and signing in takes one. \
                         Allow it, and send the form again.";
const OPERATOR: &str = "This account is an operator's, and belongs to no organization: the console \
                        is at /console.";

#[derive(Template)]
#[template(path = "portal/sign_in.html")]
struct SignIn {
    around: Around,
    fault: Option<String>,
    form_token: String,
    next: String,
    email: String,
    product: Option<String>,
}

#[derive(Deserialize)]
pub struct Asked {
    /// The page to go on to.
    #[serde(default, deserialize_with = "filled")]
    next: Option<String>,
}

/// A form as it is shown: why again, where it leads, and who tries.
struct Shown<'a> {
    status: StatusCode,
    fault: Option<String>,
    next: &'a str,
    email: &'a str,
}

/// The form, which keeps the browser's value of before: other tabs have it as well.
fn form(portal: &Portal, headers: &HeaderMap, shown: Shown<'_>) -> Response {
    let kept = portal.cookie.read(BEFORE, headers);
    let kept = kept.filter(|kept| kept.len() == 64 && kept.bytes().all(|b| b.is_ascii_hexdigit()));
    let new = || hex::encode(rand::random::<[u8; 32]>());
    let browser = BrowserSession::new(kept.unwrap_or_else(new));
    let product = portal.addresses.default_address();
    let sign_in = SignIn {
        around: Around::of(&portal.look, None, "", "Sign in"),
        fault: shown.fault,
        form_token: browser.form_token(),
        next: shown.next.to_owned(),
        email: shown.email.to_owned(),
        product: product.map(str::to_owned),
    };
    let mut response = portal.look.answer(shown.status, &sign_in);
    let cookie = portal.cookie.set(BEFORE, browser.token());
    set_cookie(&mut response, &cookie);
    response
}

pub async fn page(
    State(portal): State<Arc<Portal>>,
    principal: Option<Extension<Principal>>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    let next = own(asked.next.as_deref());
    if principal.is_some() {
        return led_to(next);
    }
    let shown = Shown {
        status: StatusCode::OK,
        fault: None,
        next,
        email: "",
    };
    form(&portal, &headers, shown)
}

/// One of our own pages, and of no other site.
fn own(next: Option<&str>) -> &str {
    let own = |next: &&str| {
        let rest = next.strip_prefix(overview::PATH);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
            && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
    };
    next.filter(own).unwrap_or(overview::PATH)
}

pub async fn sign_in(
    State(portal): State<Arc<Portal>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Response {
    match signed_in(&portal, &client, request).await {
        Ok(response) => response,
        Err(problem) => portal.refused(None, &problem),
    }
}

async fn signed_in(
    portal: &Portal,
    client: &Client,
    request: Request,
) -> Result<Response, Problem> {
    let headers = request.headers().clone();
    let before = portal.cookie.read(BEFORE, &headers);
    let before = before.map(BrowserSession::new);
    let mut fields = match &before {
        Some(_) => Fields::of(request).await?,
        None => Fields::none(),
    };
    let next = own(fields.get("next")).to_owned();
    let token = fields.get("csrf").unwrap_or_default();
    if !before.as_ref().is_some_and(|before| before.made(token)) {
        let fault = before.map_or(NO_COOKIE, |_| OTHER_FORM);
        let shown = Shown {
            status: StatusCode::FORBIDDEN,
            fault: Some(fault.to_owned()),
            next: &next,
            email: "",
        };
        return Ok(form(portal, &headers, shown));
    }
    let (email, password) = (fields.take("email"), fields.take("password"));
    let refused = |(status, fault): (StatusCode, String)| {
        let shown = Shown {
            status,
            fault: Some(fault),
            next: &next,
            email: &email,
        };
        form(portal, &headers, shown)
    };
    let session = match portal
        .login
        .rules()
        .log_in(&email, password, None, client)
        .await
    {
        Ok(session) => session,
        Err(error) => return Ok(refused(why(error)?)),
    };
    if session.role.is_operator() {
        portal.login.log_out(&session.token, client).await?;
        return Ok(refused((StatusCode::FORBIDDEN, OPERATOR.to_owned())));
    }
    portal_sessions::signed_in(&portal.shared.pool, &session.token, client).await?;
    // What the browser had before ends with it.
    if let Some(former) = portal.cookie.read(BrowserSession::PORTAL_COOKIE, &headers) {
        portal_sessions::end(&portal.shared.pool, &former, client).await?;
    }
    let mut response = led_to(&next);
    let cookie = portal
        .cookie
        .set(BrowserSession::PORTAL_COOKIE, &session.token);
    set_cookie(&mut response, &cookie);
    Ok(response)
}

fn why(error: LoginError) -> Result<(StatusCode, String), Problem> {
    match error {
        LoginError::InvalidCredentials => Ok((
            StatusCode::UNAUTHORIZED,
            "Wrong e-mail address or password.".to_owned(),
        )),
        LoginError::Throttled { retry_after_secs } => Ok((
            StatusCode::TOO_MANY_REQUESTS,
            format!("Too many failed attempts. Try again in {retry_after_secs} seconds."),
        )),
        LoginError::Busy => Ok((
            StatusCode::TOO_MANY_REQUESTS,
            "Too many people sign in at the moment. Try again.".to_owned(),
        )),
        // What is asked of operators alone, once their password is right.
        LoginError::CodeNeeded
        | LoginError::WrongCode
        | LoginError::NoSecondFactor
        | LoginError::ByProviderOnly
        | LoginError::BeginAgain => Ok((StatusCode::FORBIDDEN, OPERATOR.to_owned())),
        LoginError::Database(_) => Err(error.into()),
    }
}

/// Ends the session. The page to sign in has the way back to the product.
pub async fn sign_out(
    State(portal): State<Arc<Portal>>,
    Extension(client): Extension<Client>,
    Posted { signed, .. }: Posted,
) -> Response {
    let token = signed.session.token();
    let ended = portal_sessions::end(&portal.shared.pool, token, &client).await;
    if let Err(error) = ended {
        return portal.refused(Some(&signed), &error.into());
    }
    let mut response = led_to(PATH);
    let cookie = portal.cookie.clear(BrowserSession::PORTAL_COOKIE);
    set_cookie(&mut response, &cookie);
    response
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn one_is_led_to_our_own_pages_alone() {
        for page in ["/portal", "/portal?a=b", "/portal/invoices/in_1"] {
            assert_eq!(own(Some(page)), page);
        }
        for foreign in [
            "",
            "/",
            "//example.com",
            "https://example.com/portal",
            "/portal.example.com",
            "/portal\\evil",
            "/portal/\n",
            "/console",
        ] {
            assert_eq!(own(Some(foreign)), "/portal");
        }
        assert_eq!(own(None), "/portal");
    }
}
