//! Setup intents: how a customer saves a card without paying.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::payment_methods;
use crate::state::State;
use crate::store::Keyed;

pub const ROUTES: &[Route] = &[
    post("/v1/setup_intents", create),
    get("/v1/setup_intents", list),
    get("/v1/setup_intents/{id}", retrieve),
    post("/v1/setup_intents/{id}/confirm", confirm),
    post("/v1/setup_intents/{id}/cancel", cancel),
];

/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 16] = [
    "attach_to_self",
    "automatic_payment_methods",
    "confirm",
    "confirmation_token",
    "customer_account",
    "excluded_payment_method_types",
    "flow_directions",
    "mandate_data",
    "on_behalf_of",
    "payment_method",
    "payment_method_configuration",
    "payment_method_data",
    "payment_method_options",
    "return_url",
    "single_use",
    "use_stripe_sdk",
];
const REASONS: [&str; 3] = ["abandoned", "duplicate", "requested_by_customer"];
const UNEXPECTED: &str = "setup_intent_unexpected_state";

/// The intent to store a card for later payments.
#[derive(Debug, Clone)]
pub struct SetupIntent {
    id: String,
    created_secs: i64,
    customer: Option<String>,
    /// The trial that it is for.
    subscription: Option<String>,
    client_secret: String,
    payment_method: Option<String>,
    description: Option<String>,
    usage: &'static str,
    metadata: Metadata,
    /// Why it was canceled.
    canceled: Option<Option<&'static str>>,
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
        let status = match (&self.payment_method, self.canceled) {
            (_, Some(_)) => "canceled",
            (Some(_), None) => "succeeded",
            (None, None) => "requires_payment_method",
        };
        json!({
            "id": self.id,
            "object": "setup_intent",
            "application": null,
            "automatic_payment_methods": null,
            "cancellation_reason": self.canceled.flatten(),
            "client_secret": self.client_secret,
            "created": self.created_secs,
            "customer": self.customer,
            "customer_account": null,
            "description": self.description,
            "flow_directions": null,
            "last_setup_error": null,
            "latest_attempt": null,
            "livemode": false,
            "mandate": null,
            "metadata": self.metadata,
            "next_action": null,
            "on_behalf_of": null,
            "payment_method": self.payment_method,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "single_use_mandate": null,
            "status": status,
            "usage": self.usage,
        })
    }
}

/// An intent that nobody has confirmed yet.
fn open(state: &mut State, customer: Option<String>, now_secs: i64) -> SetupIntent {
    let id = state.ids.next("seti");
    let client_secret = format!("{id}_secret_{}", state.ids.token(24));
    SetupIntent {
        id,
        created_secs: now_secs,
        customer,
        subscription: None,
        client_secret,
        payment_method: None,
        description: None,
        usage: "off_session",
        metadata: Metadata::new(),
        canceled: None,
    }
}

/// Creates the setup intent of a trial without a payment method.
pub fn open_for_trial(
    state: &mut State,
    subscription: &str,
    customer: &str,
    now_secs: i64,
) -> String {
    let mut intent = open(state, Some(customer.to_owned()), now_secs);
    intent.subscription = Some(subscription.to_owned());
    record(state, intent, now_secs)
}

/// Creates the setup intent of a hosted page that has saved a payment method.
pub fn succeeded(
    state: &mut State,
    customer: &str,
    method: &str,
    metadata: Metadata,
    now_secs: i64,
) -> String {
    let mut intent = open(state, Some(customer.to_owned()), now_secs);
    intent.metadata = metadata;
    let id = record(state, intent, now_secs);
    if let Some(intent) = state.setup_intents.get_mut(&id) {
        intent.payment_method = Some(method.to_owned());
    }
    state.emit("setup_intent.succeeded", &id, now_secs);
    id
}

fn record(state: &mut State, intent: SetupIntent, now_secs: i64) -> String {
    let id = intent.id.clone();
    state.setup_intents.insert(intent);
    state.emit("setup_intent.created", &id, now_secs);
    id
}

/// Takes `payment_method_types`: there are only cards here.
pub fn take_types(params: &mut Params) -> Result<bool, ApiError> {
    let types = params.texts("payment_method_types")?;
    let name = params.name("payment_method_types");
    match types {
        Some(types) if types.iter().any(|kind| kind != "card") => Err(ApiError::unsupported(
            &name,
            "payment methods other than cards",
        )),
        types => Ok(types.is_some_and(|types| !types.is_empty())),
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let customer = params.text("customer")?;
    let usage = params.choice("usage", &["off_session", "on_session"])?;
    let description = params.text("description")?;
    take_types(&mut params)?;
    let metadata = MetadataChange::take(&mut params)?.initial();
    params.finish_rejecting(&UNSUPPORTED)?;
    if let Some(customer) = &customer {
        call.state.customer(customer, "customer")?;
    }
    let now = match &customer {
        Some(customer) => call.state.now_for(customer),
        None => call.state.wall_secs,
    };
    let intent = SetupIntent {
        usage: usage.unwrap_or("off_session"),
        description,
        metadata,
        ..open(call.state, customer, now)
    };
    let id = record(call.state, intent, now);
    call.render(&id)
}

fn cancel(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let reason = params.choice("cancellation_reason", &REASONS)?;
    params.finish()?;
    let id = call.id();
    let intent = find(call.state, &id)?;
    if intent.payment_method.is_some() || intent.canceled.is_some() {
        return Err(ApiError::invalid(
            "You cannot cancel this SetupIntent because it has already succeeded or been canceled.",
        )
        .code(UNEXPECTED));
    }
    let now = match &intent.customer {
        Some(customer) => call.state.now_for(customer),
        None => call.state.wall_secs,
    };
    if let Some(intent) = call.state.setup_intents.get_mut(&id) {
        intent.canceled = Some(reason);
    }
    call.state.emit("setup_intent.canceled", &id, now);
    call.render(&id)
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
        created.contains(intent.created_secs) && (customer.is_none() || intent.customer == customer)
    };
    call.render_page(
        &page,
        "setup_intent",
        "/v1/setup_intents",
        call.state.setup_intents.iter().rev(),
        filter,
    )
}

/// Plays the customer, who enters a card: it is attached, and becomes the
/// default of the trial that the intent is for.
fn confirm(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let method = params.text("payment_method")?;
    params.text("return_url")?;
    params.finish()?;
    let id = call.id();
    let state = &mut *call.state;
    let intent = find(state, &id)?.clone();
    if intent.payment_method.is_some() || intent.canceled.is_some() {
        return Err(ApiError::invalid(
            "You cannot confirm this SetupIntent because it has already succeeded or been canceled.",
        )
        .code(UNEXPECTED));
    }
    let method = method.ok_or_else(|| {
        ApiError::invalid(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
        )
        .code(UNEXPECTED)
    })?;
    let customer = intent.customer.ok_or_else(|| {
        ApiError::unsupported("customer", "setup intents that save a card for nobody")
    })?;
    let owned = state
        .payment_methods
        .get(&method)
        .is_some_and(|known| known.customer.as_ref() == Some(&customer));
    let method = if owned {
        method
    } else {
        payment_methods::attach(state, &method, &customer)?
    };
    let now = state.now_for(&customer);
    if let Some(intent) = state.setup_intents.get_mut(&id) {
        intent.payment_method = Some(method.clone());
    }
    state.emit("setup_intent.succeeded", &id, now);
    if let Some(subscription) = &intent.subscription {
        state.change_subscription(subscription, now, |subscription| {
            subscription.pending_setup_intent = None;
            subscription.default_payment_method.get_or_insert(method);
        })?;
    }
    call.render(&id)
}
