//! The URL of a forwarded call: its path unchanged, below the configured one.
//!
//! Upstreams normalize differently: some decode twice, read `\` as `/`, or drop
//! `;parameters`. A path that any of them could read as climbing out of the
//! configured address is rejected.

use axum::http::StatusCode;
use reqwest::Url;

use crate::server::problem::Problem;

/// Nested percent-encodings to decode; deeper nesting is rejected.
const MOST_LAYERS: usize = 8;

/// Full-width and small forms that lenient decoders read as a dot or a slash.
const LOOK_ALIKES: [(&str, &str); 8] = [
    ("\u{ff0e}", "."),
    ("\u{fe52}", "."),
    ("\u{2024}", "."),
    ("\u{2025}", ".."),
    ("\u{ff0f}", "/"),
    ("\u{2044}", "/"),
    ("\u{2215}", "/"),
    ("\u{ff3c}", "\\"),
];

/// Builds the URL of a call. `rest` is the raw path below the route's own, and
/// `query` the raw query string.
pub fn url(upstream: &Url, rest: Option<&str>, query: Option<&str>) -> Result<Url, Problem> {
    let mut url = upstream.clone();
    if let Some(rest) = rest {
        let base = upstream.path().trim_end_matches('/');
        if climbs(rest) || (base.is_empty() && rest.starts_with('/')) {
            return Err(rejected_path());
        }
        url.set_path(&format!("{base}/{rest}"));
        let below = url.path().strip_prefix(base);
        if !below.is_some_and(|below| below.starts_with('/') && !climbs(below)) {
            return Err(rejected_path());
        }
    }
    if let Some(query) = query {
        let both = match upstream.query() {
            Some(own) if names_one_of(query, upstream) => {
                return Err(fixed_parameters(own));
            }
            Some(own) => format!("{own}&{query}"),
            None => query.to_owned(),
        };
        url.set_query(Some(&both));
    }
    Ok(url)
}

/// Whether some upstream could find a dot segment or a NUL in the path.
fn climbs(path: &str) -> bool {
    // URIs have no backslash; a client that sends one does so deliberately.
    if path.contains('\\') {
        return true;
    }
    let mut layer = path.as_bytes().to_vec();
    for _ in 0..MOST_LAYERS {
        if has_dot_segment(&layer) {
            return true;
        }
        let decoded = decode(&layer);
        if decoded == layer {
            return false;
        }
        layer = decoded;
    }
    true
}

fn has_dot_segment(path: &[u8]) -> bool {
    let text = LOOK_ALIKES.iter().fold(
        String::from_utf8_lossy(path).into_owned(),
        |text, (from, to)| text.replace(from, to),
    );
    text.contains('\0')
        || text.split(['/', '\\']).any(|segment| {
            let name = segment.split(';').next().unwrap_or_default();
            matches!(
                name.trim_matches(|c: char| c.is_whitespace() || c.is_control()),
                "." | ".."
            )
        })
}

/// Removes one layer of percent-encoding like the most lenient decoder, which
/// accepts `%u002e` and overlong UTF-8 such as `%c0%ae`.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let digits = |from: usize, count: usize| {
            let text = std::str::from_utf8(path.get(from..from + count)?).ok()?;
            let hex = text.bytes().all(|digit| digit.is_ascii_hexdigit());
            hex.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let (decoded, length) = match (byte, path.get(at + 1)) {
            (b'%', Some(b'u' | b'U')) => (digits(at + 2, 4), 6),
            (b'%', _) => (digits(at + 1, 2), 3),
            _ => (None, 1),
        };
        match decoded {
            Some(code) if length == 3 => bytes.extend(u8::try_from(code)),
            Some(code) => {
                let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                bytes.extend(character.to_string().into_bytes());
            }
            None => bytes.push(byte),
        }
        at += if decoded.is_some() { length } else { 1 };
    }
    shortest(&bytes)
}

