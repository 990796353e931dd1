//! `POST /v1/subscriptions`.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::BillingMode;
use serde_json::Value;

use crate::call::Call;
use crate::discounts::redeem::{self, DiscountChange, Redeemer};
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoices::assemble::{self, Draft};
use crate::invoices::collect;
use crate::invoices::finalize;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::payment_methods;
use crate::payments::setup_intents;
use crate::shape;
use crate::state::State;
use crate::subscriptions::change::{self, Catalogue, TrialEnd};
use crate::subscriptions::edit::{self, ExpectedCurrency, ItemEdit};
use crate::subscriptions::model::{Item, MissingPaymentMethod, Status, Subscription};
use crate::subscriptions::payment;
use crate::subscriptions::periods::{self, MIXED_SINCE};
use crate::subscriptions::request::{self, PaymentBehavior};
use crate::subscriptions::update;
use crate::taxes::request::TaxChange;
use crate::validate;

const DAY_SECS: i64 = 86_400;
/// Stripe's maximum length of a trial: two years.
const MAX_TRIAL_DAYS: i64 = 730;

/// Stripe's maximum length of a subscription's description.
pub const MAX_DESCRIPTION_CHARS: usize = 500;
/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 15] = [
    "add_invoice_items",
    "application_fee_percent",
    "billing_cycle_anchor",
    "billing_cycle_anchor_config",
    "billing_schedules",
    "billing_thresholds",
    "coupon",
    "customer_account",
    "default_source",
    "invoice_settings",
    "on_behalf_of",
    "pending_invoice_item_interval",
    "promotion_code",
    "transfer_data",
    "trial_from_plan",
];

/// The parameters that define a new subscription.
#[derive(Debug, Clone)]
pub struct NewSubscription {
    pub customer: String,
    pub items: Vec<ItemEdit>,
    /// The currency that the request names.
    pub currency: Option<String>,
    pub trial_end: Option<i64>,
    pub mode: BillingMode,
    /// Coupons and promotion codes to redeem.
    pub discounts: DiscountChange,
    pub tax: TaxChange,
}

struct NewSettings {
    payment_behavior: PaymentBehavior,
    default_payment_method: Option<String>,
    save_method: bool,
    missing_payment_method: MissingPaymentMethod,
    cancel_at_period_end: bool,
    cancel_at: Option<i64>,
    description: Option<String>,
    metadata: Metadata,
}

impl NewSettings {
    fn take(params: &mut Params) -> Result<Self, ApiError> {
        request::take_fixed_settings(params)?;
        request::take_proration_behavior(params)?;
        Ok(Self {
            payment_behavior: request::take_payment_behavior(params)?,
            default_payment_method: params.text("default_payment_method")?,
            save_method: request::take_payment_settings(params)?.unwrap_or(false),
            missing_payment_method: request::take_trial_settings(params)?
                .unwrap_or(MissingPaymentMethod::CreateInvoice),
            cancel_at_period_end: params.boolean("cancel_at_period_end")?.unwrap_or(false),
            cancel_at: params.integer("cancel_at")?,
            description: params.text_up_to("description", MAX_DESCRIPTION_CHARS)?,
            metadata: MetadataChange::take(params)?.initial(),
        })
    }
}

/// Takes `billing_mode[type]`. The default depends on the API version.
pub fn take_billing_mode(params: &mut Params, version: &str) -> Result<BillingMode, ApiError> {
    let mut flexible = shape::flexible_by_default(version);
    if let Some(mut mode) = params.map("billing_mode")? {
        match mode.choice("type", &["classic", "flexible"])? {
            Some(kind) => flexible = kind == "flexible",
            None => return Err(ApiError::missing_param("billing_mode[type]")),
        }
        if let Some(mut details) = mode.map("flexible")? {
            let name = details.name("proration_discounts");
            let shown = details.choice("proration_discounts", &["included", "itemized"])?;
            details.finish()?;
            if shown == Some("itemized") {
                return Err(ApiError::unsupported(
                    &name,
                    "itemized discounts of prorations",
                ));
            }
        }
        mode.finish()?;
    }
    Ok(if flexible {
        BillingMode::Flexible
    } else {
        BillingMode::Classic
    })
}

