//! The way in: an address with a one-time code becomes a session.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde::Deserialize;

use super::Portal;
use super::look::{Around, Message, Notice, Tone};
use crate::audit::Client;
use crate::pages::{led_to, set_cookie};
use crate::server::budget::network;
use crate::server::extract::Query;
use crate::server::problem::Problem;
use crate::tenancy::auth::portal_routes::ENTER;
use crate::tenancy::auth::portal_sessions::{self, Unopened};
use crate::tenancy::auth::{BrowserSession, Credential, parse_portal_cookie};

pub const PATH: &str = ENTER;

/// How many codes that open nothing an address may try in a minute. Behind a proxy that is
/// not named in TRUSTED_PROXIES, an address stands for many.
const FAILURES: NonZeroU32 = NonZeroU32::new(60).expect("it is not zero");

/// After how many of them the addresses are forgotten that sent none lately.
const FORGOTTEN_AFTER: u32 = 4_096;

/// Counts codes that opened nothing, by the address that they came from; of IPv6, by its
/// network, whose owner has more addresses than we could count.
pub struct Failed {
    of: DefaultKeyedRateLimiter<IpAddr>,
    counted: AtomicU32,
}

impl Default for Failed {
    fn default() -> Self {
        Self {
            of: RateLimiter::keyed(Quota::per_minute(FAILURES)),
            counted: AtomicU32::new(0),
        }
    }
}

impl Failed {
    /// Counts one more; false if it is one too many.
    fn count(&self, client: &Client) -> bool {
        let from = client.ip.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), network);
        let counted = self.counted.fetch_add(1, Ordering::Relaxed);
        if counted % FORGOTTEN_AFTER == FORGOTTEN_AFTER - 1 {
            self.of.retain_recent();
            self.of.shrink_to_fit();
        }
        self.of.check_key(&from).is_ok()
    }
}

#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    code: Option<String>,
}

pub async fn enter(
    State(portal): State<Arc<Portal>>,
    Extension(client): Extension<Client>,
    method: Method,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    // What only looks ahead opens nothing: the code is for who goes there.
    if method != Method::GET || looks_ahead(&headers) {
        return StatusCode::NO_CONTENT.into_response();
    }
    let code = asked.code.unwrap_or_default();
    let opened = portal_sessions::open(&portal.shared.pool, &portal.codes, &code, &client);
    match opened.await {
        Ok(Ok(token)) => entered(&portal, (&headers, &client), &token).await,
        Ok(Err(why)) => match portal.failed.count(&client) {
            true => unopened(&portal, &headers, why),
            false => {
                let problem = Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limited",
                    "Too many links that open nothing came from your address. Wait a minute.",
                );
                portal.refused(None, &problem.retry_after(60))
            }
        },
        Err(problem) => portal.refused(None, &problem),
    }
}

/// Whether the browser fetches it before anybody has asked for it.
fn looks_ahead(headers: &HeaderMap) -> bool {
    let says = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.contains("prefetch") || value.contains("prerender"))
    };
    says("sec-purpose") || says("purpose")
}

/// The browser gets the session, and what it had before ends.
async fn entered(
    portal: &Portal,
    (headers, client): (&HeaderMap, &Client),
    token: &str,
) -> Response {
    if let Some(former) = portal.cookie.read(BrowserSession::PORTAL_COOKIE, headers)
        && let Err(error) = portal_sessions::end(&portal.shared.pool, &former, client).await
    {
        // The code is used up: whoever is refused now cannot come by it again. The browser
        // has the former session no more, which ends at its time.
        tracing::warn!(%error, "the session that a browser had before could not be ended");
    }
    let mut response = led_to(super::overview::PATH);
    let cookie = portal.cookie.set(BrowserSession::PORTAL_COOKIE, token);
    set_cookie(&mut response, &cookie);
    response
}

fn unopened(portal: &Portal, headers: &HeaderMap, why: Unopened) -> Response {
    let (status, title, text) = match why {
        Unopened::Used => (
            StatusCode::GONE,
            "This link was used already",
            "Each link opens these pages once. Go back to the product, and open them from there.",
        ),
        Unopened::Expired => (
            StatusCode::GONE,
            "This link has expired",
            "It is good for a few minutes. Go back to the product, and open these pages from \
             there.",
        ),
        Unopened::Unknown => (
            StatusCode::NOT_FOUND,
            "This link opens nothing",
            "Perhaps a part of it is missing. Go back to the product, and open these pages from \
             there.",
        ),
    };
    let mut notice = Notice::new(Tone::Warn, "Nothing was opened", text);
    if let Some(product) = portal.addresses.default_address() {
        notice = notice.link(product, "Go to the product");
    }
    let has_session = portal.cookie.read(BrowserSession::PORTAL_COOKIE, headers);
    let has_session = has_session.as_deref().and_then(parse_portal_cookie);
    if let Some(Credential::Portal(_) | Credential::Session(_)) = has_session {
        notice = notice.link(super::overview::PATH, "Go on to the overview");
    }
    let message = Message {
        around: Around::of(&portal.look, None, "", title).with([notice]),
        lead: String::new(),
        back: None,
    };
    portal.look.answer(status, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let of = |ip: String| Client {
            ip: Some(ip.parse().unwrap()),
            user_agent: None,
        };
        let failed = Failed::default();
        let within = |n: u32| failed.count(&of(format!("2001:db8::{n:x}")));
        assert_eq!((1..100).filter(|n| within(*n)).count(), 60);
        assert!(failed.count(&of("2001:db8:0:1::1".to_owned())));
        assert_eq!(failed.of.len(), 2);
    }
}
