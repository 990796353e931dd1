//! Parses what a proxy asks about: a metric and an amount, a feature, or both.
//!
//! They come from the query of the address the proxy is configured with. nginx,
//! Traefik and Envoy pass on their clients' headers, and Envoy appends the
//! client's path and query to its own, so neither is trusted: headers count only
//! if the operator says that the proxy sets them (`ENFORCE_TRUST_HEADERS`), and
//! everything after `uri=` is ignored.

use axum::http::{HeaderMap, StatusCode, Uri};
use billing_domain::quantity;
use rust_decimal::Decimal;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::server::extract::parse_query;
use crate::server::problem::Problem;

const METRIC: &str = "x-quota-metric";
const AMOUNT: &str = "x-quota-amount";
const FEATURE: &str = "x-quota-feature";
/// The parameter after which the client's part of the query begins.
const CLIENT_URI: &str = "uri";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// The metric's name. Without one, a feature is needed, and nothing is counted.
    metric: Option<String>,
    /// A feature that the organization must have besides.
    feature: Option<String>,
    /// A decimal number greater than 0; defaults to 1.
    amount: Option<String>,
    /// Makes retries safe: usage with the same id is counted once.
    id: Option<String>,
    /// Whether to count the usage if it is allowed.
    #[serde(default = "consume_by_default")]
    #[param(default = true)]
    consume: bool,
    /// The address the proxy's client requested. It must come last: everything
    /// after it belongs to the client and is ignored.
    #[expect(dead_code, reason = "it documents what `operators_part` cuts off")]
    uri: Option<String>,
}

fn consume_by_default() -> bool {
    true
}

/// A proxy's question: about a use, a feature, or both.
pub struct ForwardAuthRequest {
    pub metered: Option<Use>,
    pub feature: Option<String>,
}

/// The use of a metric.
pub struct Use {
    pub metric: String,
    pub amount: Decimal,
    pub id: Option<String>,
    pub consume: bool,
}

impl ForwardAuthRequest {
    /// Parses a proxy's request; `below` if the client's path follows the
    /// proxy's own.
    pub fn parse(
        uri: &Uri,
        headers: &HeaderMap,
        below: bool,
        trust_headers: bool,
    ) -> Result<Self, Problem> {
        let no_headers = HeaderMap::new();
        let headers = if trust_headers { headers } else { &no_headers };
        // If the path is the client's, so is the query.
        let by_headers = headers.contains_key(METRIC) || headers.contains_key(FEATURE);
        let query = if below && by_headers {
            parse_query(&Uri::from_static("/"))?
        } else {
            parse_query(&operators_part(uri))?
        };
        let Query {
            metric,
            feature,
            amount,
            id,
            consume,
            ..
        } = query;
        let feature = match feature {
            Some(feature) => Some(feature),
            None => single(headers, FEATURE)?,
        };
        let metric = match metric {
            Some(metric) => Some(metric),
            None => single(headers, METRIC)?,
        };
        let Some(metric) = metric else {
            // An amount or an id would count nothing.
            if feature.is_none() || amount.is_some() || id.is_some() {
                return Err(no_metric(trust_headers));
            }
            return Ok(Self {
                metered: None,
                feature,
            });
        };
        let amount = match amount {
            Some(amount) => amount,
            None => single(headers, AMOUNT)?.unwrap_or_else(|| "1".to_owned()),
        };
        let metered = Use {
            metric,
            amount: positive(&amount)?,
            id,
            consume,
        };
        Ok(Self {
            metered: Some(metered),
            feature,
        })
    }
}

/// The part of the query before `uri=`.
fn operators_part(uri: &Uri) -> Uri {
    let query = uri.query().unwrap_or_default();
    let own: Vec<&str> = query
        .split('&')
        .take_while(|pair| pair.split('=').next() != Some(CLIENT_URI))
        .collect();
    let target = format!("/?{}", own.join("&"));
    target.parse().expect("a part of a query is a query")
}