/// Takes `trial_period_days` or `trial_end`.
fn take_trial(params: &mut Params, now_secs: i64) -> Result<Option<i64>, ApiError> {
    let days = params.integer("trial_period_days")?;
    let end = match (days, request::take_trial_end(params)?) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_param(
                "trial_end",
                "You may only specify one of these parameters: trial_end, trial_period_days.",
            ));
        }
        (Some(0), None) | (None, None | Some(TrialEnd::Now)) => return Ok(None),
        (Some(days), None) if !(1..=MAX_TRIAL_DAYS).contains(&days) => {
            return Err(ApiError::bad_param(
                "trial_period_days",
                format!("A trial lasts 1 to {MAX_TRIAL_DAYS} days."),
            ));
        }
        (Some(days), None) => now_secs + days * DAY_SECS,
        (None, Some(TrialEnd::At(end))) => end,
    };
    if end <= now_secs || end > now_secs + MAX_TRIAL_DAYS * DAY_SECS {
        return Err(ApiError::bad_param(
            "trial_end",
            "Invalid timestamp: must be in the future, and within two years.",
        ));
    }
    Ok(Some(end))
}

/// Takes the parameters that define a subscription, for creation and previews.
pub fn take_new(
    params: &mut Params,
    customer: String,
    version: &str,
    now_secs: i64,
) -> Result<NewSubscription, ApiError> {
    let name = params.name("items");
    let items = request::take_items(params)?;
    if items.is_empty() {
        return Err(ApiError::missing_param(&name));
    }
    Ok(NewSubscription {
        customer,
        items,
        currency: None,
        trial_end: take_trial(params, now_secs)?,
        mode: take_billing_mode(params, version)?,
        discounts: DiscountChange::Keep,
        tax: TaxChange::default(),
    })
}

