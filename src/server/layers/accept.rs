//! What a client would rather have, of what there is.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::server::problem::Problem;
use crate::tenancy::auth::is_forward_auth;

/// Answers that are JSON, or nothing, or a problem.
const JSON: [&str; 2] = ["application/json", "application/problem+json"];

/// Routes that have something else to offer, or answer somebody else's
/// request.
const OTHERS: [&str; 4] = [
    "/api/agents/execute",
    "/api/billing/audit-log",
    "/api/billing/invoices/{id}/pdf",
    "/docs",
];

/// The layer of the routes: refuses who would take nothing of what there is.
pub async fn offered(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let other =
        path.is_some_and(|path| OTHERS.contains(&path.as_str()) || is_forward_auth(path.as_str()));
    if other || choose(request.headers(), &JSON).is_some() {
        return next.run(request).await;
    }
    not_acceptable("application/json").into_response()
}

pub fn not_acceptable(offered: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_ACCEPTABLE,
        "not_acceptable",
        format!("there is {offered} here; send an Accept header that takes it, or none"),
    )
}

/// The offer that `Accept` puts first; of equals, the first. Without the
/// header that is the first; None: none is acceptable.
pub fn choose<'a>(headers: &HeaderMap, offers: &[&'a str]) -> Option<&'a str> {
    let ranges: Vec<Range> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(Range::parse)
        .collect();
    if ranges.is_empty() {
        return offers.first().copied();
    }
    let mut best: Option<(&str, u16)> = None;
    for offer in offers {
        let of_offer = ranges.iter().filter(|range| range.covers(offer));
        // The most exact range that covers it decides.
        let weight = of_offer.max_by_key(|range| range.exactness());
        let weight = weight.map_or(0, |range| range.thousandths);
        if weight > best.map_or(0, |(_, weight)| weight) {
            best = Some((offer, weight));
        }
    }
    best.map(|(offer, _)| offer)
}

/// A media range, such as `text/*;q=0.5`.
struct Range {
    kind: String,
    subtype: String,
    thousandths: u16,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
        });
        Some(Self {
            kind: kind.trim().to_ascii_lowercase(),
            subtype: subtype.trim().to_ascii_lowercase(),
            thousandths: weight.map_or(Some(1_000), thousandths)?,
        })
    }

    fn covers(&self, offer: &str) -> bool {
        let (kind, subtype) = offer.split_once('/').unwrap_or((offer, ""));
        (self.kind == "*" || self.kind == kind) && (self.subtype == "*" || self.subtype == subtype)
    }

    fn exactness(&self) -> u8 {
        u8::from(self.kind != "*") + u8::from(self.subtype != "*")
    }
}

/// `0.8` → 800: a weight has at most three digits after the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || part.len() > 3 {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn chosen(accept: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        choose(&headers, &["application/json", "text/csv"])
    }

    #[test]
    fn the_heaviest_and_most_exact_range_decides() {
        let json = Some("application/json");
        let csv = Some("text/csv");
        assert_eq!(choose(&HeaderMap::new(), &["a/b", "c/d"]), Some("a/b"));
        for (accept, offer) in [
            ("*/*", json),
            ("text/csv", csv),
            ("TEXT/CSV", csv),
            ("text/*", csv),
            ("text/html,application/xhtml+xml,*/*;q=0.8", json),
            ("application/json;q=0.5, text/csv;q=0.501", csv),
            ("*/*;q=1, application/json;q=0", csv),
            ("text/html", None),
            ("application/json;q=0", None),
            ("application/json;q=7, text/csv", csv),
            ("nonsense", json),
        ] {
            assert_eq!(chosen(accept), offer, "{accept}");
        }
    }
}
