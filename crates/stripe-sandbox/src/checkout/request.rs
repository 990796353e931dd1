//! `POST /v1/checkout/sessions`: its parameters.

use serde_json::Value;

use super::model::{LineItem, Mode, PaymentStatus, Session, Status};
use crate::call::Call;
use crate::discounts::redeem::DiscountChange;
use crate::error::ApiError;
use crate::metadata::MetadataChange;
use crate::params::Params;
use crate::payments::setup_intents;
use crate::subscriptions::create::{build, first_invoice, take_new};
use crate::subscriptions::payment;
use crate::taxes::request::TaxChange;

const HOUR_SECS: i64 = 3_600;
/// How long a session is open unless the request says otherwise.
const OPEN_SECS: i64 = 24 * HOUR_SECS;
const SHORTEST_SECS: i64 = HOUR_SECS / 2;
const MAX_LINE_ITEMS: usize = 20;

/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 29] = [
    "adaptive_pricing",
    "after_expiration",
    "branding_settings",
    "consent_collection",
    "custom_fields",
    "custom_text",
    "customer_account",
    "customer_creation",
    "excluded_payment_method_types",
    "invoice_creation",
    "name_collection",
    "optional_items",
    "origin_context",
    "payment_intent_data",
    "payment_method_configuration",
    "payment_method_data",
    "payment_method_options",
    "permissions",
    "phone_number_collection",
    "redirect_on_completion",
    "return_url",
    "saved_payment_method_options",
    "shipping_address_collection",
    "shipping_options",
    "submit_type",
    "tax_id_collection",
    "ui_mode",
    "wallet_options",
    "managed_payments",
];

/// Stripe's languages.
const LOCALES: &str = "auto bg cs da de el en en-GB es es-419 et fi fil fr fr-CA hr hu id it ja ko \
    lt lv ms mt nb nl pl pt pt-BR ro ru sk sl sv th tr vi zh zh-HK zh-TW";

/// `POST /v1/checkout/sessions`.
pub fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let mode = params.choice("mode", &["payment", "setup", "subscription"])?;
    let mode = match mode {
        Some("subscription") => Mode::Subscription,
        Some("setup") => Mode::Setup,
        Some(_) => {
            return Err(ApiError::unsupported(
                "mode",
                "sessions that pay for one thing",
            ));
        }
        None => return Err(ApiError::missing_param("mode")),
    };
    let mut session = take_common(call, &mut params, mode)?;
    match mode {
        Mode::Subscription => take_subscription(call, &mut params, &mut session)?,
        Mode::Setup => take_setup(&mut params, &mut session)?,
    }
    params.finish_rejecting(&UNSUPPORTED)?;
    session.id = format!("cs_test_{}", call.state.ids.token(58));
    for item in &mut session.line_items {
        item.id = call.state.ids.next("li");
    }
    let base = call.state.config.public_url.clone().unwrap_or_default();
    session.url = format!("{base}/c/pay/{}", session.id);
    let id = session.id.clone();
    call.state.checkout_sessions.insert(session);
    call.render(&id)
}

fn take_common(call: &Call<'_>, params: &mut Params, mode: Mode) -> Result<Session, ApiError> {
    let now = call.state.wall_secs;
    let customer = params.text("customer")?;
    if let Some(customer) = &customer {
        call.state.customer(customer, "customer")?;
    }
    let customer_email = params.text_up_to("customer_email", 800)?;
    if customer.is_some() && customer_email.is_some() {
        return Err(ApiError::bad_param(
            "customer_email",
            "You may only specify one of these parameters: customer, customer_email.",
        ));
    }
    let success_url = params.text("success_url")?;
    let success_url = success_url.ok_or_else(|| ApiError::missing_param("success_url"))?;
    check_address("success_url", &success_url)?;
    let cancel_url = params.text("cancel_url")?;
    if let Some(address) = &cancel_url {
        check_address("cancel_url", address)?;
    }
    let expires = params.integer("expires_at")?.unwrap_or(now + OPEN_SECS);
    if !(now + SHORTEST_SECS..=now + OPEN_SECS).contains(&expires) {
        return Err(ApiError::bad_param(
            "expires_at",
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.",
        ));
    }
    setup_intents::take_types(params)?;
    let locale = params.text("locale")?;
    if let Some(locale) = &locale
        && !LOCALES.split_whitespace().any(|known| known == locale)
    {
        return Err(ApiError::bad_param(
            "locale",
            format!("Invalid locale: must be one of {LOCALES}"),
        ));
    }
    let address = params.choice("billing_address_collection", &["auto", "required"])?;
    Ok(Session {
        id: String::new(),
        created_secs: now,
        expires_secs: expires,
        mode,
        status: Status::Open,
        payment_status: PaymentStatus::NotRequired,
        customer,
        customer_email,
        client_reference_id: params.text_up_to("client_reference_id", 200)?,
        currency: None,
        amount_subtotal: None,
        amount_total: None,
        line_items: Vec::new(),
        success_url,
        cancel_url,
        url: String::new(),
        locale,
        allow_promotion_codes: params.boolean("allow_promotion_codes")?,
        automatic_tax: false,
        collects_address: address == Some("required"),
        collects_always: true,
        metadata: MetadataChange::take(params)?.initial(),
        intent_metadata: Default::default(),
        subscription_params: Vec::new(),
        version: call.version.clone(),
        challenged: None,
        setup_intent: None,
        subscription: None,
        invoice: None,
    })
}

