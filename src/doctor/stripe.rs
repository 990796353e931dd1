//! Stripe: the key, the endpoint, the clock, and the catalogue.

use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::{Check, SKEW_SECS, deliveries};
use crate::catalogue::{self, Action, Catalogue};
use crate::config::StripeConfig;
use crate::payment_methods::{self, PortalOffer};
use crate::projection::{FURTHER_TYPES, LINKING_TYPE, MAIN_TYPES};
use crate::stripe::client::{
    API_VERSION, Client, ErrorKind, Response, StripeError, WebhookEndpoint,
};
use crate::webhooks::endpoint::PATH;

pub async fn check(
    stripe: &StripeConfig,
    client: Option<&Client>,
    catalogue: &Catalogue,
    pool: &PgPool,
) -> Vec<Check> {
    let Some(client) = client else {
        let detail = "STRIPE_SECRET_KEY is not set: routes that need Stripe answer 503";
        return vec![
            Check::skipped("stripe key", detail),
            deliveries::refused(pool).await,
        ];
    };
    let account = client.account().await;
    let usable = !matches!(&account, Err(error) if error.kind != ErrorKind::Permission);
    let mut checks = vec![key(stripe, &account)];
    if usable {
        if let Ok(response) = &account {
            checks.push(clock(response, Timestamp::now()));
        }
        checks.push(version());
        checks.extend(endpoint(client.webhook_endpoints().await));
        checks.push(in_step(client, catalogue).await);
        checks.push(portal(client).await);
    }
    checks.push(deliveries::last(pool).await);
    checks.push(deliveries::refused(pool).await);
    checks
}

fn key(stripe: &StripeConfig, account: &Result<Response, StripeError>) -> Check {
    let name = "stripe key";
    let mode = if stripe.key_is_live == Some(true) {
        "live mode"
    } else {
        "test mode"
    };
    match account {
        Ok(response) => {
            let id = response.body["id"].as_str().unwrap_or("unknown");
            Check::ok(name, format!("account {id}, {mode}"))
        }
        Err(error) if error.kind == ErrorKind::Permission => Check::ok(
            name,
            format!("a restricted key, {mode}, which may not read the account"),
        ),
        Err(error) if error.kind == ErrorKind::Authentication => Check::failed(
            name,
            error.to_string(),
            "copy STRIPE_SECRET_KEY from Stripe's dashboard (Developers, API keys), without white space",
        ),
        Err(error) => Check::failed(
            name,
            error.to_string(),
            "check the network path to Stripe, and https://status.stripe.com",
        ),
    }
}

fn clock(response: &Response, now: Timestamp) -> Check {
    let name = "clock";
    let Some(date) = response.date else {
        return Check::skipped(name, "Stripe's answer has no date");
    };
    let skew = now.as_second().abs_diff(date.as_second());
    let detail = format!("{skew} s from Stripe's");
    if skew <= SKEW_SECS {
        Check::ok(name, detail)
    } else {
        Check::failed(name, detail, "synchronize this host's clock with NTP")
    }
}

fn version() -> Check {
    Check::ok("stripe version", format!("calls use {API_VERSION}"))
}

const ENDPOINT: &str = "webhook endpoint";

fn endpoint(endpoints: Result<Vec<WebhookEndpoint>, StripeError>) -> Vec<Check> {
    match sending(endpoints) {
        Ok(endpoint) => vec![sends_main(&endpoint), sends_further(&endpoint)],
        Err(check) => vec![check],
    }
}

