//! Keys, and what they go with.

use std::convert::Infallible;

use axum::extract::OptionalFromRequestParts;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::server::caller::Caller;
use crate::server::problem::Problem;

pub const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_LENGTH: usize = 255;

/// The key of the request at hand, unique in its organization: handlers take
/// `Option<Key>` and pass it on to where an effect must happen once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The one key of a request: 1 to 255 printable characters of ASCII.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(HEADER).iter();
        let value = values.next().filter(|_| values.next().is_none());
        let text = value.and_then(|value| value.to_str().ok());
        text.and_then(Self::parse).ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "idempotency_key_invalid",
                "send one Idempotency-Key of 1 to 255 printable ASCII characters, such as a UUID",
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        ((1..=MAX_LENGTH).contains(&text.len()) && printable).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Key {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// What makes two requests the same: who sends it, and what it says.
pub fn fingerprint(parts: &Parts, caller: &Caller, body: &[u8]) -> [u8; 32] {
    let target = parts.uri.path_and_query();
    let fields = [
        caller.kind,
        &caller.id.map(|id| id.to_string()).unwrap_or_default(),
        parts.method.as_str(),
        target.map_or("", |target| target.as_str()),
    ];
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update(format!("{}:{field}", field.len()));
    }
    if parts.headers.contains_key("ce-specversion") {
        // A CloudEvent in binary mode says in headers what it is.
        let mut said: Vec<_> = parts.headers.iter().collect();
        said.retain(|(name, _)| name.as_str().starts_with("ce-") || **name == CONTENT_TYPE);
        said.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in said {
            hasher.update(format!("{}:{name}{}:", name.as_str().len(), value.len()));
            hasher.update(value.as_bytes());
        }
    }
    hasher.update(body);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request};

    use uuid::Uuid;

    use super::*;

    fn of(values: &[&[u8]]) -> Result<Key, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        Key::of(&headers)
    }

    #[test]
    fn a_key_is_short_printable_and_alone() {
        for good in ["k", "9f1c 2", "\"quoted\"", &"x".repeat(255)] {
            assert_eq!(of(&[good.as_bytes()]).unwrap().as_str(), good);
        }
        let long = "x".repeat(256);
        let bad: [&[&[u8]]; 5] = [
            &[b""],
            &[long.as_bytes()],
            &[b"\xe9"],
            &[b"a\tb"],
            &[b"a", b"a"],
        ];
        for bad in bad {
            assert_eq!(of(bad).unwrap_err().code(), "idempotency_key_invalid");
        }
    }

    #[test]
    fn requests_are_the_same_in_everything_they_say() {
        let print = |(kind, id), method: &str, target: &str, body: &[u8]| {
            let request = Request::builder()
                .method(method)
                .uri(target)
                .body(())
                .unwrap();
            let organization_id = Uuid::nil();
            let caller = Caller {
                organization_id,
                kind,
                id: Some(Uuid::from_u128(id)),
            };
            fingerprint(&request.into_parts().0, &caller, body)
        };
        let user = ("user", 1);
        let prints = [
            print(user, "POST", "/a", b"1"),
            print(("user", 2), "POST", "/a", b"1"),
            print(("api_key", 1), "POST", "/a", b"1"),
            print(user, "PUT", "/a", b"1"),
            print(user, "POST", "/a?b", b"1"),
            print(user, "POST", "/a1", b""),
            print(user, "POST", "/a", b"2"),
        ];
        assert_eq!(prints[0], print(user, "POST", "/a", b"1"));
        for (n, one) in prints.iter().enumerate() {
            assert!(!prints[..n].contains(one), "{n}");
        }
    }

    #[test]
    fn a_cloud_event_in_binary_mode_is_what_its_headers_say() {
        let print = |mark: &str, id: &str, kind: &str| {
            let request = Request::post("/a")
                .header(mark, "1.0")
                .header("ce-id", id)
                .header("content-type", kind)
                .body(())
                .unwrap();
            let caller = Caller {
                organization_id: Uuid::nil(),
                kind: "user",
                id: None,
            };
            fingerprint(&request.into_parts().0, &caller, b"{}")
        };
        let (mark, json) = ("ce-specversion", "application/json");
        let one = print(mark, "1", json);
        assert_eq!(one, print(mark, "1", json));
        assert_ne!(one, print(mark, "2", json));
        assert_ne!(one, print(mark, "1", "text/json"));
        // Other requests are known by what they were known by.
        assert_eq!(print("x", "1", json), print("x", "2", json));
    }
}
