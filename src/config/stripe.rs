//! Settings of Stripe: the API, the webhook secrets, and what becomes of events.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::Url;

use super::{
    ConfigError, SecretKey, SigningSecret, given, is_loopback, number, or, secret_of_environment,
};

/// Stripe's own host.
const API_BASE: &str = "https://api.stripe.com";

/// STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET have no flags: every user of the
/// host can list the arguments of a process.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stripe")]
pub struct StripeArgs {
    /// File of the plan catalogue; unset: config/plans.toml, else the built-in
    /// catalogue.
    #[arg(long, env = "PLANS_FILE")]
    plans_file: Option<String>,
    /// Another host that speaks Stripe's API, such as the sandbox.
    #[arg(long, env = "STRIPE_API_BASE")]
    stripe_api_base: Option<String>,
    /// Retries after the first attempt before an event is dead-lettered.
    #[arg(long, env = "WEBHOOK_MAX_RETRIES", default_value = "20", value_parser = or("20"))]
    webhook_max_retries: String,
    /// What to do with events of Stripe customers that belong to no organization:
    /// `retry`, then dead-letter them; or `ignore` them, where other products
    /// share the Stripe account.
    #[arg(long, env = "UNKNOWN_CUSTOMERS", default_value = "retry", value_parser = or("retry"))]
    unknown_customers: String,
}

#[derive(Debug, Clone, Default)]
pub struct StripeConfig {
    /// Whether the configured key is for live mode; `None` without a key.
    pub key_is_live: Option<bool>,
    /// `None` without a key: then nothing calls Stripe.
    pub api: Option<StripeApi>,
    /// `None` if unset: then one is generated.
    pub webhook_secrets: Option<Vec<SigningSecret>>,
    pub plans_file: Option<PathBuf>,
    pub max_retries: u32,
    pub unknown_customers: UnknownCustomers,
}

/// What events of customers that belong to no organization come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownCustomers {
    /// They are retried, then dead-lettered.
    #[default]
    Retry,
    /// They are ignored until an organization has the customer, since other
    /// products share the account.
    Ignore,
}

/// How long a call to Stripe may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For one attempt.
    pub attempt: Duration,
    /// For all attempts, pauses included.
    pub total: Duration,
    pub attempts: u32,
    /// The first pause; each later one is twice as long.
    pub pause: Duration,
    /// How long Stripe may take to count the usage that it accepted, before a call that
    /// makes an invoice of it.
    pub counting: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(15),
            total: Duration::from_secs(30),
            attempts: 4,
            pause: Duration::from_millis(250),
            counting: Duration::from_secs(10),
        }
    }
}

/// Stripe's host and the key for it.
#[derive(Debug, Clone)]
pub struct StripeApi {
    pub base: Url,
    pub key: SecretKey,
    pub patience: Patience,
}

impl StripeArgs {
    pub fn check(&self) -> Result<StripeConfig, ConfigError> {
        let key = secret_of_environment("STRIPE_SECRET_KEY")?;
        let key_is_live = key.as_deref().map(key_mode).transpose()?;
        let secrets = secret_of_environment("STRIPE_WEBHOOK_SECRET")?;
        let webhook_secrets = secrets.as_deref().map(signing_secrets).transpose()?;
        if key_is_live.is_some() && webhook_secrets.is_none() {
            return Err(ConfigError::new(
                "STRIPE_WEBHOOK_SECRET",
                "is required with STRIPE_SECRET_KEY; copy the endpoint's signing secret (whsec_…) from Stripe",
            ));
        }
        let base = given(self.stripe_api_base.as_deref()).unwrap_or(API_BASE);
        let base = api_base(base)?;
        Ok(StripeConfig {
            api: key.map(|key| StripeApi {
                base,
                key: SecretKey::new(&key),
                patience: Patience::default(),
            }),
            key_is_live,
            webhook_secrets,
            plans_file: given(self.plans_file.as_deref()).map(PathBuf::from),
            max_retries: retries(&self.webhook_max_retries)?,
            unknown_customers: unknown_customers(&self.unknown_customers)?,
        })
    }
}

fn key_mode(key: &str) -> Result<bool, ConfigError> {
    let refused = |problem| Err(ConfigError::new("STRIPE_SECRET_KEY", problem));
    let mode = |prefix: &str| key.strip_prefix(prefix);
    let live = mode("sk_live_").or(mode("rk_live_"));
    let test = mode("sk_test_").or(mode("rk_test_"));
    let Some(rest) = live.or(test).filter(|rest| !rest.is_empty()) else {
        return refused(
            "does not start with sk_test_, sk_live_, rk_test_ or rk_live_; a publishable key (pk_…) cannot be used here",
        );
    };
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return refused(
            "contains characters that no key has, such as white space; copy it again from Stripe's dashboard",
        );
    }
    Ok(live.is_some())
}