fn check_address(param: &str, address: &str) -> Result<(), ApiError> {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| address.strip_prefix(scheme));
    let plain = |rest: &&str| {
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace)
    };
    match rest.filter(plain) {
        Some(_) => Ok(()),
        None => Err(ApiError::bad_param(param, "Not a valid URL").code("url_invalid")),
    }
}

fn take_setup(params: &mut Params, session: &mut Session) -> Result<(), ApiError> {
    params.text("currency")?;
    if let Some(mut data) = params.map("setup_intent_data")? {
        session.intent_metadata = MetadataChange::take(&mut data)?.initial();
        data.finish_rejecting(&["description", "on_behalf_of"])?;
    }
    let of_purchases = [
        "line_items",
        "subscription_data",
        "discounts",
        "automatic_tax",
    ];
    match of_purchases.iter().find(|name| params.has(name)) {
        Some(name) => Err(ApiError::bad_param(
            name,
            format!("You can not pass `{name}` in `setup` mode."),
        )),
        None => Ok(()),
    }
}

fn take_subscription(
    call: &Call<'_>,
    params: &mut Params,
    session: &mut Session,
) -> Result<(), ApiError> {
    let always = params.choice("payment_method_collection", &["always", "if_required"])?;
    session.collects_always = always != Some("if_required");
    take_customer_update(params, session)?;
    session.line_items = take_line_items(call, params)?;
    let mut of_subscription = item_params(&session.line_items);
    if let Some(mut data) = params.map("subscription_data")? {
        of_subscription.extend(take_subscription_data(&mut data)?);
        data.finish_rejecting(&[
            "application_fee_percent",
            "billing_cycle_anchor",
            "default_tax_rates",
            "invoice_settings",
            "on_behalf_of",
            "pending_invoice_item_interval",
            "proration_behavior",
            "transfer_data",
            "trial_end",
        ])?;
    }
    if let Some(discounts) = params.list("discounts")? {
        if session.allow_promotion_codes.is_some() {
            return Err(ApiError::invalid(
                "You may only specify one of these parameters: allow_promotion_codes, discounts.",
            ));
        }
        for (n, mut entry) in discounts.into_iter().enumerate() {
            for name in ["coupon", "promotion_code"] {
                if let Some(id) = entry.text(name)? {
                    of_subscription.push((format!("discounts[{n}][{name}]"), id));
                }
            }
            entry.finish()?;
        }
    }
    if let Some(mut tax) = params.map("automatic_tax")? {
        session.automatic_tax = tax.boolean("enabled")?.unwrap_or(false);
        tax.finish_rejecting(&["liability"])?;
    }
    session.subscription_params = of_subscription;
    price(call, session)
}

fn take_customer_update(params: &mut Params, session: &Session) -> Result<(), ApiError> {
    let Some(mut update) = params.map("customer_update")? else {
        return Ok(());
    };
    for name in ["address", "name", "shipping"] {
        update.choice(name, &["auto", "never"])?;
    }
    update.finish()?;
    match session.customer {
        Some(_) => Ok(()),
        None => Err(ApiError::bad_param(
            "customer_update",
            "`customer_update` can only be used with `customer`.",
        )),
    }
}