/// Builds the new subscription. Nothing is recorded yet.
pub fn build(
    state: &State,
    new: NewSubscription,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Subscription, ApiError> {
    let catalogue = state.catalogue();
    let first = new
        .items
        .iter()
        .find_map(|edit| catalogue.prices.get(edit.price.as_ref()?));
    let named = new.currency.is_some();
    let currency = new
        .currency
        .or_else(|| first.map(|price| price.currency.clone()))
        .unwrap_or_else(|| "usd".to_owned());
    check_customer(state, &new.customer, &currency)?;
    let expected = if named {
        ExpectedCurrency::Fixed(&currency)
    } else {
        ExpectedCurrency::OfOtherItems(&currency)
    };
    let id = ids.next("sub");
    let items = new_items(&new.items, expected, catalogue, ids, now_secs)?;
    let anchor_secs = new.trial_end.unwrap_or(now_secs);
    let mut subscription = Subscription {
        id,
        customer: new.customer,
        status: if new.trial_end.is_some() {
            Status::Trialing
        } else {
            Status::Incomplete
        },
        items,
        created_secs: now_secs,
        anchor_secs,
        cadence: Cadence::MONTHLY,
        mode: new.mode,
        currency,
        period: change::full_period(Cadence::MONTHLY, now_secs)?,
        trial: new.trial_end.map(|end| (now_secs, end)),
        missing_payment_method: MissingPaymentMethod::CreateInvoice,
        cancel_at_period_end: false,
        cancel_at: None,
        canceled_at: None,
        ended_at: None,
        cancel_reason: None,
        cancel_comment: None,
        cancel_feedback: None,
        default_payment_method: None,
        save_default_payment_method: false,
        latest_invoice: None,
        pending_setup_intent: None,
        discounts: Vec::new(),
        automatic_tax: false,
        default_tax_rates: Vec::new(),
        schedule: None,
        pending_update: None,
        description: None,
        metadata: Metadata::new(),
        upcoming_sent_for: None,
        trial_end_announced: false,
    };
    subscription.cadence = periods::shortest_cadence(&subscription, catalogue)?;
    subscription.period = match new.trial_end {
        Some(end) => Period::from_seconds(now_secs, end),
        None => subscription.cadence.period_containing(now_secs, now_secs),
    }
    .map_err(|error| ApiError::invalid(error.to_string()))?;
    redeem_discounts(state, &mut subscription, &new.discounts, ids, now_secs)?;
    new.tax.apply(state, &mut subscription)?;
    Ok(subscription)
}

/// Gives a new subscription the discounts that the request redeems.
fn redeem_discounts(
    state: &State,
    subscription: &mut Subscription,
    discounts: &DiscountChange,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<(), ApiError> {
    let redeemer = Redeemer {
        customer: &subscription.customer,
        subscription: Some(&subscription.id),
        current: &[],
        currency: Some(&subscription.currency),
        amount: Some(change::full_amount(subscription, state.catalogue())?),
    };
    let redeemed = redeem::resolve(state, discounts, &redeemer, ids, now_secs)?;
    subscription.discounts = redeemed.unwrap_or_default();
    Ok(())
}

/// Refuses a customer that does not exist or pays in another currency.
fn check_customer(state: &State, customer: &str, currency: &str) -> Result<(), ApiError> {
    let customer = state.customer(customer, "customer").map_err(|mut error| {
        error.status = 404;
        error
    })?;
    match &customer.currency {
        Some(existing) if existing != currency => Err(ApiError::invalid(format!(
            "You cannot combine currencies on a single customer. This customer has an active subscription, subscription schedule, discount, quote, invoice item or active subscription mode checkout session with currency {existing}."
        ))),
        _ => Ok(()),
    }
}

fn new_items(
    edits: &[ItemEdit],
    currency: ExpectedCurrency<'_>,
    catalogue: Catalogue<'_>,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Vec<Item>, ApiError> {
    let mut items: Vec<Item> = Vec::new();
    for edit in edits {
        let item = edit::new_item(edit, currency, catalogue, ids, now_secs)?;
        if items.iter().any(|other| other.price == item.price) {
            return Err(ApiError::bad_param(
                "items",
                format!(
                    "Cannot add multiple subscription items with the same plan: {}",
                    item.price
                ),
            ));
        }
        items.push(item);
    }
    Ok(items)
}

/// The first invoice.
pub fn first_invoice(state: &State, subscription: &Subscription) -> Result<Draft, ApiError> {
    let mut lines = assemble::pending(state, subscription);
    lines.extend(if subscription.on_trial() {
        assemble::trial(subscription, state.catalogue())?
    } else {
        assemble::licensed(subscription, state.catalogue())?
    });
    let period = (subscription.created_secs, subscription.created_secs);
    Ok(Draft::for_subscription(
        subscription,
        "subscription_create",
        period,
        lines,
    ))
}

/// `POST /v1/subscriptions`.
pub fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let customer = params.required("customer")?;
    let now = call.state.now_for(&customer);
    let mut new = take_new(&mut params, customer.clone(), &call.version, now)?;
    new.currency = params
        .text("currency")?
        .map(|text| validate::currency("currency", &text))
        .transpose()?;
    new.discounts = DiscountChange::take(&mut params)?;
    new.tax = TaxChange::take(&mut params)?;
    let settings = NewSettings::take(&mut params)?;
    request::refuse_pending(settings.payment_behavior)?;
    take_backdate(&mut params, now)?;
    params.finish_rejecting(&UNSUPPORTED)?;
    update::check_cancel_at(settings.cancel_at, now)?;
    let state = &mut *call.state;
    if let Some(method) = &settings.default_payment_method {
        payment_methods::check_owner(state, method, &customer, "default_payment_method")?;
    }
    // Draw ids from a copy until the request can no longer be refused.
    let mut ids = state.ids.clone();
    let mut subscription = build(state, new, &mut ids, now)?;
    let catalogue = state.catalogue();
    periods::check_end(&subscription, settings.cancel_at_period_end, catalogue)?;
    if *call.version < *MIXED_SINCE && periods::mixed(&subscription, catalogue)? {
        return Err(ApiError::bad_param(
            "items",
            "Prices of different billing intervals need the API version 2025-07-30.basil or later.",
        ));
    }
    let behavior = settings.payment_behavior;
    apply(&mut subscription, settings, now);
    let draft = first_invoice(state, &subscription)?;
    check_payable(state, &subscription, &draft, behavior)?;
    state.ids = ids;
    let id = subscription.id.clone();
    record(state, subscription, draft, behavior, now)?;
    call.render(&id)
}

/// Refuses `backdate_start_date`: every subscription starts now.
fn take_backdate(params: &mut Params, now_secs: i64) -> Result<(), ApiError> {
    match params.integer("backdate_start_date")? {
        None => Ok(()),
        Some(at) if at > now_secs => Err(ApiError::bad_param(
            "backdate_start_date",
            "The `backdate_start_date` parameter must be in the past.",
        )),
        Some(_) => Err(ApiError::unsupported(
            "backdate_start_date",
            "subscriptions that began in the past",
        )),
    }
}

fn apply(subscription: &mut Subscription, settings: NewSettings, now_secs: i64) {
    subscription.default_payment_method = settings.default_payment_method;
    subscription.save_default_payment_method = settings.save_method;
    subscription.missing_payment_method = settings.missing_payment_method;
    subscription.cancel_at_period_end = settings.cancel_at_period_end;
    subscription.cancel_at = settings.cancel_at;
    if settings.cancel_at_period_end || settings.cancel_at.is_some() {
        subscription.canceled_at = Some(now_secs);
    }
    subscription.description = settings.description;
    subscription.metadata = settings.metadata;
}

/// Refuses a subscription that cannot be paid, unless it may be incomplete.
fn check_payable(
    state: &mut State,
    subscription: &Subscription,
    draft: &Draft,
    behavior: PaymentBehavior,
) -> Result<(), ApiError> {
    if behavior == PaymentBehavior::DefaultIncomplete || payment::due(state, draft)? == 0 {
        return Ok(());
    }
    let method =
        payment::payment_method_of(state, subscription).ok_or_else(collect::no_payment_method)?;
    if behavior == PaymentBehavior::ErrorIfIncomplete {
        payment::refuse_unless_approved(state, &method)?;
    }
    Ok(())
}

fn record(
    state: &mut State,
    subscription: Subscription,
    draft: Draft,
    behavior: PaymentBehavior,
    now_secs: i64,
) -> Result<(), ApiError> {
    let (id, customer, currency, discounts) = (
        subscription.id.clone(),
        subscription.customer.clone(),
        subscription.currency.clone(),
        subscription.discounts.clone(),
    );
    let incomplete = subscription.status == Status::Incomplete;
    let lacks_payment_method =
        subscription.on_trial() && payment::payment_method_of(state, &subscription).is_none();
    state.subscriptions.insert(subscription);
    if lacks_payment_method {
        let intent = setup_intents::open_for_trial(state, &id, &customer, now_secs);
        state.subscription_mut(&id)?.pending_setup_intent = Some(intent);
    }
    if let Some(customer) = state.customers.get_mut(&customer) {
        customer.currency.get_or_insert(currency);
    }
    state.emit("customer.subscription.created", &id, now_secs);
    redeem::record(state, &[], &discounts, now_secs);
    if draft.lines.is_empty() {
        // Metered items are billed in arrears, so there is no invoice yet.
        if incomplete {
            state.change_subscription(&id, now_secs, |subscription| {
                subscription.status = Status::Active
            })?;
        }
        return Ok(());
    }
    let before = state.snapshot(&id);
    let invoice = finalize::record(state, draft, now_secs)?;
    state.emit_update("customer.subscription.updated", &id, before, now_secs);
    finalize::finalize(state, &invoice, now_secs)?;
    if state.invoice(&invoice)?.amount_remaining() > 0 {
        payment::pay(state, &invoice, behavior, now_secs)?;
    }
    Ok(())
}
