//! Request ids: `X-Request-Id`, in and out, and in every line that a request
//! logs.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const MAX_LENGTH: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// What a request is called: by its sender, else by us. A request's extension.
#[derive(Debug, Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The sender's id where it is one: letters, digits and `-_.:+/=`.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(HEADER);
        match given.filter(|value| is_sane(value.as_bytes())) {
            Some(value) => Self(value.clone()),
            None => Self::new(),
        }
    }

    /// That of the request which is being answered, if one is.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Answers a request under this id.
    pub async fn during<F: Future>(self, answering: F) -> F::Output {
        CURRENT.scope(self, answering).await
    }

    fn new() -> Self {
        let mut buffer = Uuid::encode_buffer();
        let text = Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        Self(HeaderValue::from_str(text).expect("a UUID is plain text"))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("it was checked")
    }

    pub fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

fn is_sane(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte);
    (1..=MAX_LENGTH).contains(&id.len()) && id.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        for sane in ["req_1", "7a/b:c+d=", &"x".repeat(128)] {
            assert_eq!(of(sane.as_bytes()).as_str(), sane);
        }
        for odd in ["", "a b", "<script>", "\u{e9}", "a\tb", &"x".repeat(129)] {
            let id = of(odd.as_bytes());
            assert!(Uuid::parse_str(id.as_str()).is_ok(), "{odd:?}");
        }
    }
}
