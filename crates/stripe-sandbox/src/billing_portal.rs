//! The customer portal: its configurations, and sessions that lead to it.

pub mod page;

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::state::State;
use crate::store::Keyed;

pub const ROUTES: &[Route] = &[
    post("/v1/billing_portal/configurations", create_configuration),
    get("/v1/billing_portal/configurations", list_configurations),
    get("/v1/billing_portal/configurations/{id}", retrieve),
    post(
        "/v1/billing_portal/configurations/{id}",
        update_configuration,
    ),
    post("/v1/billing_portal/sessions", create_session),
];

/// What customers may change of themselves.
const UPDATES: [&str; 6] = ["address", "email", "name", "phone", "shipping", "tax_id"];

/// What a portal offers.
#[derive(Debug, Clone)]
pub struct Configuration {
    id: String,
    created_secs: i64,
    updated_secs: i64,
    active: bool,
    is_default: bool,
    default_return_url: Option<String>,
    headline: Option<String>,
    customer_update: Vec<String>,
    invoice_history: bool,
    payment_method_update: bool,
    subscription_cancel: bool,
    subscription_update: bool,
    metadata: Metadata,
}

/// A customer's way to the portal. Its token is its address, and its only credential.
#[derive(Debug, Clone)]
pub struct Session {
    token: String,
    customer: String,
    configuration: String,
    return_url: Option<String>,
}

impl Keyed for Session {
    fn id(&self) -> &str {
        &self.token
    }
}

impl Keyed for Configuration {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Configuration {
    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "billing_portal.configuration",
            "active": self.active,
            "application": null,
            "business_profile": {
                "headline": self.headline,
                "privacy_policy_url": null,
                "terms_of_service_url": null,
            },
            "created": self.created_secs,
            "default_return_url": self.default_return_url,
            "features": {
                "customer_update": {
                    "allowed_updates": self.customer_update,
                    "enabled": !self.customer_update.is_empty(),
                },
                "invoice_history": { "enabled": self.invoice_history },
                "payment_method_update": {
                    "enabled": self.payment_method_update,
                    "payment_method_configuration": null,
                },
                "subscription_cancel": {
                    "cancellation_reason": { "enabled": false, "options": [] },
                    "enabled": self.subscription_cancel,
                    "mode": "at_period_end",
                    "proration_behavior": "none",
                },
                "subscription_update": {
                    "billing_cycle_anchor": null,
                    "default_allowed_updates": [],
                    "enabled": self.subscription_update,
                    "proration_behavior": "none",
                    "trial_update_behavior": "end_trial",
                },
            },
            "is_default": self.is_default,
            "livemode": false,
            "login_page": { "enabled": false, "url": null },
            "metadata": self.metadata,
            "name": null,
            "updated": self.updated_secs,
        })
    }

    fn take(&mut self, params: &mut Params) -> Result<(), ApiError> {
        if let Some(active) = params.boolean("active")? {
            self.active = active;
        }
        if let Some(url) = params.clearable("default_return_url")? {
            self.default_return_url = url;
        }
        if let Some(mut profile) = params.map("business_profile")? {
            if let Some(headline) = profile.clearable_up_to("headline", 60)? {
                self.headline = headline;
            }
            profile.finish_rejecting(&["privacy_policy_url", "terms_of_service_url"])?;
        }
        if let Some(mut features) = params.map("features")? {
            self.take_features(&mut features)?;
            features.finish()?;
        }
        MetadataChange::take(params)?.apply(&mut self.metadata);
        Ok(())
    }

    fn take_features(&mut self, features: &mut Params) -> Result<(), ApiError> {
        if let Some(mut update) = features.map("customer_update")? {
            let enabled = update.boolean("enabled")?.unwrap_or(true);
            let name = update.name("allowed_updates");
            if let Some(allowed) = update.texts("allowed_updates")? {
                let unknown = allowed.iter().find(|one| !UPDATES.contains(&one.as_str()));
                if unknown.is_some() {
                    return Err(ApiError::bad_param(
                        &name,
                        format!("Invalid {name}: must be one of {}", UPDATES.join(", ")),
                    ));
                }
                self.customer_update = allowed;
            }
            update.finish()?;
            if !enabled {
                self.customer_update.clear();
            }
        }
        let mut switch = |name: &str, unsupported: &[&str]| -> Result<Option<bool>, ApiError> {
            let Some(mut feature) = features.map(name)? else {
                return Ok(None);
            };
            let enabled = feature.boolean("enabled")?;
            feature.finish_rejecting(unsupported)?;
            Ok(enabled)
        };
        let history = switch("invoice_history", &[])?;
        let methods = switch("payment_method_update", &["payment_method_configuration"])?;
        let cancel = switch(
            "subscription_cancel",
            &["cancellation_reason", "mode", "proration_behavior"],
        )?;
        let update = switch(
            "subscription_update",
            &[
                "billing_cycle_anchor",
                "default_allowed_updates",
                "products",
                "proration_behavior",
                "schedule_at_period_end",
                "trial_update_behavior",
            ],
        )?;
        if update == Some(true) {
            return Err(ApiError::missing_param(
                "features[subscription_update][products]",
            ));
        }
        self.invoice_history = history.unwrap_or(self.invoice_history);
        self.payment_method_update = methods.unwrap_or(self.payment_method_update);
        self.subscription_cancel = cancel.unwrap_or(self.subscription_cancel);
        self.subscription_update = update.unwrap_or(self.subscription_update);
        Ok(())
    }
}

