//! Meters, which define how usage is aggregated.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::state::State;
use crate::store::Keyed;

pub const ROUTES: &[Route] = &[
    post("/v1/billing/meters", create),
    get("/v1/billing/meters", list),
    get("/v1/billing/meters/{id}", retrieve),
    post("/v1/billing/meters/{id}", update),
    post("/v1/billing/meters/{id}/deactivate", deactivate),
    post("/v1/billing/meters/{id}/reactivate", reactivate),
];

/// How the events of a period are aggregated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formula {
    Sum,
    Count,
    Last,
}

impl Formula {
    const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Last => "last",
        }
    }
}

/// A meter.
#[derive(Debug, Clone)]
pub struct Meter {
    id: String,
    created_secs: i64,
    updated_secs: i64,
    /// The name that events refer to; unique among active meters.
    pub event_name: String,
    display_name: String,
    pub formula: Formula,
    /// The payload key that holds the customer id.
    pub customer_key: String,
    /// The payload key that holds the value.
    pub value_key: String,
    event_time_window: Option<&'static str>,
    /// Inactive meters refuse events.
    pub active: bool,
    deactivated_secs: Option<i64>,
}

impl Keyed for Meter {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Meter {
    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "billing.meter",
            "created": self.created_secs,
            "customer_mapping": { "event_payload_key": self.customer_key, "type": "by_id" },
            "default_aggregation": { "formula": self.formula.name() },
            "display_name": self.display_name,
            "event_name": self.event_name,
            "event_time_window": self.event_time_window,
            "livemode": false,
            "status": if self.active { "active" } else { "inactive" },
            "status_transitions": { "deactivated_at": self.deactivated_secs },
            "updated": self.updated_secs,
            "value_settings": { "event_payload_key": self.value_key },
        })
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let display_name = params.required("display_name")?;
    let event_name = params.required("event_name")?;
    let mut aggregation = params
        .map("default_aggregation")?
        .ok_or_else(|| ApiError::missing_param("default_aggregation"))?;
    let formula = match aggregation.choice("formula", &["count", "last", "sum"])? {
        Some("count") => Formula::Count,
        Some("last") => Formula::Last,
        Some(_) => Formula::Sum,
        None => return Err(ApiError::missing_param("default_aggregation[formula]")),
    };
    aggregation.finish()?;
    let mut customer_key = "stripe_customer_id".to_owned();
    if let Some(mut mapping) = params.map("customer_mapping")? {
        mapping.choice("type", &["by_id"])?;
        customer_key = mapping.required("event_payload_key")?;
        mapping.finish()?;
    }
    let mut value_key = "value".to_owned();
    if let Some(mut settings) = params.map("value_settings")? {
        value_key = settings.required("event_payload_key")?;
        settings.finish()?;
    }
    let event_time_window = params.choice("event_time_window", &["day", "hour"])?;
    params.finish()?;
    if call
        .state
        .meters
        .iter()
        .any(|meter| meter.active && meter.event_name == event_name)
    {
        return Err(ApiError::bad_param(
            "event_name",
            format!("An active meter already exists for event name `{event_name}`."),
        ));
    }
    let now = call.state.wall_secs;
    let id = call.state.ids.next("mtr_test");
    call.state.meters.insert(Meter {
        id: id.clone(),
        created_secs: now,
        updated_secs: now,
        event_name,
        display_name,
        formula,
        customer_key,
        value_key,
        event_time_window,
        active: true,
        deactivated_secs: None,
    });
    call.state.emit("billing.meter.created", &id, now);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    find(call.state, &id).map(Meter::render)
}

/// The meter with this id, or a 404.
pub fn find<'a>(state: &'a State, id: &str) -> Result<&'a Meter, ApiError> {
    state
        .meters
        .get(id)
        .ok_or_else(|| ApiError::no_such("meter", id, "id"))
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let display_name = params.text("display_name")?;
    params.finish()?;
    change(call, "billing.meter.updated", |meter| {
        if let Some(name) = display_name {
            meter.display_name = name;
        }
    })
}

fn deactivate(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let now = call.state.wall_secs;
    change(call, "billing.meter.deactivated", |meter| {
        meter.active = false;
        meter.deactivated_secs = Some(now);
    })
}

fn reactivate(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    change(call, "billing.meter.reactivated", |meter| {
        meter.active = true;
        meter.deactivated_secs = None;
    })
}

fn change(
    call: &mut Call<'_>,
    event: &'static str,
    apply: impl FnOnce(&mut Meter),
) -> Result<Value, ApiError> {
    let id = call.id();
    let mut meter = find(call.state, &id)?.clone();
    let now = call.state.wall_secs;
    apply(&mut meter);
    meter.updated_secs = now;
    let before = call.state.snapshot(&id);
    call.state.meters.insert(meter);
    call.state.emit_update(event, &id, before, now);
    call.render(&id)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let status = params.choice("status", &["active", "inactive"])?;
    params.finish()?;
    let filter = |meter: &Meter| status.is_none_or(|status| (status == "active") == meter.active);
    call.render_page(
        &page,
        "meter",
        "/v1/billing/meters",
        call.state.meters.iter().rev(),
        filter,
    )
}
