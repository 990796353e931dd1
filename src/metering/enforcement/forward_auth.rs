//! What a proxy asks for: a metric and an amount.
//!
//! The proxy says it in the query of the address that it is configured with.
//! nginx, Traefik and Envoy hand the headers of their clients on, and Envoy
//! appends a client's path and query to its own, so neither is believed:
//! headers only where the operator says that the proxy sets them
//! (`ENFORCE_TRUST_HEADERS`), and nothing of what comes after `uri=`.

use axum::http::{HeaderMap, StatusCode, Uri};
use billing_domain::quantity;
use rust_decimal::Decimal;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::server::extract::parse_query;
use crate::server::problem::Problem;

const METRIC: &str = "x-quota-metric";
const AMOUNT: &str = "x-quota-amount";
/// The parameter that ends what the proxy says.
const REST: &str = "uri";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// The metric's name.
    metric: Option<String>,
    /// A decimal number above 0; absent: 1.
    amount: Option<String>,
    /// Makes it safe to ask again: with one id it is counted once.
    id: Option<String>,
    /// Whether it is counted if it is allowed.
    #[serde(default = "counted")]
    #[param(default = true)]
    consume: bool,
    /// Last: the address that the proxy's client asks for. All that follows is
    /// the client's, and is not looked at.
    #[expect(dead_code, reason = "it describes what `operators_part` cuts off")]
    uri: Option<String>,
}

fn counted() -> bool {
    true
}

/// What is asked.
pub struct Asked {
    pub metric: String,
    pub amount: Decimal,
    pub id: Option<String>,
    pub consume: bool,
}

impl Asked {
    /// Reads a proxy's request. `below`: its path goes on with its client's.
    pub fn of(
        uri: &Uri,
        headers: &HeaderMap,
        below: bool,
        trust_headers: bool,
    ) -> Result<Self, Problem> {
        let no_headers = HeaderMap::new();
        let headers = if trust_headers { headers } else { &no_headers };
        // With the path, the query is the client's as well.
        let query = if below && headers.contains_key(METRIC) {
            parse_query(&Uri::from_static("/"))?
        } else {
            parse_query(&operators_part(uri))?
        };
        let Query {
            metric,
            amount,
            id,
            consume,
            ..
        } = query;
        let metric = match metric {
            Some(metric) => metric,
            None => single(headers, METRIC)?.ok_or_else(|| no_metric(trust_headers))?,
        };
        let amount = match amount {
            Some(amount) => amount,
            None => single(headers, AMOUNT)?.unwrap_or_else(|| "1".to_owned()),
        };
        Ok(Self {
            metric,
            amount: positive(&amount)?,
            id,
            consume,
        })
    }
}

/// The query up to `uri=`.
fn operators_part(uri: &Uri) -> Uri {
    let query = uri.query().unwrap_or_default();
    let own: Vec<&str> = query
        .split('&')
        .take_while(|pair| pair.split('=').next() != Some(REST))
        .collect();
    let target = format!("/?{}", own.join("&"));
    target.parse().expect("a part of a query is a query")
}

/// A header that the proxy sets: twice, and one of them is its client's.
fn single(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.map(|text| Some(text.to_owned())).ok_or_else(|| {
        let detail =
            format!("send {name} once, as plain text; the proxy must replace its client's");
        Problem::new(StatusCode::BAD_REQUEST, "invalid_header", detail)
    })
}

fn positive(text: &str) -> Result<Decimal, Problem> {
    let invalid = |said: String| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid_quantity",
            format!("amount: {said}"),
        )
    };
    let amount = quantity::parse(text).map_err(|error| invalid(error.to_string()))?;
    if amount.is_zero() {
        return Err(invalid(
            "a call uses something; send more than 0".to_owned(),
        ));
    }
    Ok(amount)
}

fn no_metric(trust_headers: bool) -> Problem {
    let detail = if trust_headers {
        "name the metric: ?metric=api_calls, or the header X-Quota-Metric"
    } else {
        "name the metric in the query: ?metric=api_calls (the header X-Quota-Metric is read only \
         with ENFORCE_TRUST_HEADERS=true)"
    };
    Problem::new(StatusCode::BAD_REQUEST, "metric_missing", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str, headers: &[(&'static str, &str)], trust: bool) -> Result<String, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let uri: Uri = uri.parse().unwrap();
        let below = uri.path() != "/api/enforce";
        Asked::of(&uri, &map, below, trust)
            .map(|asked| format!("{} {} {}", asked.metric, asked.amount, asked.consume))
    }

    #[test]
    fn what_a_client_adds_changes_nothing() {
        const PINNED: &str = "/api/enforce?metric=api_calls&amount=2";
        let headers = [(METRIC, "storage_gb"), (AMOUNT, "0")];
        assert_eq!(asked(PINNED, &headers, false).unwrap(), "api_calls 2 true");
        assert_eq!(asked(PINNED, &headers, true).unwrap(), "api_calls 2 true");
        for tail in [
            "/x?amount=0",
            "/x?consume=false&id=1",
            "/x?&metric=a&metric=b",
            "/&uri=/y&amount=9",
        ] {
            let target = format!("{PINNED}&uri={tail}");
            assert_eq!(
                asked(&target, &headers, false).unwrap(),
                "api_calls 2 true",
                "{tail}"
            );
        }
        let twice = format!("{PINNED}&amount=1");
        assert_eq!(
            asked(&twice, &[], false).unwrap_err().code(),
            "invalid_query"
        );
    }

    #[test]
    fn headers_count_where_the_operator_says_so() {
        let headers = [(METRIC, "api_calls"), (AMOUNT, "3")];
        for target in ["/api/enforce", "/api/enforce/tools/x"] {
            let refused = asked(target, &headers, false).unwrap_err();
            assert_eq!(refused.code(), "metric_missing");
            assert_eq!(asked(target, &headers, true).unwrap(), "api_calls 3 true");
        }
        // Below, path and query are the client's.
        let target = "/api/enforce/x?metric=other&amount=0.1&consume=false&q=1";
        assert_eq!(asked(target, &headers, true).unwrap(), "api_calls 3 true");
        let twice = [(METRIC, "api_calls"), (AMOUNT, "3"), (AMOUNT, "0.1")];
        assert_eq!(
            asked("/api/enforce", &twice, true).unwrap_err().code(),
            "invalid_header"
        );
    }

    #[test]
    fn no_amount_is_none_at_all() {
        for amount in ["0", "0.0", "-0", "0.00001", "-1", "", "1e3", "NaN"] {
            let target = format!("/api/enforce?metric=api_calls&amount={amount}");
            let refused = asked(&target, &[], false).unwrap_err();
            assert_eq!(refused.code(), "invalid_quantity", "{amount}");
        }
        let headers = [(METRIC, "api_calls"), (AMOUNT, "0")];
        let refused = asked("/api/enforce", &headers, true).unwrap_err();
        assert_eq!(refused.code(), "invalid_quantity");
    }
}
