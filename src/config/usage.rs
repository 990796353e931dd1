//! Settings of metering and enforcement.

use clap::Args;
use reqwest::Url;

use super::{ConfigError, boolean, given, number, or};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Usage")]
pub struct UsageArgs {
    /// How long a soft limit may be exceeded, in hours.
    #[arg(long, env = "GRACE_PERIOD_HOURS", default_value = "24", value_parser = or("24"))]
    grace_period_hours: String,
    /// Where allowed calls to /api/agents/execute are forwarded; unset: a built-in
    /// agent echoes its input.
    #[arg(long, env = "AGENTS_UPSTREAM_URL")]
    agents_upstream_url: Option<String>,
    /// Read X-Quota-Metric and X-Quota-Amount in requests to /api/enforce; only
    /// where the proxy overwrites its clients' headers. Otherwise only the query
    /// is read.
    #[arg(long, env = "ENFORCE_TRUST_HEADERS", default_value = "false",
          num_args = 0..=1, default_missing_value = "true")]
    enforce_trust_headers: String,
}

#[derive(Debug, Clone)]
pub struct UsageConfig {
    pub grace_hours: u32,
    pub agents_upstream: Option<Url>,
    /// Whether `/api/enforce` reads headers.
    pub trust_headers: bool,
}

impl Default for UsageConfig {
    fn default() -> Self {
        Self {
            grace_hours: 24,
            agents_upstream: None,
            trust_headers: false,
        }
    }
}

impl UsageArgs {
    pub fn check(&self) -> Result<UsageConfig, ConfigError> {
        let url = |variable, text: &str| {
            let url = Url::parse(text).ok();
            let usable =
                url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            usable.ok_or_else(|| ConfigError::new(variable, "is not an http:// or https:// URL"))
        };
        let upstream = given(self.agents_upstream_url.as_deref());
        Ok(UsageConfig {
            grace_hours: number("GRACE_PERIOD_HOURS", &self.grace_period_hours, 1, 8_760)?,
            agents_upstream: upstream
                .map(|text| url("AGENTS_UPSTREAM_URL", text))
                .transpose()?,
            trust_headers: boolean("ENFORCE_TRUST_HEADERS", &self.enforce_trust_headers)?,
        })
    }
}
