//! Settings of events out: the endpoint of the configuration, and which addresses
//! endpoints may have.

use std::net::IpAddr;

use clap::Args;
use reqwest::Url;

use super::{ConfigError, WebhookSecret, boolean, given, is_loopback, secret_of_environment};

/// APPLICATION_WEBHOOK_SECRET has no flag: every user of the host can list the
/// arguments of a process.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Events out")]
pub struct ApplicationArgs {
    /// Where the application takes events (Standard Webhooks), signed with
    /// APPLICATION_WEBHOOK_SECRET; further endpoints: `events endpoints create`.
    #[arg(long, env = "APPLICATION_WEBHOOK_URL")]
    application_webhook_url: Option<String>,
}

/// Which addresses endpoints may have beside public ones.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Events out")]
pub struct AllowedAddressArgs {
    /// Networks of this house that endpoints may be in, such as 10.20.0.0/16, commas
    /// between them; unset: public addresses only.
    #[arg(long, env = "EVENTS_ALLOWED_NETWORKS")]
    events_allowed_networks: Option<String>,
    /// Allow endpoints on this host, also by http:// (development only).
    #[arg(long, env = "EVENTS_ALLOW_LOOPBACK", default_value = "false",
          num_args = 0..=1, default_missing_value = "true")]
    events_allow_loopback: String,
}

/// The application's webhook endpoint and its key.
#[derive(Debug, Clone)]
pub struct Application {
    pub url: Url,
    pub secret: WebhookSecret,
}

/// A network, as CIDR writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse().ok()?, Some(prefix.parse().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let longest = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let prefix = prefix.unwrap_or(longest);
        (prefix <= longest).then_some(Self { address, prefix })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let apart = u32::from(ours) ^ u32::from(theirs);
                apart.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let apart = u128::from(ours) ^ u128::from(theirs);
                apart.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

/// Which addresses are allowed beside public ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedAddresses {
    pub networks: Vec<Network>,
    pub loopback: bool,
}

#[derive(Debug, Clone, Default)]
pub struct OutboundConfig {
    pub application: Option<Application>,
    pub allowed: AllowedAddresses,
}

impl ApplicationArgs {
    pub fn check(&self) -> Result<Option<Application>, ConfigError> {
        let variable = "APPLICATION_WEBHOOK_URL";
        let Some(text) = given(self.application_webhook_url.as_deref()) else {
            return Ok(None);
        };
        let url = Url::parse(text).ok();
        let usable = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = usable
            .ok_or_else(|| ConfigError::new(variable, "is not an http:// or https:// URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConfigError::new(
                variable,
                "has a user name or a password; remove it: events are signed",
            ));
        }
        // The messages are confidential: they name organizations and what they buy.
        if url.scheme() != "https" && !is_loopback(&url) {
            return Err(ConfigError::new(
                variable,
                "must be an https:// URL (http:// is for this host only)",
            ));
        }
        let variable = "APPLICATION_WEBHOOK_SECRET";
        let missing = "is required with APPLICATION_WEBHOOK_URL: whsec_ and base64 of 24 to 64 \
                       random bytes, such as `echo whsec_$(openssl rand -base64 32)` prints";
        let secret = secret_of_environment(variable)?;
        let secret = secret.as_deref().and_then(WebhookSecret::parse);
        let secret = secret.ok_or_else(|| ConfigError::new(variable, missing))?;
        Ok(Some(Application { url, secret }))
    }
}

impl AllowedAddressArgs {
    pub fn check(&self) -> Result<AllowedAddresses, ConfigError> {
        let variable = "EVENTS_ALLOWED_NETWORKS";
        let listed = given(self.events_allowed_networks.as_deref()).unwrap_or_default();
        let listed = listed
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty());
        let networks = listed.map(|text| {
            Network::parse(text).ok_or_else(|| {
                ConfigError::new(
                    variable,
                    format!("expected networks such as 10.20.0.0/16, got `{text}`"),
                )
            })
        });
        Ok(AllowedAddresses {
            networks: networks.collect::<Result<_, _>>()?,
            loopback: boolean("EVENTS_ALLOW_LOOPBACK", &self.events_allow_loopback)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        let of = |text: &str| Network::parse(text).unwrap();
        let has = |network: &str, address: &str| of(network).contains(address.parse().unwrap());
        assert!(has("10.20.0.0/16", "10.20.255.1"));
        assert!(!has("10.20.0.0/16", "10.21.0.1"));
        assert!(has("192.168.7.9", "192.168.7.9"));
        assert!(!has("192.168.7.9", "192.168.7.8"));
        assert!(has("fd00::/8", "fd12::1"));
        assert!(!has("0.0.0.0/0", "::1"));
        for wrong in ["10.0.0.0/33", "10.0.0/8", "::1/129", "ten", "10.0.0.0/-1"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
