//! Prices: licensed or metered, with lookup keys.

use billing_domain::period::{Cadence, Interval};
use billing_domain::proration::Charge;
use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::pricing::{self, DecimalAmount, Scheme};
use crate::products::Product;
use crate::shape::Shape;
use crate::state::State;
use crate::store::{Keyed, Store};
use crate::validate;

pub const ROUTES: &[Route] = &[
    post("/v1/prices", create),
    get("/v1/prices", list),
    get("/v1/prices/{id}", retrieve),
    post("/v1/prices/{id}", update),
];

/// Stripe's maximum length for lookup keys.
const MAX_LOOKUP_KEY_CHARS: usize = 200;
/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 2] = ["currency_options", "transform_quantity"];

/// How a recurring price recurs and what it measures.
#[derive(Debug, Clone)]
pub struct Recurring {
    /// `day`, `week`, `month` or `year`.
    pub interval: &'static str,
    /// The number of intervals between charges.
    pub count: u16,
    /// Interval and count as a cadence, for period arithmetic.
    pub cadence: Cadence,
    /// The meter of a metered price; `None` if licensed.
    pub meter: Option<String>,
}

/// The price of a product.
#[derive(Debug, Clone)]
pub struct Price {
    id: String,
    created_secs: i64,
    pub product: String,
    /// In lower case.
    pub currency: String,
    pub scheme: Scheme,
    /// `None` if the price is one-time.
    pub recurring: Option<Recurring>,
    /// Inactive prices cannot be subscribed to.
    pub active: bool,
    lookup_key: Option<String>,
    nickname: Option<String>,
    /// `exclusive`, `inclusive` or `unspecified`, which is exclusive.
    pub tax_behavior: &'static str,
    metadata: Metadata,
}

impl Keyed for Price {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Price {
    /// The meter whose usage is charged.
    #[must_use]
    pub fn meter(&self) -> Option<&str> {
        self.recurring.as_ref()?.meter.as_deref()
    }

    /// The charge for a quantity and a whole period. Only licensed prices have
    /// one, since their unit amounts are whole.
    #[must_use]
    pub fn charge(&self, quantity: u64) -> Option<Charge> {
        if self.meter().is_some() {
            return None;
        }
        let unit_amount = self.scheme.unit().and_then(DecimalAmount::to_whole)?;
        Some(Charge {
            unit_amount,
            quantity,
        })
    }

    fn usage_type(&self) -> &'static str {
        if self.meter().is_some() {
            "metered"
        } else {
            "licensed"
        }
    }

    /// The API object. Tiers are included only by expansion.
    #[must_use]
    pub fn render(&self, shape: Shape) -> Value {
        let unit = self.scheme.unit();
        let mut object = json!({
            "id": self.id,
            "object": "price",
            "active": self.active,
            "billing_scheme": if unit.is_some() { "per_unit" } else { "tiered" },
            "created": self.created_secs,
            "currency": self.currency,
            "custom_unit_amount": null,
            "livemode": false,
            "lookup_key": self.lookup_key,
            "metadata": self.metadata,
            "nickname": self.nickname,
            "product": self.product,
            "recurring": self.recurring.as_ref().map(|recurring| json!({
                "interval": recurring.interval,
                "interval_count": recurring.count,
                "meter": recurring.meter,
                "trial_period_days": null,
                "usage_type": self.usage_type(),
            })),
            "tax_behavior": self.tax_behavior,
            "tiers_mode": match self.scheme {
                Scheme::PerUnit(_) => Value::Null,
                Scheme::Graduated(_) => json!("graduated"),
                Scheme::Volume(_) => json!("volume"),
            },
            "transform_quantity": null,
            "type": if self.recurring.is_some() { "recurring" } else { "one_time" },
            "unit_amount": unit.and_then(DecimalAmount::to_whole),
            "unit_amount_decimal": unit.map(|unit| unit.to_string()),
        });
        if shape == Shape::Legacy && self.recurring.is_some() {
            object["recurring"]["aggregate_usage"] = Value::Null;
        }
        object
    }

    #[must_use]
    pub fn render_tiers(&self) -> Value {
        self.scheme.render_tiers()
    }

    /// The price as a plan, the older object that subscription items still
    /// include.
    #[must_use]
    pub fn render_plan(&self, shape: Shape) -> Value {
        let unit = self.scheme.unit();
        let recurring = self.recurring.as_ref();
        let mut object = json!({
            "id": self.id,
            "object": "plan",
            "active": self.active,
            "amount": unit.and_then(DecimalAmount::to_whole),
            "amount_decimal": unit.map(|unit| unit.to_string()),
            "billing_scheme": if unit.is_some() { "per_unit" } else { "tiered" },
            "created": self.created_secs,
            "currency": self.currency,
            "interval": recurring.map(|recurring| recurring.interval),
            "interval_count": recurring.map(|recurring| recurring.count),
            "livemode": false,
            "metadata": self.metadata,
            "meter": self.meter(),
            "nickname": self.nickname,
            "product": self.product,
            "tiers_mode": null,
            "transform_usage": null,
            "trial_period_days": null,
            "usage_type": self.usage_type(),
        });
        if shape == Shape::Legacy {
            object["aggregate_usage"] = Value::Null;
        }
        object
    }
}

