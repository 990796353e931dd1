//! The calls we make. Objects that are mirrored are returned as they are, since
//! `objects` reads them in all API versions; others are typed.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::discounts::with_discounts;
use super::error::{ErrorKind, StripeError};
use super::{Call, Client, FLEXIBLE, Params, Response};

/// Stripe's largest page.
pub(super) const PAGE: u32 = 100;

/// A page of a list.
#[derive(Debug, Clone, Deserialize)]
pub struct List<T> {
    pub data: Vec<T>,
    pub has_more: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Customer {
    pub id: String,
    #[serde(default)]
    pub deleted: bool,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    #[serde(default)]
    pub test_clock: Option<String>,
    #[serde(default)]
    pub livemode: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct PaymentMethod {
    pub id: String,
    pub r#type: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Product {
    pub id: String,
    pub name: String,
    pub active: bool,
    #[serde(default)]
    pub unit_label: Option<String>,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Price {
    pub id: String,
    pub active: bool,
    pub currency: String,
    pub lookup_key: Option<String>,
    pub product: String,
    pub unit_amount: Option<i64>,
    pub unit_amount_decimal: Option<String>,
    pub recurring: Option<Recurring>,
    pub billing_scheme: Option<String>,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// The tiers of a tiered price, lowest first.
    #[serde(default)]
    pub tiers: Option<Vec<Tier>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tier {
    /// The last unit of the tier; `None` if it is unbounded.
    pub up_to: Option<i64>,
    /// In the currency's minor unit.
    pub unit_amount_decimal: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Recurring {
    pub interval: String,
    pub interval_count: u32,
    pub usage_type: String,
    #[serde(default)]
    pub meter: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Meter {
    pub id: String,
    pub event_name: String,
    pub status: String,
    pub default_aggregation: Aggregation,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Aggregation {
    pub formula: String,
}

/// An invoice object with all of its lines.
#[derive(Debug, Clone)]
pub struct Invoice(pub Value);

/// An event as listed by `/v1/events`.
#[derive(Debug, Clone)]
pub struct StripeEvent(pub Value);

impl<'de> Deserialize<'de> for StripeEvent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self)
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct WebhookEndpoint {
    pub id: String,
    pub url: String,
    pub status: String,
    pub enabled_events: Vec<String>,
    pub api_version: Option<String>,
    pub livemode: bool,
}

pub(super) fn call<'a>(name: &'static str, path: &'a str, params: &'a Params) -> Call<'a> {
    Call { name, path, params }
}

/// Checks an id for use in a path.
pub(super) fn id_of<'a>(name: &'static str, id: &'a str) -> Result<&'a str, StripeError> {
    let ours = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !id.is_empty() && id.len() <= 255 && id.bytes().all(ours) {
        Ok(id)
    } else {
        Err(StripeError::new(
            ErrorKind::NotFound,
            name,
            format!("{id:?} is not a Stripe id"),
        ))
    }
}

fn typed<T: DeserializeOwned>(name: &'static str, response: Response) -> Result<T, StripeError> {
    serde_json::from_value(response.body).map_err(|error| {
        let message = format!("the response is incomplete: {error}");
        StripeError::new(ErrorKind::Unreadable, name, message).of_request(response.request_id)
    })
}

impl Client {
    pub(super) async fn get_typed<T: DeserializeOwned>(
        &self,
        name: &'static str,
        path: &str,
        params: &Params,
    ) -> Result<T, StripeError> {
        typed(name, self.get(call(name, path, params)).await?)
    }

    pub(super) async fn post_typed<T: DeserializeOwned>(
        &self,
        name: &'static str,
        path: &str,
        params: &Params,
        key: &str,
    ) -> Result<T, StripeError> {
        typed(name, self.post(call(name, path, params), key).await?)
    }

    /// All objects of a list, page by page. Only short lists are read whole.
    pub(super) async fn all<T: DeserializeOwned>(
        &self,
        name: &'static str,
        path: &str,
        params: Params,
    ) -> Result<Vec<T>, StripeError> {
        let mut params = params.set("limit", PAGE);
        let mut found = Vec::new();
        loop {
            let page: List<Value> = self.get_typed(name, path, &params).await?;
            let last = page.data.last().and_then(|object| object["id"].as_str());
            let next = last.filter(|_| page.has_more).map(str::to_owned);
            for object in page.data {
                let response = Response {
                    body: object,
                    request_id: None,
                    date: None,
                };
                found.push(typed(name, response)?);
            }
            match next {
                Some(last) => params = params.set("starting_after", last),
                None => return Ok(found),
            }
        }
    }

    pub async fn create_customer(
        &self,
        params: &Params,
        key: &str,
    ) -> Result<Customer, StripeError> {
        self.post_typed("customers.create", "/v1/customers", params, key)
            .await
    }

    pub async fn customer(&self, id: &str) -> Result<Customer, StripeError> {
        let name = "customers.retrieve";
        let path = format!("/v1/customers/{}", id_of(name, id)?);
        self.get_typed(name, &path, &Params::new()).await
    }

    /// All customers; `created` may bound them, in seconds since 1970.
    pub async fn customers(&self, created_gte: Option<i64>) -> Result<Vec<Customer>, StripeError> {
        let params = Params::new().set_if("created[gte]", created_gte);
        self.all("customers.list", "/v1/customers", params).await
    }

    pub async fn payment_methods(&self, customer: &str) -> Result<Vec<PaymentMethod>, StripeError> {
        let name = "payment_methods.list";
        let path = format!("/v1/customers/{}/payment_methods", id_of(name, customer)?);
        self.all(name, &path, Params::new()).await
    }

    pub async fn products(&self) -> Result<Vec<Product>, StripeError> {
        self.all("products.list", "/v1/products", Params::new())
            .await
    }

    pub async fn create_product(&self, params: &Params, key: &str) -> Result<Product, StripeError> {
        self.post_typed("products.create", "/v1/products", params, key)
            .await
    }

    pub async fn update_product(
        &self,
        id: &str,
        params: &Params,
        key: &str,
    ) -> Result<Product, StripeError> {
        let name = "products.update";
        let path = format!("/v1/products/{}", id_of(name, id)?);
        self.post_typed(name, &path, params, key).await
    }

    /// The active prices with these lookup keys. Stripe accepts ten keys per call.
    pub async fn prices<K: AsRef<str>>(
        &self,
        lookup_keys: &[K],
    ) -> Result<Vec<Price>, StripeError> {
        let mut found = Vec::new();
        for keys in lookup_keys.chunks(10) {
            let params = keys.iter().enumerate().fold(
                Params::new()
                    .set("active", true)
                    .set("expand[0]", "data.tiers"),
                |params, (index, key)| params.set(format!("lookup_keys[{index}]"), key.as_ref()),
            );
            found.extend(
                self.all::<Price>("prices.list", "/v1/prices", params)
                    .await?,
            );
        }
        Ok(found)
    }

    /// All prices of a product, inactive ones too.
    pub async fn prices_of_product(&self, product: &str) -> Result<Vec<Price>, StripeError> {
        let params = Params::new()
            .set("product", product)
            .set("expand[0]", "data.tiers");
        self.all("prices.list", "/v1/prices", params).await
    }

    pub async fn create_price(&self, params: &Params, key: &str) -> Result<Price, StripeError> {
        self.post_typed("prices.create", "/v1/prices", params, key)
            .await
    }

    pub async fn create_subscription(
        &self,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let path = "/v1/subscriptions";
        self.post(call("subscriptions.create", path, params), key)
            .await
    }

    pub async fn subscription(&self, id: &str) -> Result<Response, StripeError> {
        let name = "subscriptions.retrieve";
        let path = format!("/v1/subscriptions/{}", id_of(name, id)?);
        let params = with_discounts(Params::new());
        self.get(call(name, &path, &params)).await
    }

    /// All subscriptions, including ended ones; of one customer, if given.
    pub async fn subscriptions(&self, customer: Option<&str>) -> Result<Vec<Value>, StripeError> {
        let params = Params::new()
            .set("status", "all")
            .set_if("customer", customer);
        let mut found: Vec<Value> = self
            .all("subscriptions.list", "/v1/subscriptions", params)
            .await?;
        for subscription in &mut found {
            self.fetch_missing_items(subscription).await?;
        }
        Ok(found)
    }

    /// All subscriptions, including ended ones, with the items that Stripe lists.
    pub async fn listed_subscriptions(&self) -> Result<Vec<Value>, StripeError> {
        let params = Params::new().set("status", "all");
        self.all("subscriptions.list", "/v1/subscriptions", params)
            .await
    }

    /// Fetches the items that a subscription's truncated list leaves out.
    pub async fn fetch_missing_items(&self, subscription: &mut Value) -> Result<(), StripeError> {
        let more = subscription["items"]["has_more"].as_bool().unwrap_or(false);
        let (true, Some(id)) = (more, subscription["id"].as_str()) else {
            return Ok(());
        };
        let params = Params::new().set("subscription", id);
        let items: Vec<Value> = self
            .all("subscription_items.list", "/v1/subscription_items", params)
            .await?;
        subscription["items"]["data"] = Value::Array(items);
        subscription["items"]["has_more"] = Value::Bool(false);
        Ok(())
    }

    pub async fn update_subscription(
        &self,
        id: &str,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "subscriptions.update";
        let path = format!("/v1/subscriptions/{}", id_of(name, id)?);
        self.post(call(name, &path, params), key).await
    }

    /// Puts a subscription into flexible billing.
    pub async fn migrate_subscription(&self, id: &str, key: &str) -> Result<Response, StripeError> {
        let name = "subscriptions.migrate";
        let path = format!("/v1/subscriptions/{}/migrate", id_of(name, id)?);
        let params = Params::new().set("billing_mode[type]", FLEXIBLE);
        self.post(call(name, &path, &params), key).await
    }

    /// Cancels a subscription at once.
    pub async fn cancel_subscription(
        &self,
        id: &str,
        params: &Params,
        key: &str,
    ) -> Result<Response, StripeError> {
        let name = "subscriptions.cancel";
        let path = format!("/v1/subscriptions/{}", id_of(name, id)?);
        self.delete(call(name, &path, params), key).await
    }

    /// Previews an invoice, with all of its lines. Changes nothing.
    pub async fn preview_invoice(&self, params: &Params) -> Result<Invoice, StripeError> {
        let (name, path) = ("invoices.create_preview", "/v1/invoices/create_preview");
        // A POST that creates nothing, so the key need not be kept.
        let key = uuid::Uuid::now_v7().to_string();
        let response = self.post(call(name, path, params), &key).await?;
        self.with_all_lines(response).await
    }

    pub async fn invoice(&self, id: &str) -> Result<Invoice, StripeError> {
        let name = "invoices.retrieve";
        let path = format!("/v1/invoices/{}", id_of(name, id)?);
        let response = self.get(call(name, &path, &Params::new())).await?;
        self.with_all_lines(response).await
    }

    async fn with_all_lines(&self, response: Response) -> Result<Invoice, StripeError> {
        let mut invoice = response.body;
        let more = invoice["lines"]["has_more"].as_bool().unwrap_or(false);
        if let (true, Some(id)) = (more, invoice["id"].as_str()) {
            let name = "invoices.lines";
            let path = format!("/v1/invoices/{}/lines", id_of(name, id)?);
            let lines: Vec<Value> = self.all(name, &path, Params::new()).await?;
            invoice["lines"]["data"] = Value::Array(lines);
            invoice["lines"]["has_more"] = Value::Bool(false);
        }
        Ok(Invoice(invoice))
    }

    pub async fn invoices(&self, customer: &str) -> Result<Vec<Value>, StripeError> {
        let params = Params::new().set("customer", customer);
        self.all("invoices.list", "/v1/invoices", params).await
    }

    /// A price by its id, whether or not it is active.
    pub async fn price(&self, id: &str) -> Result<Price, StripeError> {
        let name = "prices.retrieve";
        let path = format!("/v1/prices/{}", id_of(name, id)?);
        self.get_typed(name, &path, &Params::new()).await
    }

    /// An invoice with all of its lines and its payments, as of the response's time.
    pub async fn invoice_now(&self, id: &str) -> Result<Response, StripeError> {
        let name = "invoices.retrieve";
        let path = format!("/v1/invoices/{}", id_of(name, id)?);
        let params = Params::new().set("expand[0]", "payments");
        let response = self.get(call(name, &path, &params)).await?;
        let (request_id, date) = (response.request_id.clone(), response.date);
        let Invoice(body) = self.with_all_lines(response).await?;
        Ok(Response {
            body,
            request_id,
            date,
        })
    }

    pub async fn payment_method(&self, id: &str) -> Result<Response, StripeError> {
        let name = "payment_methods.retrieve";
        let path = format!("/v1/payment_methods/{}", id_of(name, id)?);
        self.get(call(name, &path, &Params::new())).await
    }

    /// The payment methods attached to a customer.
    pub async fn attached(&self, customer: &str) -> Result<Vec<Value>, StripeError> {
        let name = "payment_methods.list";
        let path = format!("/v1/customers/{}/payment_methods", id_of(name, customer)?);
        self.all(name, &path, Params::new()).await
    }

    /// Deletes a customer, which ends its subscriptions.
    pub async fn delete_customer(&self, id: &str, key: &str) -> Result<(), StripeError> {
        let name = "customers.delete";
        let path = format!("/v1/customers/{}", id_of(name, id)?);
        self.delete(call(name, &path, &Params::new()), key)
            .await
            .map(drop)
    }

    /// A page of events, newest first. `params` may have `created[gte]`,
    /// `starting_after`, `ending_before`.
    pub async fn events(&self, params: Params) -> Result<List<StripeEvent>, StripeError> {
        let params = params.set("limit", PAGE);
        self.get_typed("events.list", "/v1/events", &params).await
    }

    pub async fn webhook_endpoints(&self) -> Result<Vec<WebhookEndpoint>, StripeError> {
        let path = "/v1/webhook_endpoints";
        self.all("webhook_endpoints.list", path, Params::new())
            .await
    }

    /// The account of the key. Also the cheapest way to test the key.
    pub async fn account(&self) -> Result<Response, StripeError> {
        let path = "/v1/account";
        self.get(call("account.retrieve", path, &Params::new()))
            .await
    }

    /// The current time of a test clock, in seconds since 1970.
    pub async fn test_clock(&self, id: &str) -> Result<i64, StripeError> {
        let name = "test_clocks.retrieve";
        let path = format!("/v1/test_helpers/test_clocks/{}", id_of(name, id)?);
        let response = self.get(call(name, &path, &Params::new())).await?;
        response.body["frozen_time"].as_i64().ok_or_else(|| {
            StripeError::new(ErrorKind::Unreadable, name, "the clock has no frozen_time")
        })
    }
}
