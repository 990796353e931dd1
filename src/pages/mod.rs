//! What the operators' and the customers' pages share: forms that only our own pages send,
//! addresses and times. It knows nothing of what a page shows.

pub mod form;
pub mod number;
pub mod query;
pub mod time;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

/// 303: the browser gets this page instead.
pub fn led_to(address: &str) -> Response {
    let address = HeaderValue::try_from(address);
    let address = address.unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, address)]).into_response()
}

/// Adds a cookie to an answer.
pub fn set_cookie(response: &mut Response, cookie: &str) {
    let cookie = HeaderValue::try_from(cookie).expect("a cookie is plain text");
    response.headers_mut().append(header::SET_COOKIE, cookie);
}

/// The address of a form that acts, with a key of its own: it is done once, however often the
/// form is sent.
pub fn once(action: &str) -> String {
    let key = hex::encode(rand::random::<[u8; 16]>());
    format!(
        "{action}?{}={key}",
        crate::server::layers::idempotency::OF_FORM
    )
}