/// Reads a header that the proxy sets. If it comes twice, one is the client's.
fn single(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.map(|text| Some(text.to_owned())).ok_or_else(|| {
        let detail =
            format!("send {name} once, as plain text; the proxy must replace its client's header");
        Problem::new(StatusCode::BAD_REQUEST, "invalid_header", detail)
    })
}

fn positive(text: &str) -> Result<Decimal, Problem> {
    let invalid = |reason: String| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid_quantity",
            format!("amount: {reason}"),
        )
    };
    let amount = quantity::parse(text).map_err(|error| invalid(error.to_string()))?;
    if amount.is_zero() {
        return Err(invalid("expected a number greater than 0".to_owned()));
    }
    Ok(amount)
}

fn no_metric(trust_headers: bool) -> Problem {
    let detail = if trust_headers {
        "name the metric: ?metric=api_calls, or the header X-Quota-Metric; or a feature alone, \
         without amount and id: ?feature=sso"
    } else {
        "name the metric in the query: ?metric=api_calls (the header X-Quota-Metric is read only \
         with ENFORCE_TRUST_HEADERS=true); or a feature alone, without amount and id: ?feature=sso"
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
        ForwardAuthRequest::parse(&uri, &map, below, trust).map(|asked| {
            let metered = asked
                .metered
                .map(|used| format!("{} {} {}", used.metric, used.amount, used.consume));
            let words = metered.into_iter().chain(asked.feature);
            words.collect::<Vec<String>>().join(" ")
        })
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
        // Below the proxy's own path, path and query are the client's.
        let target = "/api/enforce/x?metric=other&amount=0.1&consume=false&q=1";
        assert_eq!(asked(target, &headers, true).unwrap(), "api_calls 3 true");
        let twice = [(METRIC, "api_calls"), (AMOUNT, "3"), (AMOUNT, "0.1")];
        assert_eq!(
            asked("/api/enforce", &twice, true).unwrap_err().code(),
            "invalid_header"
        );
    }

    #[test]
    fn a_feature_is_needed_alone_or_besides() {
        let trusted = [(FEATURE, "sso")];
        let both = [(METRIC, "api_calls"), (FEATURE, "sso")];
        for (target, headers, trust, read) in [
            ("/api/enforce?feature=sso", &[][..], false, "sso"),
            (
                "/api/enforce?feature=sso&metric=api_calls",
                &[],
                false,
                "api_calls 1 true sso",
            ),
            (
                "/api/enforce?feature=sso&uri=/x?feature=free",
                &[],
                false,
                "sso",
            ),
            (
                "/api/enforce?metric=api_calls",
                &trusted,
                false,
                "api_calls 1 true",
            ),
            (
                "/api/enforce?metric=api_calls",
                &trusted,
                true,
                "api_calls 1 true sso",
            ),
            ("/api/enforce?feature=export", &trusted, true, "export"),
            // Below the proxy's own path, the query is the client's.
            ("/api/enforce/x?feature=free&q=1", &trusted, true, "sso"),
            (
                "/api/enforce/x?feature=free&q=1",
                &both,
                true,
                "api_calls 1 true sso",
            ),
        ] {
            assert_eq!(asked(target, headers, trust).unwrap(), read, "{target}");
        }
        for target in [
            "/api/enforce?feature=sso&amount=1",
            "/api/enforce?feature=sso&id=1",
        ] {
            let refused = asked(target, &[], false).unwrap_err();
            assert_eq!(refused.code(), "metric_missing", "{target}");
        }
        let twice = [(FEATURE, "sso"), (FEATURE, "export")];
        let refused = asked("/api/enforce", &twice, true).unwrap_err();
        assert_eq!(refused.code(), "invalid_header");
    }

    #[test]
    fn an_amount_is_a_decimal_greater_than_zero() {
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