fn take_line_items(call: &Call<'_>, params: &mut Params) -> Result<Vec<LineItem>, ApiError> {
    let items = params.list("line_items")?.unwrap_or_default();
    if items.is_empty() {
        return Err(ApiError::missing_param("line_items"));
    }
    if items.len() > MAX_LINE_ITEMS {
        return Err(ApiError::bad_param(
            "line_items",
            format!("A session has at most {MAX_LINE_ITEMS} line items."),
        ));
    }
    let items = items.into_iter().map(|mut item| {
        let (price_name, quantity_name) = (item.name("price"), item.name("quantity"));
        let price = item.required("price")?;
        let quantity = item.count("quantity")?;
        item.finish_rejecting(&[
            "adjustable_quantity",
            "dynamic_tax_rates",
            "metadata",
            "price_data",
            "tax_rates",
        ])?;
        let state = &*call.state;
        let known = state.prices.get(&price);
        let known = known.ok_or_else(|| ApiError::no_such("price", &price, &price_name))?;
        let shown = known.render(call.shape);
        let metered = shown["recurring"]["usage_type"] == "metered";
        match (metered, quantity) {
            (true, Some(_)) => {
                return Err(ApiError::bad_param(
                    &quantity_name,
                    "Quantity should not be specified where usage_type is `metered`.",
                ));
            }
            (false, None) => return Err(ApiError::missing_param(&quantity_name)),
            _ => {}
        }
        let product = shown["product"].as_str().unwrap_or_default();
        let product = state.products.get(product).map(|product| product.render());
        let unit = shown["unit_amount"].as_i64().unwrap_or(0);
        let count = i64::try_from(quantity.unwrap_or(0)).unwrap_or(i64::MAX);
        Ok(LineItem {
            id: String::new(),
            price,
            quantity,
            amount: unit.saturating_mul(count),
            description: product
                .and_then(|product| product["name"].as_str().map(str::to_owned))
                .unwrap_or_default(),
        })
    });
    items.collect()
}

/// The items of the subscription to come.
fn item_params(items: &[LineItem]) -> Vec<(String, String)> {
    let items = items.iter().enumerate().flat_map(|(n, item)| {
        let price = (format!("items[{n}][price]"), item.price.clone());
        let quantity = item
            .quantity
            .map(|quantity| (format!("items[{n}][quantity]"), quantity.to_string()));
        std::iter::once(price).chain(quantity)
    });
    items.collect()
}

fn take_subscription_data(data: &mut Params) -> Result<Vec<(String, String)>, ApiError> {
    let mut taken = Vec::new();
    for (name, value) in MetadataChange::take(data)?.initial() {
        taken.push((format!("metadata[{name}]"), value));
    }
    if let Some(description) = data.text("description")? {
        taken.push(("description".to_owned(), description));
    }
    if let Some(days) = data.integer("trial_period_days")? {
        if days < 1 {
            return Err(ApiError::bad_param(
                &data.name("trial_period_days"),
                "The minimum number of trial period days is 1.",
            ));
        }
        taken.push(("trial_period_days".to_owned(), days.to_string()));
    }
    if let Some(mut mode) = data.map("billing_mode")? {
        if let Some(kind) = mode.choice("type", &["classic", "flexible"])? {
            taken.push(("billing_mode[type]".to_owned(), kind.to_owned()));
        }
        mode.finish_rejecting(&["flexible"])?;
    }
    if let Some(mut settings) = data.map("trial_settings")? {
        let behavior = settings.map("end_behavior")?;
        settings.finish()?;
        if let Some(mut behavior) = behavior {
            let words = ["cancel", "create_invoice", "pause"];
            if let Some(word) = behavior.choice("missing_payment_method", &words)? {
                let name = "trial_settings[end_behavior][missing_payment_method]";
                taken.push((name.to_owned(), word.to_owned()));
            }
            behavior.finish()?;
        }
    }
    Ok(taken)
}

/// What the page asks for now. Refuses what could not be subscribed to.
fn price(call: &Call<'_>, session: &mut Session) -> Result<(), ApiError> {
    let state = &*call.state;
    session.amount_subtotal = Some(session.line_items.iter().map(|item| item.amount).sum());
    let Some(customer) = session.customer.clone() else {
        session.payment_status = PaymentStatus::Unpaid;
        session.amount_total = session.amount_subtotal;
        return Ok(());
    };
    let now = state.now_for(&customer);
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&session.subscription_params)
        .finish();
    let mut params = Params::parse(&[form.as_bytes()])?;
    let mut new = take_new(&mut params, customer, &call.version, now)?;
    new.discounts = DiscountChange::take(&mut params)?;
    new.tax = TaxChange::default();
    let subscription = build(state, new, &mut state.ids.clone(), now)?;
    let draft = first_invoice(state, &subscription)?;
    let due = payment::due(state, &draft)?;
    session.currency = Some(subscription.currency);
    session.amount_total = Some(due);
    session.payment_status = match due {
        0 => PaymentStatus::NotRequired,
        _ => PaymentStatus::Unpaid,
    };
    Ok(())
}