/// Creates an inactive price for a single invoice item.
pub fn add_inline(
    state: &mut State,
    product: String,
    currency: String,
    unit: DecimalAmount,
) -> String {
    let (id, now) = (state.ids.next("price"), state.wall_secs);
    state.prices.insert(Price {
        id: id.clone(),
        created_secs: now,
        product,
        currency,
        scheme: Scheme::PerUnit(unit),
        recurring: None,
        active: false,
        lookup_key: None,
        nickname: None,
        tax_behavior: "unspecified",
        metadata: Metadata::new(),
    });
    state.emit("price.created", &id, now);
    id
}

fn take_recurring(params: &mut Params, state: &State) -> Result<Option<Recurring>, ApiError> {
    let Some(mut params) = params.map("recurring")? else {
        return Ok(None);
    };
    let interval = params
        .choice("interval", &["day", "week", "month", "year"])?
        .ok_or_else(|| ApiError::missing_param("recurring[interval]"))?;
    let count = params.integer("interval_count")?.unwrap_or(1);
    let usage = params.choice("usage_type", &["licensed", "metered"])?;
    let meter = params.text("meter")?;
    params.finish()?;
    let unit = match interval {
        "day" => Interval::Day,
        "week" => Interval::Week,
        "month" => Interval::Month,
        _ => Interval::Year,
    };
    // Stripe limits billing intervals to three years.
    let most = match unit {
        Interval::Day => 1_095,
        Interval::Week => 156,
        Interval::Month => 36,
        Interval::Year => 3,
    };
    let count = u16::try_from(count)
        .ok()
        .filter(|count| (1..=most).contains(count))
        .ok_or_else(|| {
            ApiError::bad_param(
                "recurring[interval_count]",
                format!("Invalid interval_count: must be 1 to {most} for {interval}."),
            )
        })?;
    match (usage, &meter) {
        (Some("metered"), None) => return Err(ApiError::missing_param("recurring[meter]")),
        (Some("licensed") | None, Some(_)) => {
            return Err(ApiError::bad_param(
                "recurring[meter]",
                "A meter needs `recurring[usage_type]=metered`.",
            ));
        }
        (_, Some(meter)) if state.meters.get(meter).is_none_or(|meter| !meter.active) => {
            return Err(ApiError::no_such("meter", meter, "recurring[meter]"));
        }
        _ => {}
    }
    let cadence = Cadence::every(count, unit)
        .map_err(|error| ApiError::bad_param("recurring[interval_count]", error.to_string()))?;
    Ok(Some(Recurring {
        interval,
        count,
        cadence,
        meter,
    }))
}

/// Refuses a lookup key that another price has, unless it is to be transferred.
/// Returns the id of the price that loses the key.
fn claim_lookup_key(
    prices: &Store<Price>,
    key: &str,
    holder: &str,
    transfer: bool,
) -> Result<Option<String>, ApiError> {
    let other = prices
        .iter()
        .find(|price| price.lookup_key.as_deref() == Some(key) && price.id != holder);
    match other {
        Some(price) if !transfer => Err(ApiError::bad_param(
            "lookup_key",
            format!("A price (`{}`) already uses that lookup key.", price.id),
        )
        .code("resource_already_exists")),
        other => Ok(other.map(|price| price.id.clone())),
    }
}

