//! Settings of addresses: where the product is, and where this service is
//! reached from outside.

use std::net::SocketAddr;

use clap::Args;
use reqwest::Url;

use super::{ConfigError, given};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Service")]
pub struct AddressArgs {
    /// Where the product is: Stripe's pages lead back there unless a request names
    /// another address.
    #[arg(long, env = "APPLICATION_URL")]
    application_url: Option<String>,
    /// Further origins (https://host) that requests may name as return addresses,
    /// comma separated.
    #[arg(long, env = "ALLOWED_RETURN_ORIGINS")]
    allowed_return_origins: Option<String>,
    /// Where this service is reached from outside; unset: http://LISTEN_ADDR.
    #[arg(long, env = "PUBLIC_URL")]
    public_url: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct AddressConfig {
    /// `None`: requests must name their return addresses.
    pub application: Option<Url>,
    /// The origins that return addresses may have, that of the application first.
    pub return_origins: Vec<Url>,
    /// `None`: the address of the listener.
    pub public: Option<Url>,
}

impl AddressArgs {
    pub fn check(&self) -> Result<AddressConfig, ConfigError> {
        let application = given(self.application_url.as_deref())
            .map(|text| address("APPLICATION_URL", text))
            .transpose()?;
        let list = given(self.allowed_return_origins.as_deref()).into_iter();
        let further = list.flat_map(|list| list.split(','));
        let further = further.map(str::trim).filter(|origin| !origin.is_empty());
        let further: Vec<Url> = further.map(origin).collect::<Result<_, _>>()?;
        Ok(AddressConfig {
            return_origins: application.iter().cloned().chain(further).collect(),
            application,
            public: given(self.public_url.as_deref())
                .map(|text| address("PUBLIC_URL", text))
                .transpose()?,
        })
    }
}

impl AddressConfig {
    /// Where this service is reached from outside.
    pub fn public_url(&self, listen_addr: SocketAddr) -> String {
        match &self.public {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("http://{listen_addr}"),
        }
    }
}

/// An http(s) URL that browsers can be sent to.
fn address(variable: &'static str, text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text).ok().filter(is_plain);
    url.filter(|url| url.fragment().is_none()).ok_or_else(|| {
        let problem = "is not an https:// or http:// URL without user, password and fragment";
        ConfigError::new(variable, problem)
    })
}

fn origin(text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text).ok().filter(is_plain);
    let is_bare =
        |url: &Url| url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    url.filter(is_bare).ok_or_else(|| {
        ConfigError::new(
            "ALLOWED_RETURN_ORIGINS",
            format!("expected https://host or https://host:port, got `{text}`"),
        )
    })
}

fn is_plain(url: &Url) -> bool {
    let is_web = matches!(url.scheme(), "http" | "https");
    is_web && url.has_host() && url.username().is_empty() && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(application: &str, origins: &str) -> AddressArgs {
        AddressArgs {
            application_url: Some(application.to_owned()),
            allowed_return_origins: Some(origins.to_owned()),
            public_url: None,
        }
    }

    #[test]
    fn the_application_and_further_origins_may_be_returned_to() {
        let checked = args(
            "https://app.example.com/billing",
            " https://b.example:8443, ,",
        );
        let found = checked.check().unwrap();
        let origins: Vec<String> = found
            .return_origins
            .iter()
            .map(|url| url.origin().ascii_serialization())
            .collect();
        assert_eq!(
            origins,
            ["https://app.example.com", "https://b.example:8443"]
        );
        let listener = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(found.public_url(listener), "http://127.0.0.1:8080");
        assert!(args("", "").check().unwrap().application.is_none());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for wrong in [
            "app.example.com",
            "ftp://a.example",
            "https://u@a.example",
            "https://",
            "https://a/#b",
        ] {
            assert!(args(wrong, "").check().is_err(), "{wrong}");
        }
        for wrong in [
            "*",
            "https://a.example/path",
            "https://a.example?q",
            "javascript:alert(1)",
            "https://u:p@a",
        ] {
            assert!(args("", wrong).check().is_err(), "{wrong}");
        }
    }
}
