//! The media types that a client takes and sends, against those that a route
//! produces and consumes.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};

use crate::server::problem::Problem;
use crate::server::routes::{JSON, Route};

pub const CSV: &str = "text/csv";
pub const CLOUD_EVENT: &str = "application/cloudevents+json";
/// Every answer may turn out to be one.
const PROBLEM: &str = "application/problem+json";

/// The media type that an answer is to have, where its route has several. An
/// extension of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted(pub String);

/// Chooses what the client would rather have, of what the route produces, and
/// refuses who would take nothing of it.
pub fn negotiate(route: &Route, request: &mut Request) -> Result<(), Problem> {
    let produced = &route.produces;
    let Some(first) = produced.first() else {
        return Ok(());
    };
    let offers = produced.iter().map(String::as_str).chain([PROBLEM]);
    let chosen = choose(request.headers(), offers).ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            "not_acceptable",
            format!("This endpoint only produces {}.", produced.join(" and ")),
        )
    })?;
    if produced.len() > 1 {
        let chosen = if chosen == PROBLEM { first } else { chosen };
        let wanted = Wanted(chosen.to_owned());
        request.extensions_mut().insert(wanted);
    }
    Ok(())
}

impl Wanted {
    pub fn is(&self, kind: &str) -> bool {
        self.0 == kind
    }
}

/// Refuses a body that says it is something else than the route consumes.
pub fn check_body(route: &Route, headers: &HeaderMap) -> Result<(), Problem> {
    let consumed = &route.consumes;
    if consumed.is_empty() {
        return Ok(());
    }
    if route.body_optional && !headers.contains_key(header::CONTENT_TYPE) && has_no_body(headers) {
        return Ok(());
    }
    let sent = essence(headers);
    let is_json = |sent: &str| {
        let subtype = sent.strip_prefix("application/").unwrap_or_default();
        subtype.ends_with("+json")
    };
    // CloudEvents' SDKs leave the type of data out, which then is JSON.
    let is_event = headers.contains_key("ce-specversion")
        && consumed.iter().any(|kind| kind == CLOUD_EVENT)
        && (sent.is_empty() || is_json(&sent));
    let known = is_event || consumed.contains(&sent) || (consumed[..] == [JSON] && is_json(&sent));
    if known {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!(
            "This endpoint only accepts a body of {}; say so in Content-Type.",
            consumed.join(" or ")
        ),
    ))
}

fn has_no_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    let empty = length.is_none_or(|length| length == "0");
    empty && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// The media type of a body, without parameters and in small letters.
pub fn essence(headers: &HeaderMap) -> String {
    let sent = headers.get(header::CONTENT_TYPE);
    let sent = sent
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = sent.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// The offer that `Accept` puts first; of equals, the first. Without the
/// header that is the first; None: none is acceptable.
pub fn choose<'a>(
    headers: &HeaderMap,
    mut offers: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let ranges: Vec<Range> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(Range::parse)
        .collect();
    if ranges.is_empty() {
        return offers.next();
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
        choose(&headers, [JSON, CSV].into_iter())
    }

    #[test]
    fn the_heaviest_and_most_exact_range_decides() {
        let json = Some("application/json");
        let csv = Some("text/csv");
        assert_eq!(
            choose(&HeaderMap::new(), ["a/b", "c/d"].into_iter()),
            Some("a/b")
        );
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
