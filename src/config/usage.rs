//! Settings of metering and enforcement.

use clap::Args;
use reqwest::Url;

use super::{
    ConfigError, WebhookSecret, boolean, given, is_loopback, number, or, secret_of_environment,
};

/// APPLICATION_WEBHOOK_SECRET has no flag: every user of the host can list the
/// arguments of a process.
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
    /// Where to send usage alerts (Standard Webhooks), signed with
    /// APPLICATION_WEBHOOK_SECRET; unset: they are not sent.
    #[arg(long, env = "APPLICATION_WEBHOOK_URL")]
    application_webhook_url: Option<String>,
}

/// The application's webhook endpoint and its key.
#[derive(Debug, Clone)]
pub struct Application {
    pub url: Url,
    pub secret: WebhookSecret,
}

#[derive(Debug, Clone)]
pub struct UsageConfig {
    pub grace_hours: u32,
    pub agents_upstream: Option<Url>,
    /// Whether `/api/enforce` reads headers.
    pub trust_headers: bool,
    pub application: Option<Application>,
}

impl Default for UsageConfig {
    fn default() -> Self {
        Self {
            grace_hours: 24,
            agents_upstream: None,
            trust_headers: false,
            application: None,
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
        let webhooks = given(self.application_webhook_url.as_deref());
        let webhooks = webhooks.map(|text| url("APPLICATION_WEBHOOK_URL", text));
        Ok(UsageConfig {
            grace_hours: number("GRACE_PERIOD_HOURS", &self.grace_period_hours, 1, 8_760)?,
            agents_upstream: upstream
                .map(|text| url("AGENTS_UPSTREAM_URL", text))
                .transpose()?,
            trust_headers: boolean("ENFORCE_TRUST_HEADERS", &self.enforce_trust_headers)?,
            application: webhooks.transpose()?.map(application).transpose()?,
        })
    }
}

fn application(url: Url) -> Result<Application, ConfigError> {
    // The messages are confidential: they name organizations and their usage.
    if url.scheme() != "https" && !is_loopback(&url) {
        return Err(ConfigError::new(
            "APPLICATION_WEBHOOK_URL",
            "must be an https:// URL (http:// is for this host only)",
        ));
    }
    let variable = "APPLICATION_WEBHOOK_SECRET";
    let missing = "is required with APPLICATION_WEBHOOK_URL: whsec_ and base64 of 24 to 64 random \
                   bytes, such as `echo whsec_$(openssl rand -base64 32)` prints";
    let secret = secret_of_environment(variable)?;
    let secret = secret.as_deref().and_then(WebhookSecret::parse);
    let secret = secret.ok_or_else(|| ConfigError::new(variable, missing))?;
    Ok(Application { url, secret })
}
