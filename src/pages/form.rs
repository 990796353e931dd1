//! The fields of a form, which comes from a page of ours or is refused.

use std::collections::BTreeMap;

use axum::extract::{FromRequest as _, Request};
use axum::http::{HeaderMap, StatusCode, header};

use crate::server::extract::RawBody;
use crate::server::problem::Problem;

/// The fields of a form.
pub struct Fields(BTreeMap<String, String>);

/// A form of ours is smaller, and has fewer fields.
const LARGEST: u64 = 16 * 1024;
const MOST: usize = 200;

impl Fields {
    /// Reads a form that does not come from elsewhere: each field once, and no file.
    pub async fn of(request: Request) -> Result<Self, Problem> {
        if comes_from_elsewhere(request.headers()) {
            return Err(foreign());
        }
        // Browsers say how long a form is.
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_none_or(|length| length > LARGEST) {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "Nothing was done: the form is longer than any of these pages'.",
            ));
        }
        let RawBody(body) = RawBody::from_request(request, &()).await?;
        let fields: Vec<_> = form_urlencoded::parse(&body).into_owned().collect();
        // Some of them would be another form.
        if fields.len() > MOST {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "Nothing was done: the form has more fields than any of these pages'.",
            ));
        }
        Ok(Self(fields.into_iter().collect()))
    }

    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// The fields whose names begin so, by the rest of their names.
    pub fn beginning(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter();
        all.filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    pub fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }
}

/// Whether the browser says that another site sends this.
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    site.is_some_and(|site| site != "same-origin" && site != "none")
}

/// A form that is of no page of the present session.
pub fn foreign() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "form_expired",
        "Nothing was done: this form is not of your present session. Open its page again, and send \
         it from there.",
    )
}
