//! `/v1/tax_rates`.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::percent::Percent;
use crate::state::State;
use crate::store::{Keyed, Store};

pub const ROUTES: &[Route] = &[
    post("/v1/tax_rates", create),
    get("/v1/tax_rates", list),
    get("/v1/tax_rates/{id}", retrieve),
    post("/v1/tax_rates/{id}", update),
];

/// The kinds of tax that this API knows.
const TAX_TYPES: [&str; 16] = [
    "amusement_tax",
    "communications_tax",
    "gst",
    "hst",
    "igst",
    "jct",
    "lease_tax",
    "mass_transit_parking_tax",
    "parking_tax",
    "pst",
    "qst",
    "retail_delivery_fee",
    "rst",
    "sales_tax",
    "service_tax",
    "vat",
];

/// A tax rate.
#[derive(Debug, Clone)]
pub struct TaxRate {
    pub id: String,
    pub created_secs: i64,
    pub active: bool,
    pub display_name: String,
    pub percentage: Percent,
    /// Whether amounts include the tax.
    pub inclusive: bool,
    pub country: Option<String>,
    pub state: Option<String>,
    pub jurisdiction: Option<String>,
    pub description: Option<String>,
    pub tax_type: Option<&'static str>,
    pub metadata: Metadata,
    /// Whether automatic tax uses it. Such rates are not listed.
    pub automatic: bool,
}

impl Keyed for TaxRate {
    fn id(&self) -> &str {
        &self.id
    }
}

impl TaxRate {
    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        let level = match (self.automatic, &self.state) {
            (false, _) => None,
            (true, Some(_)) => Some("state"),
            (true, None) => Some("country"),
        };
        json!({
            "id": self.id,
            "object": "tax_rate",
            "active": self.active,
            "country": self.country,
            "created": self.created_secs,
            "description": self.description,
            "display_name": self.display_name,
            "effective_percentage": self.percentage.render(),
            "flat_amount": null,
            "inclusive": self.inclusive,
            "jurisdiction": self.jurisdiction,
            "jurisdiction_level": level,
            "livemode": false,
            "metadata": self.metadata,
            "percentage": self.percentage.render(),
            "rate_type": "percentage",
            "state": self.state,
            "tax_type": self.tax_type,
        })
    }

    fn take(&mut self, params: &mut Params) -> Result<(), ApiError> {
        if let Some(active) = params.boolean("active")? {
            self.active = active;
        }
        if let Some(name) = params.text_up_to("display_name", 50)? {
            self.display_name = name;
        }
        for (name, field) in [
            ("country", &mut self.country),
            ("state", &mut self.state),
            ("jurisdiction", &mut self.jurisdiction),
            ("description", &mut self.description),
        ] {
            if let Some(text) = params.clearable(name)? {
                *field = text;
            }
        }
        if let Some(kind) = params.choice("tax_type", &TAX_TYPES)? {
            self.tax_type = Some(kind);
        }
        let metadata = MetadataChange::take(params)?;
        metadata.check_room(&self.metadata, "metadata")?;
        metadata.apply(&mut self.metadata);
        Ok(())
    }
}

/// The objects of tax rates, as most objects show them.
#[must_use]
pub fn render_all(rates: &[String], state: &State) -> Vec<Value> {
    rates
        .iter()
        .filter_map(|id| state.tax_rates.get(id))
        .map(TaxRate::render)
        .collect()
}

/// Refuses tax rates that cannot be set, or that do not go together.
pub fn check(rates: &Store<TaxRate>, ids: &[String], param: &str) -> Result<(), ApiError> {
    let mut kinds = Vec::new();
    for id in ids {
        let rate = rates
            .get(id)
            .filter(|rate| !rate.automatic)
            .ok_or_else(|| ApiError::no_such("tax rate", id, param))?;
        if !rate.active {
            return Err(ApiError::bad_param(
                param,
                format!("The tax rate {id} is inactive. This field only accepts active tax rates."),
            ));
        }
        kinds.push(rate.inclusive);
    }
    if kinds.contains(&true) && kinds.contains(&false) {
        return Err(ApiError::unsupported(
            param,
            "inclusive and exclusive tax rates together",
        ));
    }
    Ok(())
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let inclusive = params
        .boolean("inclusive")?
        .ok_or_else(|| ApiError::missing_param("inclusive"))?;
    let text = params.required("percentage")?;
    let percentage = Percent::parse(&text).ok_or_else(|| {
        ApiError::bad_param(
            "percentage",
            format!("Invalid percentage: {text}; must be a number from 0 to 100 with at most four decimal places."),
        )
    })?;
    if !params.has("display_name") {
        return Err(ApiError::missing_param("display_name"));
    }
    let now = call.state.wall_secs;
    let mut rate = TaxRate {
        id: String::new(),
        created_secs: now,
        active: true,
        display_name: String::new(),
        percentage,
        inclusive,
        country: None,
        state: None,
        jurisdiction: None,
        description: None,
        tax_type: None,
        metadata: Metadata::new(),
        automatic: false,
    };
    rate.take(&mut params)?;
    params.finish()?;
    rate.id = call.state.ids.next("txr");
    let id = rate.id.clone();
    call.state.tax_rates.insert(rate);
    call.state.emit("tax_rate.created", &id, now);
    call.render(&id)
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a TaxRate, ApiError> {
    state
        .tax_rates
        .get(id)
        .ok_or_else(|| ApiError::no_such("tax rate", id, "id").param("tax_rate"))
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = call.id();
    let mut rate = find(call.state, &id)?.clone();
    rate.take(&mut params)?;
    params.finish()?;
    let (before, now) = (call.state.snapshot(&id), call.state.wall_secs);
    call.state.tax_rates.insert(rate);
    call.state.emit_update("tax_rate.updated", &id, before, now);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    find(call.state, &call.id()).map(TaxRate::render)
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let active = params.boolean("active")?;
    let created = params.range("created")?;
    let inclusive = params.boolean("inclusive")?;
    params.finish()?;
    let filter = |rate: &TaxRate| {
        !rate.automatic
            && created.contains(rate.created_secs)
            && active.is_none_or(|active| rate.active == active)
            && inclusive.is_none_or(|inclusive| rate.inclusive == inclusive)
    };
    call.render_page(
        &page,
        "tax rate",
        "/v1/tax_rates",
        call.state.tax_rates.iter().rev(),
        filter,
    )
}
