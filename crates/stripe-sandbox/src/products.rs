//! Products, which prices belong to.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::store::Keyed;

pub const ROUTES: &[Route] = &[
    post("/v1/products", create),
    get("/v1/products", list),
    get("/v1/products/{id}", retrieve),
    post("/v1/products/{id}", update),
    delete("/v1/products/{id}", remove),
];

/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 9] = [
    "default_price_data",
    "images",
    "marketing_features",
    "package_dimensions",
    "shippable",
    "statement_descriptor",
    "tax_code",
    "tax_details",
    "url",
];

/// Something that is sold.
#[derive(Debug, Clone)]
pub struct Product {
    id: String,
    created_secs: i64,
    updated_secs: i64,
    /// Shown on invoice lines.
    pub name: String,
    description: Option<String>,
    active: bool,
    default_price: Option<String>,
    unit_label: Option<String>,
    metadata: Metadata,
}

impl Keyed for Product {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Product {
    /// A product with default settings, as created by `product_data`.
    #[must_use]
    pub const fn named(id: String, name: String, now_secs: i64) -> Self {
        Self {
            id,
            created_secs: now_secs,
            updated_secs: now_secs,
            name,
            description: None,
            active: true,
            default_price: None,
            unit_label: None,
            metadata: Metadata::new(),
        }
    }

    /// The API object.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "object": "product",
            "active": self.active,
            "created": self.created_secs,
            "default_price": self.default_price,
            "description": self.description,
            "images": [],
            "livemode": false,
            "marketing_features": [],
            "metadata": self.metadata,
            "name": self.name,
            "package_dimensions": null,
            "shippable": null,
            "statement_descriptor": null,
            "tax_code": null,
            "type": "service",
            "unit_label": self.unit_label,
            "updated": self.updated_secs,
            "url": null,
        })
    }

    fn take(&mut self, params: &mut Params) -> Result<(), ApiError> {
        if let Some(name) = params.text("name")? {
            self.name = name;
        }
        if let Some(description) = params.clearable_up_to("description", 40_000)? {
            self.description = description;
        }
        if let Some(active) = params.boolean("active")? {
            self.active = active;
        }
        if let Some(label) = params.clearable_up_to("unit_label", 12)? {
            self.unit_label = label;
        }
        let metadata = MetadataChange::take(params)?;
        metadata.check_room(&self.metadata, "metadata")?;
        metadata.apply(&mut self.metadata);
        Ok(())
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = params.text("id")?;
    if !params.has("name") {
        return Err(ApiError::missing_param("name"));
    }
    let now = call.state.wall_secs;
    let mut product = Product::named(String::new(), String::new(), now);
    product.take(&mut params)?;
    params.choice("type", &["service"])?;
    params.finish_rejecting(&UNSUPPORTED)?;
    product.id = match id {
        Some(id) if call.state.products.get(&id).is_some() => {
            return Err(ApiError::bad_param("id", "Product already exists.")
                .code("resource_already_exists"));
        }
        Some(id) => id,
        None => call.state.ids.next("prod"),
    };
    let id = product.id.clone();
    call.state.products.insert(product);
    call.state.emit("product.created", &id, now);
    call.render(&id)
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = call.id();
    let mut product = call
        .state
        .products
        .get(&id)
        .cloned()
        .ok_or_else(|| ApiError::no_such("product", &id, "id"))?;
    product.take(&mut params)?;
    if let Some(price) = params.text("default_price")? {
        let belongs = call
            .state
            .prices
            .get(&price)
            .is_some_and(|known| known.product == id);
        if !belongs {
            return Err(ApiError::no_such("price", &price, "default_price"));
        }
        product.default_price = Some(price);
    }
    params.finish_rejecting(&UNSUPPORTED)?;
    let now = call.state.wall_secs;
    product.updated_secs = now;
    let before = call.state.snapshot(&id);
    call.state.products.insert(product);
    call.state.emit_update("product.updated", &id, before, now);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let product = call.state.products.get(&id);
    product
        .map(Product::render)
        .ok_or_else(|| ApiError::no_such("product", &id, "id"))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let active = params.boolean("active")?;
    let created = params.range("created")?;
    let ids = params.texts("ids")?;
    params.finish()?;
    let filter = |product: &Product| {
        active.is_none_or(|active| product.active == active)
            && created.contains(product.created_secs)
            && ids.as_ref().is_none_or(|ids| ids.contains(&product.id))
    };
    call.render_page(
        &page,
        "product",
        "/v1/products",
        call.state.products.iter().rev(),
        filter,
    )
}

fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    if call.state.prices.iter().any(|price| price.product == id) {
        return Err(ApiError::invalid(
            "This product cannot be deleted because it has one or more user-created prices.",
        ));
    }
    let now = call.state.wall_secs;
    let last = call.state.snapshot(&id);
    call.state
        .products
        .remove(&id)
        .ok_or_else(|| ApiError::no_such("product", &id, "id"))?;
    if let Some(last) = last {
        call.state.emit_snapshot("product.deleted", last, now);
    }
    Ok(json!({ "id": id, "object": "product", "deleted": true }))
}
