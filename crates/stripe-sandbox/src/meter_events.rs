//! Usage: meter events, their cancellation, and summaries.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::faults;
use crate::list::{self, Page};
use crate::meters::{self, Formula, Meter};
use crate::state::State;
use crate::store::Keyed;

pub const ROUTES: &[Route] = &[
    post("/v1/billing/meter_events", create),
    post("/v1/billing/meter_event_adjustments", adjust),
    get("/v1/billing/meters/{id}/event_summaries", summaries),
];

const DAY_SECS: i64 = 86_400;
/// How far in the past a timestamp may lie.
const MAX_AGE_SECS: i64 = 35 * DAY_SECS;
/// How far in the future a timestamp may lie.
const MAX_AHEAD_SECS: i64 = 300;
const MAX_IDENTIFIER_BYTES: usize = 100;

/// One usage report.
#[derive(Debug, Clone)]
pub struct MeterEvent {
    identifier: String,
    event_name: String,
    customer: String,
    value: i64,
    timestamp_secs: i64,
    canceled: bool,
    /// When, by the wall clock, Stripe has counted it: some time after it was accepted.
    counted_from_secs: i64,
}

impl Keyed for MeterEvent {
    fn id(&self) -> &str {
        &self.identifier
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let event_name = params.required("event_name")?;
    let payload = params
        .pairs("payload")?
        .flatten()
        .ok_or_else(|| ApiError::missing_param("payload"))?;
    let identifier = params.text("identifier")?;
    let timestamp = params.integer("timestamp")?;
    params.finish()?;
    let state = &mut *call.state;
    let meter = state
        .meters
        .iter()
        .find(|meter| meter.active && meter.event_name == event_name)
        .ok_or_else(|| {
            ApiError::bad_param(
                "event_name",
                format!("No active meter found for event name `{event_name}`."),
            )
            .code("no_meter")
        })?;
    let (customer, value) = read_payload(meter, &payload)?;
    state.customer(&customer, "payload[stripe_customer_id]")?;
    let now = state.now_for(&customer);
    let timestamp_secs = timestamp.unwrap_or(now);
    check_timestamp(timestamp_secs, now)?;
    let identifier = new_identifier(state, identifier)?;
    let counted_from_secs = faults::take_counting(state);
    state.meter_events.insert(MeterEvent {
        identifier: identifier.clone(),
        event_name: event_name.clone(),
        customer,
        value,
        timestamp_secs,
        canceled: false,
        counted_from_secs,
    });
    let payload: serde_json::Map<String, Value> = payload
        .into_iter()
        .map(|(key, value)| (key, json!(value)))
        .collect();
    Ok(json!({
        "object": "billing.meter_event",
        "created": now,
        "event_name": event_name,
        "identifier": identifier,
        "livemode": false,
        "payload": payload,
        "timestamp": timestamp_secs,
    }))
}

fn check_timestamp(timestamp_secs: i64, now_secs: i64) -> Result<(), ApiError> {
    if (now_secs - MAX_AGE_SECS..=now_secs + MAX_AHEAD_SECS).contains(&timestamp_secs) {
        return Ok(());
    }
    Err(ApiError::bad_param(
        "timestamp",
        "The timestamp must be within the past 35 days and up to 5 minutes in the future.",
    )
    .code("timestamp_out_of_range"))
}

/// The identifier of a new event, generated if none was given.
fn new_identifier(state: &mut State, identifier: Option<String>) -> Result<String, ApiError> {
    if identifier
        .as_ref()
        .is_some_and(|identifier| identifier.len() > MAX_IDENTIFIER_BYTES)
    {
        return Err(ApiError::bad_param(
            "identifier",
            "An identifier has at most 100 characters.",
        ));
    }
    let identifier = identifier.unwrap_or_else(|| state.ids.next("mevt"));
    if state.meter_events.get(&identifier).is_some() {
        return Err(ApiError::bad_param(
            "identifier",
            format!("An event already exists with identifier {identifier}."),
        )
        .code("duplicate_meter_event"));
    }
    Ok(identifier)
}

fn read_payload(meter: &Meter, payload: &[(String, String)]) -> Result<(String, i64), ApiError> {
    let find = |key: &str| {
        payload
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    };
    let param = |key: &str| format!("payload[{key}]");
    let customer = find(&meter.customer_key)
        .ok_or_else(|| ApiError::missing_param(&param(&meter.customer_key)))?;
    let value = match find(&meter.value_key) {
        None if meter.formula == Formula::Count => 1,
        None => return Err(ApiError::missing_param(&param(&meter.value_key))),
        Some(text) => text.parse().map_err(|_| {
            ApiError::bad_param(
                &param(&meter.value_key),
                format!("Invalid value: {text}; usage is in whole units."),
            )
            .code("meter_event_invalid_value")
        })?,
    };
    Ok((customer, value))
}

impl State {
    /// Counts an accepted event no more. Returns its name; `None` if there is no such event.
    pub fn reject_meter_event(&mut self, identifier: &str) -> Option<String> {
        let event = self.meter_events.get_mut(identifier)?;
        event.canceled = true;
        Some(event.event_name.clone())
    }
}

/// Counts what was accepted and is still to be counted.
pub fn count_all(state: &mut State) {
    let now = state.wall_secs;
    let late: Vec<String> = state
        .meter_events
        .iter()
        .filter(|event| event.counted_from_secs > now)
        .map(|event| event.identifier.clone())
        .collect();
    for identifier in late {
        if let Some(event) = state.meter_events.get_mut(&identifier) {
            event.counted_from_secs = now;
        }
    }
}

/// The usage of a customer on a meter in `from <= t < to`, as far as it is counted; never
/// negative.
#[must_use]
pub fn usage(state: &State, meter: &str, customer: &str, from_secs: i64, to_secs: i64) -> u64 {
    let Some(meter) = state.meters.get(meter) else {
        return 0;
    };
    let events = state.meter_events.iter().filter(|event| {
        !event.canceled
            && event.counted_from_secs <= state.wall_secs
            && event.customer == customer
            && event.event_name == meter.event_name
            && (from_secs..to_secs).contains(&event.timestamp_secs)
    });
    let total = match meter.formula {
        Formula::Sum => events.map(|event| i128::from(event.value)).sum(),
        Formula::Count => i128::try_from(events.count()).unwrap_or(i128::MAX),
        // Of several events in the same second, the last one received wins.
        Formula::Last => events
            .max_by_key(|event| event.timestamp_secs)
            .map_or(0, |event| i128::from(event.value)),
    };
    u64::try_from(total.max(0)).unwrap_or(u64::MAX)
}

fn adjust(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let event_name = params.required("event_name")?;
    if params.choice("type", &["cancel"])?.is_none() {
        return Err(ApiError::missing_param("type"));
    }
    let mut cancel = params
        .map("cancel")?
        .ok_or_else(|| ApiError::missing_param("cancel"))?;
    let identifier = cancel.required("identifier")?;
    cancel.finish()?;
    params.finish()?;
    let event = call
        .state
        .meter_events
        .get_mut(&identifier)
        .filter(|event| event.event_name == event_name)
        .ok_or_else(|| ApiError::no_such("meter event", &identifier, "cancel[identifier]"))?;
    event.canceled = true;
    Ok(json!({
        "object": "billing.meter_event_adjustment",
        "cancel": { "identifier": identifier },
        "event_name": event_name,
        "livemode": false,
        "status": "complete",
        "type": "cancel",
    }))
}

fn summaries(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let customer = params.required("customer")?;
    let mut bound = |name: &str| {
        let value = params
            .integer(name)?
            .ok_or_else(|| ApiError::missing_param(name))?;
        if value % 60 == 0 {
            Ok(value)
        } else {
            Err(ApiError::bad_param(
                name,
                format!("`{name}` must be aligned with minute boundaries."),
            ))
        }
    };
    let (start, end) = (bound("start_time")?, bound("end_time")?);
    let window = params.choice("value_grouping_window", &["day", "hour"])?;
    params.finish()?;
    let id = call.id();
    meters::find(call.state, &id)?;
    call.state.customer(&customer, "customer")?;
    if end <= start {
        return Err(ApiError::bad_param(
            "end_time",
            "`end_time` must be after `start_time`.",
        ));
    }
    let step = match window {
        Some("day") => DAY_SECS,
        Some(_) => 3_600,
        None => end - start,
    };
    if (end - start) / step > 10_000 {
        return Err(ApiError::bad_param(
            "start_time",
            "The time range holds too many windows.",
        ));
    }
    let rows: Vec<Summary> = windows(start, end, step)
        .map(|(from, to)| Summary {
            id: format!("mtrusg_{id}_{from}"),
            from,
            to,
            value: usage(call.state, &id, &customer, from, to),
        })
        .filter(|row| window.is_none() || row.value > 0)
        .collect();
    let (rows, has_more) = page.select("event summary", rows.iter().rev(), |_| true)?;
    let data = rows.into_iter().map(|row| row.render(&id)).collect();
    Ok(list::object(
        data,
        has_more,
        &format!("/v1/billing/meters/{id}/event_summaries"),
    ))
}

struct Summary {
    id: String,
    from: i64,
    to: i64,
    value: u64,
}

impl Keyed for Summary {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Summary {
    fn render(&self, meter: &str) -> Value {
        json!({
            "id": self.id,
            "object": "billing.meter_event_summary",
            "aggregated_value": self.value,
            "end_time": self.to,
            "livemode": false,
            "meter": meter,
            "start_time": self.from,
        })
    }
}

fn windows(start: i64, end: i64, step: i64) -> impl Iterator<Item = (i64, i64)> {
    std::iter::successors(Some(start), move |from| Some(from + step))
        .take_while(move |from| *from < end)
        .map(move |from| (from, (from + step).min(end)))
}
