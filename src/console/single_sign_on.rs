//! Signing in by the operators' identity provider: there and back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::Console;
use super::query::filled;
use super::screen::{Refusal, Screen, Tone};
use super::session::led_to;
use super::sign_in::{self, own, set};
use super::webhooks::notice;
use crate::audit::Client;
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::tenancy::auth::{Answered, OIDC_CALLBACK, SignOnFailure, SingleSignOn};

pub const PATH: &str = "/console/sign-in/oidc";
pub const CALLBACK: &str = OIDC_CALLBACK;
/// The cookie with what the browser keeps until it comes back.
const COOKIE: &str = "console-oidc";

#[derive(Deserialize)]
pub struct Asked {
    #[serde(default, deserialize_with = "filled")]
    next: Option<String>,
}

pub async fn begin(
    State(console): State<Arc<Console>>,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let Some(provider) = &console.single_sign_on else {
        return Ok(led_to(sign_in::PATH));
    };
    match provider.begin(own(asked.next.as_deref())).await {
        Ok((address, kept)) => {
            let mut response = led_to(address.as_str());
            set(&mut response, &console.cookie.set(COOKIE, &kept));
            Ok(response)
        }
        Err(failure) => refused(&console, failure),
    }
}

pub async fn callback(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    Query(answered): Query<Answered>,
) -> Result<Response, Refusal> {
    let Some(provider) = &console.single_sign_on else {
        return Ok(led_to(sign_in::PATH));
    };
    let kept = console.cookie.read(COOKIE, &headers).unwrap_or_default();
    let mut response = match provider.finish(&kept, answered, &client).await {
        Ok((session, next)) => {
            let next = own(Some(&next));
            sign_in::entered(&console, &headers, &client, &session, next).await?
        }
        Err(failure) => refused(&console, failure)?,
    };
    // It is for one answer.
    set(&mut response, &console.cookie.clear(COOKIE));
    Ok(response)
}

/// A page that says why, and offers to try again.
fn refused(console: &Console, failure: SignOnFailure) -> Result<Response, Refusal> {
    let host = console.single_sign_on.as_ref().map(SingleSignOn::host);
    let host = host.unwrap_or_default();
    let (status, text) = match failure {
        SignOnFailure::Unavailable(reason) => (
            StatusCode::BAD_GATEWAY,
            format!(
                "{host} cannot be reached: {reason}. Try again in a moment. With OIDC_ALLOW_PASSWORDS=true \
                 operators can sign in with passwords meanwhile."
            ),
        ),
        SignOnFailure::Lies(reason) => (
            StatusCode::BAD_GATEWAY,
            format!(
                "What {host} says is not believed: {reason}. valuecanvas-billing doctor checks it."
            ),
        ),
        SignOnFailure::Refused(reason) => (
            StatusCode::FORBIDDEN,
            format!("{host} did not sign you in: {reason}."),
        ),
        SignOnFailure::BeginAgain => (
            StatusCode::FORBIDDEN,
            "This sign-in was begun in another browser, or more than ten minutes ago. Begin again."
                .to_owned(),
        ),
        SignOnFailure::Busy => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many sign-ins are under way, or came from your address. Begin again in a minute."
                .to_owned(),
        ),
        SignOnFailure::NoRole => (
            StatusCode::FORBIDDEN,
            format!(
                "{host} knows you, and none of your groups is that of operators \
                 (OIDC_OPERATOR_GROUP, OIDC_READONLY_GROUP)."
            ),
        ),
        SignOnFailure::Disabled => (
            StatusCode::FORBIDDEN,
            "Your account is disabled here; another operator can enable it.".to_owned(),
        ),
        SignOnFailure::Database(_) => {
            return Err(Problem::unavailable(
                "unavailable",
                "The database cannot be reached at the moment. Try again.",
            )
            .into());
        }
    };
    let said = notice(Tone::Bad, "You are not signed in", &text);
    Ok(Screen::outside("Sign in")
        .above(sign_in::PATH, "Sign in")
        .with(said)
        .answer_with(status))
}
