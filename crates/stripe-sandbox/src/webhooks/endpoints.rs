//! Webhook endpoints.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::shape;
use crate::store::Keyed;

pub const ROUTES: &[Route] = &[
    post("/v1/webhook_endpoints", create),
    get("/v1/webhook_endpoints", list),
    get("/v1/webhook_endpoints/{id}", retrieve),
    post("/v1/webhook_endpoints/{id}", update),
    delete("/v1/webhook_endpoints/{id}", remove),
];

/// A webhook endpoint, which receives events.
#[derive(Debug, Clone)]
pub struct WebhookEndpoint {
    id: String,
    created_secs: i64,
    pub url: String,
    /// The event types that it receives; `*` means all.
    pub enabled_events: Vec<String>,
    /// The API version of its events; `None` means the account's.
    pub api_version: Option<String>,
    /// The signing secret. It is shown once, on creation.
    pub secret: String,
    /// Disabled endpoints receive nothing.
    pub enabled: bool,
    description: Option<String>,
    metadata: Metadata,
}

impl Keyed for WebhookEndpoint {
    fn id(&self) -> &str {
        &self.id
    }
}

impl WebhookEndpoint {
    /// Whether the endpoint receives events of this type.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        self.enabled
            && self
                .enabled_events
                .iter()
                .any(|event| event == "*" || event == kind)
    }

    /// The API object, without the secret.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "webhook_endpoint",
            "api_version": self.api_version,
            "application": null,
            "created": self.created_secs,
            "description": self.description,
            "enabled_events": self.enabled_events,
            "livemode": false,
            "metadata": self.metadata,
            "status": if self.enabled { "enabled" } else { "disabled" },
            "url": self.url,
        })
    }
}

fn check_url(url: &str) -> Result<(), ApiError> {
    let valid = url
        .parse::<axum::http::Uri>()
        .is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.authority().is_some());
    if valid {
        return Ok(());
    }
    if url.starts_with("https://") {
        return Err(ApiError::unsupported(
            "url",
            "delivery over https; use an http address",
        ));
    }
    Err(ApiError::bad_param(
        "url",
        "Invalid URL: An explicit scheme (such as https) must be provided.",
    )
    .code("url_invalid"))
}

fn take_events(params: &mut Params) -> Result<Option<Vec<String>>, ApiError> {
    let Some(events) = params.texts("enabled_events")? else {
        return Ok(None);
    };
    let well_formed = |event: &String| {
        event == "*"
            || event.contains('.')
                && event
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || b"._0123456789".contains(&byte))
    };
    if events.is_empty() || !events.iter().all(well_formed) {
        return Err(ApiError::bad_param(
            "enabled_events",
            "Invalid enabled_events: expected event types, or `*`.",
        ));
    }
    Ok(Some(events))
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let url = params.required("url")?;
    check_url(&url)?;
    let enabled_events =
        take_events(&mut params)?.ok_or_else(|| ApiError::missing_param("enabled_events"))?;
    let api_version = params.text("api_version")?;
    let description = params.text("description")?;
    let metadata = MetadataChange::take(&mut params)?.initial();
    params.finish_rejecting(&["connect"])?;
    if let Some(version) = &api_version {
        shape::check_version(version).map_err(|error| error.param("api_version"))?;
    }
    let state = &mut *call.state;
    let endpoint = WebhookEndpoint {
        id: state.ids.next("we"),
        created_secs: state.wall_secs,
        url,
        enabled_events,
        api_version,
        secret: format!("whsec_{}", state.ids.token(32)),
        enabled: true,
        description,
        metadata,
    };
    let mut response = endpoint.render();
    response["secret"] = json!(endpoint.secret);
    state.endpoints.insert(endpoint);
    Ok(response)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let endpoint = call.state.endpoints.get(&id);
    endpoint
        .map(WebhookEndpoint::render)
        .ok_or_else(|| ApiError::no_such("webhook endpoint", &id, "id"))
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = call.id();
    let mut endpoint = call
        .state
        .endpoints
        .get(&id)
        .cloned()
        .ok_or_else(|| ApiError::no_such("webhook endpoint", &id, "id"))?;
    if let Some(url) = params.text("url")? {
        check_url(&url)?;
        endpoint.url = url;
    }
    if let Some(events) = take_events(&mut params)? {
        endpoint.enabled_events = events;
    }
    if let Some(description) = params.clearable("description")? {
        endpoint.description = description;
    }
    if let Some(disabled) = params.boolean("disabled")? {
        endpoint.enabled = !disabled;
    }
    let metadata = MetadataChange::take(&mut params)?;
    metadata.check_room(&endpoint.metadata, "metadata")?;
    metadata.apply(&mut endpoint.metadata);
    params.finish()?;
    call.state.endpoints.insert(endpoint);
    call.render(&id)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    params.finish()?;
    call.render_page(
        &page,
        "webhook endpoint",
        "/v1/webhook_endpoints",
        call.state.endpoints.iter().rev(),
        |_| true,
    )
}

fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    call.state
        .endpoints
        .remove(&id)
        .ok_or_else(|| ApiError::no_such("webhook endpoint", &id, "id"))?;
    Ok(json!({ "id": id, "object": "webhook_endpoint", "deleted": true }))
}