/// Replaces overlong UTF-8 forms of ASCII by the characters they encode.
fn shortest(bytes: &[u8]) -> Vec<u8> {
    let mut short = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let (byte, length) = match rest {
            [lead @ (0xc0 | 0xc1), next, ..] if is_continuation(*next) => {
                (((lead & 1) << 6) | (next & 0x3f), 2)
            }
            [0xe0, middle @ (0x80 | 0x81), next, ..] if is_continuation(*next) => {
                (((middle & 1) << 6) | (next & 0x3f), 3)
            }
            [0xf0, 0x80, middle @ (0x80 | 0x81), next, ..] if is_continuation(*next) => {
                (((middle & 1) << 6) | (next & 0x3f), 4)
            }
            _ => (*first, 1),
        };
        short.push(byte);
        rest = tail.get(length - 1..).unwrap_or_default();
    }
    short
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Whether a query names a parameter that the configured address sets.
fn names_one_of(query: &str, upstream: &Url) -> bool {
    let mut requested = upstream.clone();
    requested.set_query(Some(query));
    upstream
        .query_pairs()
        .any(|(own, _)| requested.query_pairs().any(|(name, _)| name == own))
}

fn rejected_path() -> Problem {
    Problem::not_found(
        "the path contains a dot segment, a backslash or a doubled slash, plain or encoded, and \
         is not forwarded; send the normalized path",
    )
}

fn fixed_parameters(own: &str) -> Problem {
    let names: Vec<&str> = own
        .split('&')
        .filter_map(|pair| pair.split('=').next())
        .collect();
    Problem::new(
        StatusCode::BAD_REQUEST,
        "unknown_field",
        format!(
            "remove from the query what this route sets itself: {}",
            names.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(rest: &str) -> Result<String, Problem> {
        let upstream = "http://127.0.0.1:9000/tools".parse().unwrap();
        url(&upstream, Some(rest), None).map(|url| url.path().to_owned())
    }

    #[test]
    fn a_path_is_passed_on_as_it_came() {
        for rest in [
            "a%2Fb",
            "a%5Cb",
            "%ff",
            "a//b",
            "/a",
            "a;v=1/b",
            "a%20b",
            "%25",
            "a.b",
            "...",
            ".well-known",
            "%E2%82%AC",
            "a%3Fb",
            "v1.2/x",
            "",
            "100%25",
            "a%",
            "..a",
            "a..",
            "%zz",
            "a:b@c",
            "%252F",
        ] {
            assert_eq!(path(rest).unwrap(), format!("/tools/{rest}"), "{rest}");
        }
    }

    #[test]
    fn a_path_that_some_upstream_reads_as_climbing_is_rejected() {
        for rest in [
            "..",
            ".",
            "../secret",
            "a/../../secret",
            "..%5csecret",
            "..%5Csecret",
            "%2e%2e/secret",
            "%2E%2e%2fsecret",
            ".%2e/secret",
            "%252e%252e/secret",
            "%25252e%25252e/secret",
            "..%2fsecret",
            "..%252fsecret",
            "..%255csecret",
            "..\\secret",
            "a\\b",
            "..;/secret",
            "..;x=1/secret",
            "..%3b/secret",
            "..%00/secret",
            "x%00",
            "..%20/secret",
            "%09../secret",
            "%c0%ae%c0%ae/secret",
            "..%c0%afsecret",
            "..%c1%9csecret",
            "%e0%80%ae%e0%80%ae/s",
            "%f0%80%80%ae./s",
            "%u002e%u002e/secret",
            "..%u2215",
            "%u002e./s",
            "%ef%bc%8e%ef%bc%8e/secret",
            "..%ef%bc%8fsecret",
            "%e2%80%a5/secret",
            "a/./b",
            "a/%2e",
            "%2525252525252525252525252e",
            "a%2f..%2f..%2fsecret",
        ] {
            let problem = path(rest).unwrap_err();
            assert_eq!(problem.status(), StatusCode::NOT_FOUND, "{rest}");
        }
    }

    #[test]
    fn a_host_is_not_named_by_a_path() {
        let upstream: Url = "http://127.0.0.1:9000".parse().unwrap();
        assert!(url(&upstream, Some("/evil.example/x"), None).is_err());
        let url = url(&upstream, Some("a//b"), None).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:9000/a//b");
    }

    #[test]
    fn a_query_adds_to_the_configured_one_and_replaces_nothing() {
        let upstream: Url = "http://127.0.0.1:9000/run?tenant=1".parse().unwrap();
        let with = |query| url(&upstream, None, Some(query)).map(|url| url.to_string());
        assert_eq!(
            with("a=%ff&b").unwrap(),
            "http://127.0.0.1:9000/run?tenant=1&a=%ff&b"
        );
        for query in ["tenant=2", "a=1&tenant", "t%65nant=2"] {
            assert_eq!(with(query).unwrap_err().code(), "unknown_field", "{query}");
        }
    }
}