/// The endpoint in Stripe that sends to this service.
fn sending(endpoints: Result<Vec<WebhookEndpoint>, StripeError>) -> Result<WebhookEndpoint, Check> {
    let name = ENDPOINT;
    let endpoints = match endpoints {
        Ok(endpoints) => endpoints,
        Err(error) => {
            let fix = "give the key permission to read webhook endpoints";
            return Err(Check::warning(name, error.to_string(), fix));
        }
    };
    let ours: Vec<&WebhookEndpoint> = endpoints
        .iter()
        .filter(|endpoint| endpoint.url.trim_end_matches('/').ends_with(PATH))
        .collect();
    let Some(endpoint) = ours
        .iter()
        .find(|endpoint| endpoint.status == "enabled")
        .or(ours.first())
    else {
        let fix = format!(
            "add an endpoint https://…{PATH} in Stripe, with the events that docs/webhooks.md lists"
        );
        let detail = format!("no endpoint in Stripe ends in {PATH}");
        return Err(Check::failed(name, detail, fix));
    };
    if endpoint.status != "enabled" {
        let fix = "enable it in Stripe, then run `webhooks backfill`";
        let detail = format!("{} is {}", endpoint.url, endpoint.status);
        return Err(Check::failed(name, detail, fix));
    }
    Ok((*endpoint).clone())
}

/// The types of `wanted` that Stripe does not send to `endpoint`.
fn unsent(
    endpoint: &WebhookEndpoint,
    wanted: impl Iterator<Item = &'static str>,
) -> Vec<&'static str> {
    let enabled = &endpoint.enabled_events;
    let is_sent = |wanted: &str| enabled.iter().any(|one| one == "*" || one == wanted);
    wanted.filter(|wanted| !is_sent(wanted)).collect()
}

fn sends_main(endpoint: &WebhookEndpoint) -> Check {
    let missing = unsent(endpoint, MAIN_TYPES.into_iter());
    if missing.is_empty() {
        let version = endpoint.api_version.as_deref();
        let version = version.unwrap_or("the account's version");
        return Check::ok(ENDPOINT, format!("{}, {version}", endpoint.url));
    }
    let fix = "select them at the endpoint in Stripe, then run `webhooks backfill`";
    Check::failed(ENDPOINT, format!("not sent: {}", missing.join(", ")), fix)
}

/// Missing ones leave gaps, not errors: an endpoint that was set up for an earlier
/// version of this program lacks them.
fn sends_further(endpoint: &WebhookEndpoint) -> Check {
    let name = "webhook endpoint, further events";
    let wanted = FURTHER_TYPES.into_iter().chain([LINKING_TYPE]);
    let missing = unsent(endpoint, wanted);
    if missing.is_empty() {
        return Check::ok(
            name,
            "refunds, disputes, deleted customers and the like are sent",
        );
    }
    let fix = "select them at the endpoint in Stripe, then run `webhooks backfill`; without them, refunds, \
               disputes, deleted customers, renewed cards, pending and scheduled changes go unnoticed";
    Check::warning(name, format!("not sent: {}", missing.join(", ")), fix)
}

/// Customers who change or cancel in Stripe's portal go around this service.
async fn portal(client: &Client) -> Check {
    let name = "customer portal";
    match payment_methods::inspect_portal(client).await {
        Ok(PortalOffer::AsWeSet) => Check::ok(name, "offers cards, invoices and contact data"),
        Ok(PortalOffer::NotMade) => {
            Check::skipped(name, "is configured when a customer first asks for it")
        }
        Ok(PortalOffer::TooMuch) => Check::failed(
            name,
            "its configuration of this service offers to cancel or to change the plan",
            "the next session of the portal sets it right; leave that configuration alone in \
             Stripe's dashboard",
        ),
        Err(error) => Check::warning(
            name,
            error.to_string(),
            "give the key the right to write the customer portal",
        ),
    }
}

async fn in_step(client: &Client, catalogue: &Catalogue) -> Check {
    let name = "catalogue";
    match catalogue::sync(client, catalogue, true).await {
        Ok(synced) => {
            let behind: Vec<&str> = synced
                .steps
                .iter()
                .filter(|step| step.action != Action::Unchanged)
                .map(|step| step.name.as_str())
                .collect();
            if behind.is_empty() {
                Check::ok(name, "Stripe has its products, prices and meters")
            } else {
                let detail = format!("missing in Stripe, or different: {}", behind.join(", "));
                Check::failed(name, detail, "run `plans sync`")
            }
        }
        Err(error) => Check::failed(name, error.to_string(), "see `plans sync --dry-run`"),
    }
}
