//! The demo's account with the stand-in for Stripe.

use std::net::SocketAddr;

use reqwest::Url;
use stripe_sandbox::{Config, Sandbox};

use crate::cli::Failure;
use crate::cli::running_demo::KEY;
use crate::config::StripeApi;
use crate::projection::HANDLED_TYPES;
use crate::stripe::client::{Call, Client, Params, Patience, SecretKey, StripeError};
use crate::stripe::signature::SigningSecret;
use crate::webhooks::endpoint::PATH;

/// A card that pays.
pub const GOOD_CARD: &str = "pm_card_visa";
/// A card that can be attached, and is then declined.
pub const BAD_CARD: &str = "pm_card_chargeCustomerFail";

pub struct Account {
    pub sandbox: Sandbox,
    pub api: StripeApi,
    pub client: Client,
    /// Signs the deliveries to the endpoint.
    pub secret: SigningSecret,
    endpoint: String,
}

impl Account {
    /// Opens a new account. Its ids differ from those of earlier demos.
    pub async fn open() -> Result<Self, Failure> {
        let config = Config {
            seed: rand::random(),
            ..Config::default()
        };
        let sandbox = Sandbox::start(config)
            .await
            .map_err(|error| Failure::failed(format!("Stripe's stand-in cannot start: {error}")))?;
        let base = Url::parse(&sandbox.url())
            .map_err(|error| Failure::failed(format!("Stripe's stand-in has no URL: {error}")))?;
        let api = StripeApi {
            base: base.clone(),
            key: SecretKey::new(KEY),
            patience: Patience::default(),
        };
        let client = Client::new(base, api.key.clone(), api.patience)
            .map_err(|error| Failure::failed(error.to_string()))?;
        // The address is not known before the service listens.
        let params = HANDLED_TYPES.iter().enumerate().fold(
            Params::new().set("url", "http://127.0.0.1:1/"),
            |params, (index, handled)| params.set(format!("enabled_events[{index}]"), handled),
        );
        let endpoint = post(&client, "/v1/webhook_endpoints", &params).await?;
        let text = |name: &str| endpoint[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            secret: SigningSecret::new(text("secret")),
            endpoint: text("id"),
            sandbox,
            api,
            client,
        })
    }

    /// Points the endpoint at the service at `address`.
    pub async fn deliver_to(&self, address: SocketAddr) -> Result<(), StripeError> {
        let url = format!("http://{address}{PATH}");
        let path = format!("/v1/webhook_endpoints/{}", self.endpoint);
        post(&self.client, &path, &Params::new().set("url", url)).await?;
        Ok(())
    }

    /// A customer without a card; returns its id.
    pub async fn customer(&self, name: &str) -> Result<String, StripeError> {
        let params = Params::new().set("name", name);
        let customer = post(&self.client, "/v1/customers", &params).await?;
        Ok(customer["id"].as_str().unwrap_or_default().to_owned())
    }
}

/// Makes `card` the customer's default card.
pub async fn use_card(client: &Client, customer: &str, card: &str) -> Result<(), StripeError> {
    let attach = format!("/v1/payment_methods/{card}/attach");
    let attached = post(client, &attach, &Params::new().set("customer", customer)).await?;
    let method = attached["id"].as_str().unwrap_or_default();
    let params = Params::new().set("invoice_settings[default_payment_method]", method);
    post(client, &format!("/v1/customers/{customer}"), &params).await?;
    Ok(())
}

async fn post(
    client: &Client,
    path: &str,
    params: &Params,
) -> Result<serde_json::Value, StripeError> {
    let call = Call {
        name: "demo",
        path,
        params,
    };
    let key = uuid::Uuid::now_v7().to_string();
    client.post(call, &key).await.map(|answer| answer.body)
}
