//! Test clocks: time that advances on request.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::schedule;
use crate::state::State;
use crate::store::Keyed;
use crate::{customers, subscriptions};

pub const ROUTES: &[Route] = &[
    post("/v1/test_helpers/test_clocks", create),
    get("/v1/test_helpers/test_clocks", list),
    get("/v1/test_helpers/test_clocks/{id}", retrieve),
    delete("/v1/test_helpers/test_clocks/{id}", remove),
    post("/v1/test_helpers/test_clocks/{id}/advance", advance),
];

const MONTH_SECS: i64 = 30 * 86_400;
const TWO_YEARS_SECS: i64 = 730 * 86_400;

/// A test clock.
#[derive(Debug, Clone)]
pub struct TestClock {
    id: String,
    created_secs: i64,
    /// The current time of the clock.
    pub frozen_secs: i64,
    name: Option<String>,
    status: &'static str,
}

impl Keyed for TestClock {
    fn id(&self) -> &str {
        &self.id
    }
}

impl TestClock {
    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "test_helpers.test_clock",
            "created": self.created_secs,
            "deletes_after": self.created_secs + MONTH_SECS,
            "frozen_time": self.frozen_secs,
            "livemode": false,
            "name": self.name,
            "status": self.status,
            "status_details": {},
        })
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let frozen_secs = params
        .integer("frozen_time")?
        .ok_or_else(|| ApiError::missing_param("frozen_time"))?;
    let name = params.text("name")?;
    params.finish()?;
    if jiff::Timestamp::from_second(frozen_secs).is_err() || frozen_secs < 0 {
        return Err(ApiError::bad_param("frozen_time", "Invalid timestamp."));
    }
    let created_secs = call.state.wall_secs;
    let id = call.state.ids.next("clock");
    call.state.test_clocks.insert(TestClock {
        id: id.clone(),
        created_secs,
        frozen_secs,
        name,
        status: "ready",
    });
    call.state
        .emit("test_helpers.test_clock.created", &id, created_secs);
    call.render(&id)
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a TestClock, ApiError> {
    state
        .test_clocks
        .get(id)
        .ok_or_else(|| ApiError::no_such("test clock", id, "id"))
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    find(call.state, &call.id()).map(TestClock::render)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    params.finish()?;
    call.render_page(
        &page,
        "test clock",
        "/v1/test_helpers/test_clocks",
        call.state.test_clocks.iter().rev(),
        |_| true,
    )
}

/// Advances the clock. Due events happen in order, each at its own time. The
/// response says `advancing`, as at Stripe; by the next request the clock is
/// ready.
fn advance(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let until = params
        .integer("frozen_time")?
        .ok_or_else(|| ApiError::missing_param("frozen_time"))?;
    params.finish()?;
    let id = call.id();
    let state = &mut *call.state;
    let from = find(state, &id)?.frozen_secs;
    if until <= from || jiff::Timestamp::from_second(until).is_err() {
        return Err(ApiError::bad_param(
            "frozen_time",
            "The frozen time must be later than the clock's current time.",
        ));
    }
    check_reach(state, &id, from, until)?;
    set_status(state, &id, "advancing");
    let wall = state.wall_secs;
    state.emit("test_helpers.test_clock.advancing", &id, wall);
    let mut response = find(state, &id)?.render();
    response["status_details"] = json!({ "advancing": { "target_frozen_time": until } });
    schedule::run(state, Some(&id), until)?;
    if let Some(clock) = state.test_clocks.get_mut(&id) {
        clock.frozen_secs = until;
    }
    set_status(state, &id, "ready");
    state.emit("test_helpers.test_clock.ready", &id, wall);
    Ok(response)
}

fn set_status(state: &mut State, id: &str, status: &'static str) {
    if let Some(clock) = state.test_clocks.get_mut(id) {
        clock.status = status;
    }
}

/// Refuses to advance by more than two intervals of the shortest subscription.
/// Stripe has the same limit, and a test that passes here must not fail there.
fn check_reach(
    state: &State,
    clock: &str,
    from_secs: i64,
    until_secs: i64,
) -> Result<(), ApiError> {
    let farthest = state
        .subscriptions
        .iter()
        .filter(|subscription| {
            subscription.status.renews() && subscription.clock(state) == Some(clock)
        })
        .filter_map(|subscription| subscription.cadence.boundary(from_secs, 2).ok())
        .min();
    let farthest = farthest.unwrap_or(from_secs + TWO_YEARS_SECS);
    if until_secs > farthest {
        return Err(ApiError::bad_param(
            "frozen_time",
            "You cannot advance a test clock by more than two intervals of its shortest subscription, or two years without one.",
        ));
    }
    Ok(())
}

fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let state = &mut *call.state;
    find(state, &id)?;
    let on_clock: Vec<String> = state
        .customers
        .iter()
        .filter(|customer| customer.test_clock.as_deref() == Some(&id) && !customer.deleted)
        .map(|customer| customer.id().to_owned())
        .collect();
    for customer in on_clock {
        let now = state.now_for(&customer);
        subscriptions::cancel::all_of(state, &customer, now)?;
        customers::erase(state, &customer)?;
    }
    let (last, wall) = (state.snapshot(&id), state.wall_secs);
    state.test_clocks.remove(&id);
    if let Some(last) = last {
        state.emit_snapshot("test_helpers.test_clock.deleted", last, wall);
    }
    Ok(json!({ "id": id, "object": "test_helpers.test_clock", "deleted": true }))
}
