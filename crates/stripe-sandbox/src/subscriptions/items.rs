//! `/v1/subscription_items`: changes of single items, as changes of the
//! subscription.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::list::{self, Page};
use crate::params::Params;
use crate::state::State;
use crate::store::Keyed;
use crate::subscriptions::model::{Item, Subscription};
use crate::subscriptions::update;

pub const ROUTES: &[Route] = &[
    post("/v1/subscription_items", create),
    get("/v1/subscription_items", list),
    get("/v1/subscription_items/{id}", retrieve),
    post("/v1/subscription_items/{id}", change),
    delete("/v1/subscription_items/{id}", remove),
];

/// The parameters of the item. All others apply to the subscription change.
const ITEM_PARAMS: [&str; 5] = ["price", "plan", "quantity", "metadata", "clear_usage"];

impl Keyed for Item {
    fn id(&self) -> &str {
        &self.id
    }
}

fn owner(state: &State, item: &str) -> Result<String, ApiError> {
    state
        .subscriptions
        .iter()
        .find(|subscription| subscription.items.iter().any(|known| known.id == item))
        .map(|subscription| subscription.id.clone())
        .ok_or_else(|| ApiError::no_such("subscription_item", item, "id"))
}

fn render(
    call: &Call<'_>,
    subscription: &str,
    pick: impl Fn(&Subscription) -> Option<&Item>,
) -> Result<Value, ApiError> {
    let subscription = call.state.subscription(subscription, "id")?;
    pick(subscription)
        .map(|item| subscription.render_item(item, call.state, call.shape))
        .ok_or_else(|| ApiError::no_such("subscription_item", "", "id"))
}

/// The request as a change of the subscription.
fn as_subscription_change(mut params: Params, id: Option<&str>, deleted: bool) -> Params {
    let mut item = Params::empty("items[0]");
    for name in ITEM_PARAMS {
        params.rename(name, &mut item, name);
    }
    if let Some(id) = id {
        item.put("id", id);
    }
    if deleted {
        item.put("deleted", "true");
    }
    params.put_list("items", item);
    params
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let subscription = params.required("subscription")?;
    call.state.subscription(&subscription, "subscription")?;
    update::apply_params(
        call.state,
        &subscription,
        as_subscription_change(params, None, false),
    )?;
    render(call, &subscription, |subscription| {
        subscription.items.last()
    })
}

fn change(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let params = call.take_params();
    let id = call.id();
    let subscription = owner(call.state, &id)?;
    update::apply_params(
        call.state,
        &subscription,
        as_subscription_change(params, Some(&id), false),
    )?;
    render(call, &subscription, |subscription| find(subscription, &id))
}

fn find<'a>(subscription: &'a Subscription, id: &str) -> Option<&'a Item> {
    subscription.items.iter().find(|item| item.id == id)
}

fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let params = call.take_params();
    let id = call.id();
    let subscription = owner(call.state, &id)?;
    update::apply_params(
        call.state,
        &subscription,
        as_subscription_change(params, Some(&id), true),
    )?;
    Ok(json!({ "id": id, "object": "subscription_item", "deleted": true }))
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let subscription = owner(call.state, &id)?;
    render(call, &subscription, |subscription| find(subscription, &id))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let id = params.required("subscription")?;
    params.finish()?;
    let subscription = call.state.subscription(&id, "subscription")?;
    let (items, has_more) =
        page.select("subscription_item", subscription.items.iter(), |_| true)?;
    let data = items
        .into_iter()
        .map(|item| subscription.render_item(item, call.state, call.shape))
        .collect();
    Ok(list::object(data, has_more, "/v1/subscription_items"))
}