fn find<'a>(state: &'a State, id: &str, param: &str) -> Result<&'a Configuration, ApiError> {
    state
        .portal_configurations
        .get(id)
        .ok_or_else(|| ApiError::no_such("configuration", id, param))
}

fn create_configuration(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    if !params.has("features") {
        return Err(ApiError::missing_param("features"));
    }
    let now = call.state.wall_secs;
    let mut made = Configuration {
        id: String::new(),
        created_secs: now,
        updated_secs: now,
        active: true,
        is_default: false,
        default_return_url: None,
        headline: None,
        customer_update: Vec::new(),
        invoice_history: false,
        payment_method_update: false,
        subscription_cancel: false,
        subscription_update: false,
        metadata: Metadata::new(),
    };
    made.take(&mut params)?;
    params.finish_rejecting(&["login_page", "name"])?;
    made.id = call.state.ids.next("bpc");
    let id = made.id.clone();
    call.state.portal_configurations.insert(made);
    call.state
        .emit("billing_portal.configuration.created", &id, now);
    call.render(&id)
}

fn update_configuration(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = call.id();
    let mut changed = find(call.state, &id, "id")?.clone();
    changed.take(&mut params)?;
    params.finish_rejecting(&["login_page", "name"])?;
    let now = call.state.wall_secs;
    changed.updated_secs = now;
    let before = call.state.snapshot(&id);
    call.state.portal_configurations.insert(changed);
    call.state
        .emit_update("billing_portal.configuration.updated", &id, before, now);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    find(call.state, &call.id(), "id").map(Configuration::render)
}

fn list_configurations(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let active = params.boolean("active")?;
    let default = params.boolean("is_default")?;
    params.finish()?;
    let filter = |one: &Configuration| {
        active.is_none_or(|active| one.active == active)
            && default.is_none_or(|default| one.is_default == default)
    };
    call.render_page(
        &page,
        "configuration",
        "/v1/billing_portal/configurations",
        call.state.portal_configurations.iter().rev(),
        filter,
    )
}

fn create_session(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let customer = params.required("customer")?;
    let configuration = params.text("configuration")?;
    let return_url = params.text("return_url")?;
    let locale = params.text("locale")?;
    params.finish_rejecting(&["customer_account", "flow_data", "on_behalf_of"])?;
    call.state.customer(&customer, "customer")?;
    let configuration = configuration.ok_or_else(|| {
        ApiError::invalid(
            "You can’t create a portal session in test mode until you save your customer portal settings in test mode, or pass `configuration`.",
        )
    })?;
    let offered = find(call.state, &configuration, "configuration")?;
    if !offered.active {
        return Err(ApiError::bad_param(
            "configuration",
            "The provided configuration is not active.",
        ));
    }
    let return_url = return_url.or_else(|| offered.default_return_url.clone());
    let state = &mut *call.state;
    let id = state.ids.next("bps");
    let base = state.config.public_url.clone().unwrap_or_default();
    let token = state.ids.token(40);
    state.portal_sessions.insert(Session {
        token: token.clone(),
        customer: customer.clone(),
        configuration: configuration.clone(),
        return_url: return_url.clone(),
    });
    Ok(json!({
        "id": id,
        "object": "billing_portal.session",
        "configuration": configuration,
        "created": state.wall_secs,
        "customer": customer,
        "customer_account": null,
        "flow": null,
        "livemode": false,
        "locale": locale,
        "on_behalf_of": null,
        "return_url": return_url,
        "url": format!("{base}/p/session/{token}"),
    }))
}