/// Splits a list at commas and line breaks. A malformed secret is refused: it
/// would make every delivery a 400, and Stripe disables such endpoints.
fn signing_secrets(list: &str) -> Result<Vec<SigningSecret>, ConfigError> {
    let secrets: Vec<&str> = list
        .split([',', '\n', '\r'])
        .filter_map(|secret| given(Some(secret)))
        .collect();
    if secrets.is_empty() || !secrets.iter().all(|secret| is_signing_secret(secret)) {
        return Err(ConfigError::new(
            "STRIPE_WEBHOOK_SECRET",
            "each secret is whsec_ and letters, without white space or quotation marks; \
             separate several by commas or line breaks",
        ));
    }
    Ok(secrets.into_iter().map(SigningSecret::new).collect())
}

fn is_signing_secret(text: &str) -> bool {
    let part = |b: u8| b.is_ascii_graphic() && !b"\"'`;,".contains(&b);
    text.strip_prefix("whsec_").is_some_and(|rest| {
        // Two secrets without a separator are not one.
        !rest.is_empty() && rest.bytes().all(part) && !rest.contains("whsec_")
    })
}

fn api_base(text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text).ok();
    let usable = url.filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
    });
    // Over http:// the key would cross the network in the clear.
    let usable = usable.filter(|url| url.scheme() == "https" || is_loopback(url));
    usable.ok_or_else(|| {
        ConfigError::new(
            "STRIPE_API_BASE",
            "is not an https:// URL (http:// is for this host only); leave it unset for Stripe itself",
        )
    })
}

/// Parses WEBHOOK_MAX_RETRIES.
pub fn retries(text: &str) -> Result<u32, ConfigError> {
    number("WEBHOOK_MAX_RETRIES", text, 0, 1_000)
}

/// Parses UNKNOWN_CUSTOMERS.
fn unknown_customers(text: &str) -> Result<UnknownCustomers, ConfigError> {
    match text.trim() {
        "" | "retry" => Ok(UnknownCustomers::Retry),
        "ignore" => Ok(UnknownCustomers::Ignore),
        _ => Err(ConfigError::new(
            "UNKNOWN_CUSTOMERS",
            format!("expected `retry` or `ignore`, got `{text}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_a_key_is_its_prefix() {
        assert!(key_mode("sk_live_x").unwrap());
        assert!(!key_mode("rk_test_x").unwrap());
        assert!(key_mode("sk_test_").is_err());
        for wrong in [
            "pk_test_x",
            "whsec_x",
            "sk_prod_x",
            "sk_test_a b",
            "sk_live_a\u{200b}",
        ] {
            let error = key_mode(wrong).unwrap_err().to_string();
            assert!(error.starts_with("STRIPE_SECRET_KEY: "));
            assert!(!error.contains(wrong), "secrets stay out of errors");
        }
    }

    #[test]
    fn secrets_are_trimmed_and_may_overlap() {
        let secrets = signing_secrets(" whsec_a ,whsec_b\n").unwrap();
        let texts: Vec<&str> = secrets.iter().map(SigningSecret::expose).collect();
        assert_eq!(texts, ["whsec_a", "whsec_b"]);
        for lines in [
            "whsec_a\nwhsec_b",
            "whsec_a\r\nwhsec_b\r\n",
            "\u{feff}whsec_a,\n,whsec_b",
        ] {
            assert_eq!(signing_secrets(lines).unwrap().len(), 2, "{lines:?}");
        }
        for wrong in [
            "whsec_",
            "whsec_a whsec_b",
            "whsec_awhsec_b",
            "whsec_a;whsec_b",
            "whsec_a\u{200b}",
            "whsec_a\twhsec_b",
            "\"whsec_a\"",
            "whsec_a,whsec_",
        ] {
            assert!(signing_secrets(wrong).is_err(), "{wrong:?}");
        }
        assert!(signing_secrets("sk_test_x").is_err());
    }

    #[test]
    fn a_key_is_never_sent_in_the_clear() {
        for good in [
            API_BASE,
            "http://127.0.0.1:12111",
            "http://localhost:1/",
            "http://[::1]:9",
        ] {
            assert!(api_base(good).is_ok(), "{good}");
        }
        for bad in [
            "http://stripe.example.com",
            "api.stripe.com",
            "ftp://localhost",
            "https://x?y",
        ] {
            assert!(api_base(bad).is_err(), "{bad}");
        }
    }
}
