//! Where Stripe's pages may send a customer when they are done: the product's
//! address, or one of an origin that the operator lists. Anything else would let
//! whoever calls the API send customers elsewhere under Stripe's name.

use axum::http::StatusCode;
use reqwest::Url;
use serde_json::json;

use super::problem::{Problem, shown};
use crate::config::AddressConfig;

/// The longest address; Stripe takes 5,000 characters, other software fewer.
const MAX_BYTES: usize = 2_000;

/// The origins that may be returned to, and the address by default.
#[derive(Debug, Clone, Default)]
pub struct ReturnAddresses {
    default: Option<String>,
    origins: Vec<Url>,
}

impl ReturnAddresses {
    pub fn new(config: &AddressConfig) -> Self {
        Self {
            default: config.application.as_ref().map(Url::to_string),
            origins: config.return_origins.clone(),
        }
    }

    /// The address by default, if there is one.
    pub fn default_address(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// The address to return to: the one that `field` names, or the product's.
    pub fn choose(&self, field: &'static str, named: Option<&str>) -> Result<String, Problem> {
        let Some(named) = named else {
            return self.default.clone().ok_or_else(|| required(field));
        };
        let parsed = parse(named).filter(|url| self.allows(url));
        match parsed {
            // As it was written: Stripe replaces {CHECKOUT_SESSION_ID} in it.
            Some(_) => Ok(named.to_owned()),
            None => Err(self.refused(field, named)),
        }
    }

    fn allows(&self, url: &Url) -> bool {
        let origin = url.origin();
        origin.is_tuple() && self.origins.iter().any(|one| one.origin() == origin)
    }

    fn refused(&self, field: &'static str, named: &str) -> Problem {
        let what = match &self.origins[..] {
            [] => "the operator has named no origin to return to: set APPLICATION_URL".to_owned(),
            origins => {
                let origins = origins.iter().map(|one| one.origin().ascii_serialization());
                let origins: Vec<String> = origins.collect();
                format!(
                    "send a URL of {}, of at most {MAX_BYTES} characters, without user and \
                     password; the operator lists further origins in ALLOWED_RETURN_ORIGINS",
                    origins.join(" or ")
                )
            }
        };
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "return_url_not_allowed",
            format!("{field} may not be {}: {what}", shown(named)),
        )
        .with("field", json!(field))
    }
}

fn required(field: &'static str) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "return_url_required",
        format!("send {field}, since the operator has set no APPLICATION_URL to return to"),
    )
    .with("field", json!(field))
}

/// An address that every reader takes for the same one. What parsers repair
/// (backslashes, white space, missing slashes) some repair otherwise.
fn parse(text: &str) -> Option<Url> {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))?;
    let is_plain = |c: char| c.is_ascii_graphic() && c != '\\' || !c.is_ascii() && !c.is_control();
    let is_repaired = rest.starts_with('/') || text.contains(char::is_whitespace);
    if text.len() > MAX_BYTES || is_repaired || !text.chars().all(is_plain) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let names_user = authority.contains('@') || !url.username().is_empty();
    (!names_user && url.password().is_none()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(origins: &[&str]) -> ReturnAddresses {
        let origins: Vec<Url> = origins.iter().map(|one| Url::parse(one).unwrap()).collect();
        ReturnAddresses::new(&AddressConfig {
            application: origins.first().cloned(),
            return_origins: origins,
            public: None,
        })
    }

    #[test]
    fn addresses_of_an_allowed_origin_stay_as_they_were_written() {
        let allowed = addresses(&["https://app.example.com/billing", "http://localhost:5173"]);
        for good in [
            "https://app.example.com",
            "https://app.example.com:443/x",
            "https://APP.example.com/x",
            "https://app.example.com/done?session={CHECKOUT_SESSION_ID}&x=@#top",
            "http://localhost:5173/cards",
        ] {
            assert_eq!(allowed.choose("returnUrl", Some(good)).unwrap(), good);
        }
        let default = allowed.choose("returnUrl", None).unwrap();
        assert_eq!(default, "https://app.example.com/billing");
    }

    #[test]
    fn every_other_address_is_refused() {
        let allowed = addresses(&["https://app.example.com"]);
        let long = format!("https://app.example.com/{}", "a".repeat(MAX_BYTES));
        for bad in [
            "",
            "/relative",
            "//app.example.com",
            "https:app.example.com",
            "https:/app.example.com",
            "https:///app.example.com",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.example",
            "https://evil.example/https://app.example.com",
            "https://app.example.com@evil.example",
            "https://app.example.com:443@evil.example",
            "https://user@app.example.com",
            "https://user:pass@app.example.com",
            "https://@app.example.com",
            "https://evil.example\\@app.example.com",
            "https://app.example.com\\.evil.example",
            "https:\\\\app.example.com",
            "https://app.example.com/\\evil",
            " https://app.example.com",
            "https://app.example.com/a b",
            "https://app.example.com/\n",
            "https://app.example.com/\u{a0}",
            "https://app.example.com/\u{7f}",
            "ht\ttps://app.example.com",
            "javascript:alert(1)",
            "javascript://app.example.com/%0aalert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "https://аpp.example.com",
            "https://sub.app.example.com",
            "https://app.example.com.",
            &long,
        ] {
            let refused = allowed.choose("returnUrl", Some(bad)).unwrap_err();
            assert_eq!(refused.code(), "return_url_not_allowed", "{bad}");
        }
    }

    #[test]
    fn without_an_application_an_address_is_needed_and_none_is_allowed() {
        let none = ReturnAddresses::default();
        let missing = none.choose("successUrl", None).unwrap_err();
        assert_eq!(missing.code(), "return_url_required");
        let named = none
            .choose("successUrl", Some("https://a.example"))
            .unwrap_err();
        assert!(
            named.detail().contains("APPLICATION_URL"),
            "{}",
            named.detail()
        );
    }
}
