//! Setup intents: how a customer adds a card to a trial that began without one.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::payment_methods;
use crate::state::State;
use crate::store::Keyed;

/// Every setup intent belongs to a trial.
pub const ROUTES: &[Route] = &[
    get("/v1/setup_intents", list),
    get("/v1/setup_intents/{id}", retrieve),
    post("/v1/setup_intents/{id}/confirm", confirm),
];

/// The intent to store a card for later payments.
#[derive(Debug, Clone)]
pub struct SetupIntent {
    id: String,
    created_secs: i64,
    customer: String,
    subscription: String,
    client_secret: String,
    payment_method: Option<String>,
}

impl Keyed for SetupIntent {
    fn id(&self) -> &str {
        &self.id
    }
}

impl SetupIntent {
    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        let succeeded = self.payment_method.is_some();
        json!({
            "id": self.id,
            "object": "setup_intent",
            "application": null,
            "automatic_payment_methods": null,
            "cancellation_reason": null,
            "client_secret": self.client_secret,
            "created": self.created_secs,
            "customer": self.customer,
            "customer_account": null,
            "description": null,
            "flow_directions": null,
            "last_setup_error": null,
            "latest_attempt": null,
            "livemode": false,
            "mandate": null,
            "metadata": {},
            "next_action": null,
            "on_behalf_of": null,
            "payment_method": self.payment_method,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "single_use_mandate": null,
            "status": if succeeded { "succeeded" } else { "requires_payment_method" },
            "usage": "off_session",
        })
    }
}

/// Creates the setup intent of a trial without a payment method.
pub fn open_for_trial(
    state: &mut State,
    subscription: &str,
    customer: &str,
    now_secs: i64,
) -> String {
    let id = state.ids.next("seti");
    let client_secret = format!("{id}_secret_{}", state.ids.token(24));
    state.setup_intents.insert(SetupIntent {
        id: id.clone(),
        created_secs: now_secs,
        customer: customer.to_owned(),
        subscription: subscription.to_owned(),
        client_secret,
        payment_method: None,
    });
    state.emit("setup_intent.created", &id, now_secs);
    id
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a SetupIntent, ApiError> {
    state
        .setup_intents
        .get(id)
        .ok_or_else(|| ApiError::no_such("setupintent", id, "intent"))
        .map_err(|error| ApiError {
            status: 404,
            ..error
        })
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    find(call.state, &id).map(SetupIntent::render)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    let customer = params.text("customer")?;
    params.finish()?;
    let filter = |intent: &SetupIntent| {
        created.contains(intent.created_secs)
            && customer.as_ref().is_none_or(|id| intent.customer == *id)
    };
    call.render_page(
        &page,
        "setup_intent",
        "/v1/setup_intents",
        call.state.setup_intents.iter().rev(),
        filter,
    )
}

/// Plays the customer, who enters a card: it is attached and becomes the
/// default of the trial.
fn confirm(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let method = params.text("payment_method")?;
    params.text("return_url")?;
    params.finish()?;
    let id = call.id();
    let state = &mut *call.state;
    let intent = find(state, &id)?.clone();
    if intent.payment_method.is_some() {
        return Err(ApiError::invalid(
            "You cannot confirm this SetupIntent because it has already succeeded.",
        )
        .code("setup_intent_unexpected_state"));
    }
    let method = method.ok_or_else(|| {
        ApiError::invalid(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
        )
        .code("setup_intent_unexpected_state")
    })?;
    let owned = state
        .payment_methods
        .get(&method)
        .is_some_and(|known| known.customer.as_ref() == Some(&intent.customer));
    let method = if owned {
        method
    } else {
        payment_methods::attach(state, &method, &intent.customer)?
    };
    let now = state.now_for(&intent.customer);
    if let Some(intent) = state.setup_intents.get_mut(&id) {
        intent.payment_method = Some(method.clone());
    }
    state.emit("setup_intent.succeeded", &id, now);
    state.change_subscription(&intent.subscription, now, |subscription| {
        subscription.pending_setup_intent = None;
        subscription.default_payment_method.get_or_insert(method);
    })?;
    call.render(&id)
}
