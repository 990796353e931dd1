//! Events: a record of every change, in both shapes.

use serde_json::{Map, Value, json};

use crate::call::{Call, Route, get};
use crate::error::ApiError;
use crate::list::Page;
use crate::shape::Shape;
use crate::state::{Origin, State};
use crate::store::Keyed;
use crate::webhooks::delivery;

pub const ROUTES: &[Route] = &[get("/v1/events", list), get("/v1/events/{id}", retrieve)];

/// An object as it was at one point in time, in both shapes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    legacy: Value,
    basil: Value,
}

impl Snapshot {
    const fn in_shape(&self, shape: Shape) -> &Value {
        match shape {
            Shape::Legacy => &self.legacy,
            Shape::Basil => &self.basil,
        }
    }
}

/// Something that happened to an object.
#[derive(Debug, Clone)]
pub struct Event {
    id: String,
    /// Unix time, on the clock of the customer concerned.
    pub created_secs: i64,
    /// The type, such as `invoice.paid`.
    pub kind: &'static str,
    object: Snapshot,
    before: Option<Snapshot>,
    origin: Origin,
    /// The number of deliveries that have not succeeded yet.
    pub pending_deliveries: u32,
    /// Whether a delivery was abandoned.
    pub abandoned: bool,
}

impl Keyed for Event {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Event {
    /// The event as listed by `/v1/events`, in the account's API version.
    #[must_use]
    pub fn render(&self, state: &State) -> Value {
        self.render_version(&state.config.api_version)
    }

    /// The event as sent to an endpoint with this API version.
    #[must_use]
    pub fn render_version(&self, version: &str) -> Value {
        let shape = Shape::of(version);
        let mut data = Map::new();
        data.insert("object".to_owned(), self.object.in_shape(shape).clone());
        if let Some(before) = &self.before {
            let previous = difference(before.in_shape(shape), self.object.in_shape(shape));
            data.insert("previous_attributes".to_owned(), Value::Object(previous));
        }
        json!({
            "id": self.id,
            "object": "event",
            "api_version": version,
            "created": self.created_secs,
            "data": data,
            "livemode": false,
            "pending_webhooks": self.pending_deliveries,
            "request": {
                "id": self.origin.request_id,
                "idempotency_key": self.origin.idempotency_key,
            },
            "type": self.kind,
        })
    }
}

/// The previous values of what changed: objects key by key, lists as a whole.
fn difference(before: &Value, after: &Value) -> Map<String, Value> {
    let empty = Map::new();
    let (before, after) = (
        before.as_object().unwrap_or(&empty),
        after.as_object().unwrap_or(&empty),
    );
    let mut previous = Map::new();
    for (key, old) in before {
        let new = after.get(key).unwrap_or(&Value::Null);
        if old == new {
            continue;
        }
        let value = if old.is_object() && new.is_object() {
            Value::Object(difference(old, new))
        } else {
            old.clone()
        };
        previous.insert(key.clone(), value);
    }
    for key in after.keys().filter(|key| !before.contains_key(*key)) {
        previous.insert(key.clone(), Value::Null);
    }
    previous
}

impl State {
    /// The current state of an object, to compare with a later one.
    #[must_use]
    pub fn snapshot(&self, id: &str) -> Option<Snapshot> {
        Some(Snapshot {
            legacy: self.render(id, Shape::Legacy)?,
            basil: self.render(id, Shape::Basil)?,
        })
    }

    /// Records an event about an object.
    pub fn emit(&mut self, kind: &'static str, id: &str, at_secs: i64) {
        if let Some(object) = self.snapshot(id) {
            self.record(kind, object, None, at_secs);
        }
    }

    /// Records an update, with the changes since `before`. Nothing is recorded
    /// if nothing changed.
    pub fn emit_update(
        &mut self,
        kind: &'static str,
        id: &str,
        before: Option<Snapshot>,
        at_secs: i64,
    ) {
        let (Some(before), Some(object)) = (before, self.snapshot(id)) else {
            return;
        };
        if before.basil != object.basil || before.legacy != object.legacy {
            self.record(kind, object, Some(before), at_secs);
        }
    }

    /// Records an event with the state of an object before its deletion.
    pub fn emit_snapshot(&mut self, kind: &'static str, object: Snapshot, at_secs: i64) {
        self.record(kind, object, None, at_secs);
    }

    /// Records an event about an object that is not stored, such as a preview.
    pub fn emit_object(&mut self, kind: &'static str, legacy: Value, basil: Value, at_secs: i64) {
        self.record(kind, Snapshot { legacy, basil }, None, at_secs);
    }

    fn record(
        &mut self,
        kind: &'static str,
        object: Snapshot,
        before: Option<Snapshot>,
        created_secs: i64,
    ) {
        let id = self.ids.next("evt");
        let targets = delivery::targets(self, kind);
        self.events.insert(Event {
            id: id.clone(),
            created_secs,
            kind,
            object,
            before,
            origin: self.origin.clone(),
            pending_deliveries: u32::try_from(targets.len()).unwrap_or(u32::MAX),
            abandoned: false,
        });
        delivery::enqueue(self, &id, targets);
    }
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let kind = params.text("type")?;
    let kinds = params.texts("types")?;
    let delivered = params.boolean("delivery_success")?;
    params.finish()?;
    if kind.is_some() && kinds.is_some() {
        return Err(ApiError::bad_param(
            "types",
            "You may pass only one of `type` and `types`.",
        ));
    }
    let filter = |event: &Event| {
        created.contains(event.created_secs)
            && kind
                .as_ref()
                .is_none_or(|pattern| matches_type(pattern, event.kind))
            && kinds
                .as_ref()
                .is_none_or(|kinds| kinds.iter().any(|kind| kind == event.kind))
            && delivered
                .is_none_or(|wanted| wanted == (event.pending_deliveries == 0 && !event.abandoned))
    };
    call.render_page(
        &page,
        "event",
        "/v1/events",
        call.state.events.iter().rev(),
        filter,
    )
}

/// Whether a type matches a pattern: `invoice.*` matches every type under
/// `invoice.`, and `*` matches all.
#[must_use]
pub fn matches_type(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => pattern == kind,
    }
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let event = call.state.events.get(&id);
    event
        .map(|event| event.render(call.state))
        .ok_or_else(|| ApiError::no_such("event", &id, "id"))
}