fn release_lookup_key(state: &mut State, previous: Option<String>, now: i64) {
    if let Some(previous) = previous {
        let before = state.snapshot(&previous);
        if let Some(price) = state.prices.get_mut(&previous) {
            price.lookup_key = None;
        }
        state.emit_update("price.updated", &previous, before, now);
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let state = &mut *call.state;
    let currency = validate::currency("currency", &params.required("currency")?)?;
    if params.has("custom_unit_amount") {
        return Err(ApiError::unsupported(
            "custom_unit_amount",
            "prices whose amount the customer chooses",
        ));
    }
    let scheme = pricing::take_scheme(&mut params)?;
    let recurring = take_recurring(&mut params, state)?;
    let (product, new_product) = take_product(&mut params, state)?;
    let transfer = params.boolean("transfer_lookup_key")?.unwrap_or(false);
    let mut price = Price {
        id: String::new(),
        created_secs: state.wall_secs,
        product,
        currency,
        scheme,
        recurring,
        active: params.boolean("active")?.unwrap_or(true),
        lookup_key: params.text_up_to("lookup_key", MAX_LOOKUP_KEY_CHARS)?,
        nickname: params.text("nickname")?,
        tax_behavior: params
            .choice("tax_behavior", &["exclusive", "inclusive", "unspecified"])?
            .unwrap_or("unspecified"),
        metadata: MetadataChange::take(&mut params)?.initial(),
    };
    params.finish_rejecting(&UNSUPPORTED)?;
    if price.meter().is_none()
        && price
            .scheme
            .unit()
            .and_then(DecimalAmount::to_whole)
            .is_none()
    {
        return Err(ApiError::unsupported(
            "unit_amount_decimal",
            "fractions or tiers in licensed prices",
        ));
    }
    let previous = match &price.lookup_key {
        Some(key) => claim_lookup_key(&state.prices, key, "", transfer)?,
        None => None,
    };
    let now = state.wall_secs;
    if let Some(name) = new_product {
        price.product = state.ids.next("prod");
        let id = price.product.clone();
        state.products.insert(Product::named(id.clone(), name, now));
        state.emit("product.created", &id, now);
    }
    release_lookup_key(state, previous, now);
    price.id = state.ids.next("price");
    let id = price.id.clone();
    state.prices.insert(price);
    state.emit("price.created", &id, now);
    call.render(&id)
}

/// Takes the id of an existing product, or the name of a new one.
fn take_product(params: &mut Params, state: &State) -> Result<(String, Option<String>), ApiError> {
    match (params.text("product")?, params.map("product_data")?) {
        (Some(product), None) if state.products.get(&product).is_some() => Ok((product, None)),
        (Some(product), None) => Err(ApiError::no_such("product", &product, "product")),
        (None, Some(mut data)) => {
            let name = data.required("name")?;
            data.finish()?;
            Ok((String::new(), Some(name)))
        }
        (Some(_), Some(_)) => Err(ApiError::bad_param(
            "product_data",
            "You may only specify one of these parameters: product, product_data.",
        )),
        (None, None) => Err(ApiError::missing_param("product")),
    }
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = call.id();
    let state = &mut *call.state;
    let mut price = state
        .prices
        .get(&id)
        .cloned()
        .ok_or_else(|| ApiError::no_such("price", &id, "id"))?;
    if let Some(active) = params.boolean("active")? {
        price.active = active;
    }
    if let Some(nickname) = params.clearable("nickname")? {
        price.nickname = nickname;
    }
    if let Some(behavior) =
        params.choice("tax_behavior", &["exclusive", "inclusive", "unspecified"])?
    {
        price.tax_behavior = behavior;
    }
    let transfer = params.boolean("transfer_lookup_key")?.unwrap_or(false);
    let mut previous = None;
    if let Some(key) = params.clearable_up_to("lookup_key", MAX_LOOKUP_KEY_CHARS)? {
        if let Some(key) = &key {
            previous = claim_lookup_key(&state.prices, key, &id, transfer)?;
        }
        price.lookup_key = key;
    }
    let metadata = MetadataChange::take(&mut params)?;
    metadata.check_room(&price.metadata, "metadata")?;
    metadata.apply(&mut price.metadata);
    params.finish_rejecting(&UNSUPPORTED)?;
    let now = state.wall_secs;
    release_lookup_key(state, previous, now);
    let before = state.snapshot(&id);
    state.prices.insert(price);
    state.emit_update("price.updated", &id, before, now);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let price = call.state.prices.get(&id);
    price
        .map(|price| price.render(call.shape))
        .ok_or_else(|| ApiError::no_such("price", &id, "id"))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let active = params.boolean("active")?;
    let created = params.range("created")?;
    let currency = params.text("currency")?;
    let product = params.text("product")?;
    let kind = params.choice("type", &["one_time", "recurring"])?;
    let keys = params.texts("lookup_keys")?;
    params.finish()?;
    if keys.as_ref().is_some_and(|keys| keys.len() > 10) {
        return Err(ApiError::bad_param(
            "lookup_keys",
            "Array must have at most 10 elements.",
        ));
    }
    let filter = |price: &Price| {
        active.is_none_or(|active| price.active == active)
            && created.contains(price.created_secs)
            && currency
                .as_ref()
                .is_none_or(|currency| price.currency == *currency)
            && product
                .as_ref()
                .is_none_or(|product| price.product == *product)
            && kind.is_none_or(|kind| (kind == "recurring") == price.recurring.is_some())
            && keys.as_ref().is_none_or(|keys| {
                price
                    .lookup_key
                    .as_ref()
                    .is_some_and(|key| keys.contains(key))
            })
    };
    call.render_page(
        &page,
        "price",
        "/v1/prices",
        call.state.prices.iter().rev(),
        filter,
    )
}
