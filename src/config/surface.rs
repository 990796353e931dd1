//! Settings of the API's surface: rate limits, origins whose scripts may call it,
//! addresses, and whose tokens it accepts beside its own.

use axum::http::HeaderValue;
use clap::Args;

use super::{
    AddressArgs, AddressConfig, ConfigError, IssuerArgs, IssuerConfig, OperatorArgs,
    OperatorConfig, PortalArgs, PortalConfig, given, number, or,
};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Service")]
pub struct SurfaceArgs {
    /// Requests per minute and credential; 0: no limit.
    #[arg(long, env = "API_RATE_LIMIT_PER_MINUTE", default_value = "6000", value_parser = or("6000"))]
    api_rate_limit_per_minute: String,
    /// The same for routes that a product calls on each of its users' requests:
    /// usage events (each event of a batch, and each started KiB, counts as one),
    /// checks, forward-auth and agents.
    #[arg(long, env = "USAGE_RATE_LIMIT_PER_MINUTE", default_value = "6000000", value_parser = or("6000000"))]
    usage_rate_limit_per_minute: String,
    /// Origins whose scripts may call the API (https://host), comma separated;
    /// unset: none.
    #[arg(long, env = "CORS_ALLOWED_ORIGINS")]
    cors_allowed_origins: Option<String>,
    #[command(flatten)]
    issuer: IssuerArgs,
    #[command(flatten)]
    addresses: AddressArgs,
    #[command(flatten)]
    portal: PortalArgs,
    #[command(flatten)]
    operators: OperatorArgs,
}

/// Requests, or usage events, per minute and credential; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    pub api_per_minute: u32,
    pub usage_per_minute: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            api_per_minute: 6_000,
            usage_per_minute: 6_000_000,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct SurfaceConfig {
    pub rates: Rates,
    pub cors_origins: Vec<HeaderValue>,
    /// `None` if only our own tokens and keys are accepted.
    pub issuer: Option<IssuerConfig>,
    pub addresses: AddressConfig,
    pub portal: PortalConfig,
    pub operators: OperatorConfig,
}

impl SurfaceArgs {
    pub fn check(&self) -> Result<SurfaceConfig, ConfigError> {
        let rate = |variable, text| number(variable, text, 0, 1_000_000_000);
        let usage = &self.usage_rate_limit_per_minute;
        Ok(SurfaceConfig {
            rates: Rates {
                api_per_minute: rate("API_RATE_LIMIT_PER_MINUTE", &self.api_rate_limit_per_minute)?,
                usage_per_minute: rate("USAGE_RATE_LIMIT_PER_MINUTE", usage)?,
            },
            cors_origins: origins(given(self.cors_allowed_origins.as_deref()))?,
            issuer: self.issuer.check()?,
            addresses: self.addresses.check()?,
            portal: self.portal.check()?,
            operators: self.operators.check()?,
        })
    }
}

/// Origins as browsers write them: a scheme, a host, and a port where it is not
/// the scheme's own.
fn origins(list: Option<&str>) -> Result<Vec<HeaderValue>, ConfigError> {
    let given = list.into_iter().flat_map(|list| list.split(','));
    let given = given.map(str::trim).filter(|origin| !origin.is_empty());
    given
        .map(|origin| {
            let value = is_origin(origin).then(|| HeaderValue::try_from(origin).ok());
            value.flatten().ok_or_else(|| {
                ConfigError::new(
                    "CORS_ALLOWED_ORIGINS",
                    format!(
                        "expected https://host or https://host:port in lower case, \
                         got `{origin}`"
                    ),
                )
            })
        })
        .collect()
}

fn is_origin(text: &str) -> bool {
    let host = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._:[]".contains(c);
    host.is_some_and(|host| !host.is_empty() && host.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_write_them() {
        let list = " https://app.example.com, http://localhost:5173 ,";
        assert_eq!(
            origins(Some(list)).unwrap(),
            ["https://app.example.com", "http://localhost:5173"]
        );
        assert!(origins(None).unwrap().is_empty());
        let wrong = [
            "*",
            "null",
            "app.example.com",
            "https://a/b",
            "https://",
            "https://A.com",
        ];
        for wrong in wrong {
            assert!(origins(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
