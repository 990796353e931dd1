//! Takes the parameters that creation, change and preview share.

use crate::error::ApiError;
use crate::metadata::MetadataChange;
use crate::params::Params;
use crate::subscriptions::change::{ProrationBehavior, TrialEnd};
use crate::subscriptions::edit::ItemEdit;
use crate::subscriptions::model::{MissingPaymentMethod, Subscription};

/// What happens if the payment of a creation or change fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentBehavior {
    /// The subscription is created or changed, and its invoice stays open.
    AllowIncomplete,
    /// Nothing is charged automatically; the customer pays the invoice.
    DefaultIncomplete,
    /// The request fails and has no effect.
    ErrorIfIncomplete,
    /// The change waits for its invoice to be paid.
    PendingIfIncomplete,
}

pub fn take_payment_behavior(params: &mut Params) -> Result<PaymentBehavior, ApiError> {
    let words = [
        "allow_incomplete",
        "default_incomplete",
        "error_if_incomplete",
        "pending_if_incomplete",
    ];
    match params.choice("payment_behavior", &words)? {
        None | Some("allow_incomplete") => Ok(PaymentBehavior::AllowIncomplete),
        Some("default_incomplete") => Ok(PaymentBehavior::DefaultIncomplete),
        Some("error_if_incomplete") => Ok(PaymentBehavior::ErrorIfIncomplete),
        Some(_) => Ok(PaymentBehavior::PendingIfIncomplete),
    }
}

/// Refuses `pending_if_incomplete` where there is no change to defer.
pub fn refuse_pending(behavior: PaymentBehavior) -> Result<(), ApiError> {
    if behavior == PaymentBehavior::PendingIfIncomplete {
        return Err(ApiError::bad_param(
            "payment_behavior",
            "`pending_if_incomplete` can only be used when updating a subscription.",
        ));
    }
    Ok(())
}

/// Takes `proration_behavior`; the default is `create_prorations`.
pub fn take_proration_behavior(params: &mut Params) -> Result<ProrationBehavior, ApiError> {
    let words = ["always_invoice", "create_prorations", "none"];
    Ok(match params.choice("proration_behavior", &words)? {
        Some("always_invoice") => ProrationBehavior::AlwaysInvoice,
        Some("none") => ProrationBehavior::None,
        _ => ProrationBehavior::CreateProrations,
    })
}

/// Takes `trial_end`: `now` or a Unix time.
pub fn take_trial_end(params: &mut Params) -> Result<Option<TrialEnd>, ApiError> {
    let name = params.name("trial_end");
    let Some(text) = params.text("trial_end")? else {
        return Ok(None);
    };
    match text.as_str() {
        "now" => Ok(Some(TrialEnd::Now)),
        number => number
            .parse()
            .map(|at| Some(TrialEnd::At(at)))
            .map_err(|_| {
                ApiError::bad_param(
                    &name,
                    "Invalid timestamp: must be an integer Unix timestamp.",
                )
            }),
    }
}

pub fn take_items(params: &mut Params) -> Result<Vec<ItemEdit>, ApiError> {
    let name = params.name("items");
    let Some(items) = params.list("items")? else {
        return Ok(Vec::new());
    };
    if items.len() > 20 {
        return Err(ApiError::bad_param(
            &name,
            "A subscription has at most 20 items.",
        ));
    }
    items.into_iter().map(take_item).collect()
}

fn take_item(mut params: Params) -> Result<ItemEdit, ApiError> {
    let price_name = params.name("price");
    let param = price_name
        .strip_suffix("[price]")
        .unwrap_or("items")
        .to_owned();
    let plan = params.text("plan")?;
    let price = params.text("price")?;
    if plan.is_some() && price.is_some() {
        return Err(ApiError::bad_param(
            &price_name,
            "You may only specify one of these parameters: plan, price.",
        ));
    }
    let edit = ItemEdit {
        param,
        id: params.text("id")?,
        price: price.or(plan),
        quantity: params.count("quantity")?,
        deleted: params.boolean("deleted")?.unwrap_or(false),
        metadata: MetadataChange::take(&mut params)?,
        tax_rates: params.texts("tax_rates")?,
    };
    // Usage belongs to the meter, so there is nothing to clear.
    params.boolean("clear_usage")?;
    params.finish_rejecting(&[
        "billing_thresholds",
        "current_trial",
        "discounts",
        "price_data",
        "trial",
    ])?;
    Ok(edit)
}

/// Takes `trial_settings[end_behavior][missing_payment_method]`.
pub fn take_trial_settings(params: &mut Params) -> Result<Option<MissingPaymentMethod>, ApiError> {
    let Some(mut settings) = params.map("trial_settings")? else {
        return Ok(None);
    };
    let mut behavior = settings
        .map("end_behavior")?
        .ok_or_else(|| ApiError::missing_param("trial_settings[end_behavior]"))?;
    settings.finish()?;
    let words = ["cancel", "create_invoice", "pause"];
    let choice = match behavior.choice("missing_payment_method", &words)? {
        Some("cancel") => MissingPaymentMethod::Cancel,
        Some("pause") => MissingPaymentMethod::Pause,
        Some(_) => MissingPaymentMethod::CreateInvoice,
        None => {
            return Err(ApiError::missing_param(
                "trial_settings[end_behavior][missing_payment_method]",
            ));
        }
    };
    behavior.finish()?;
    Ok(Some(choice))
}

/// Takes `payment_settings`: whether to save the payment method.
pub fn take_payment_settings(params: &mut Params) -> Result<Option<bool>, ApiError> {
    let Some(mut settings) = params.map("payment_settings")? else {
        return Ok(None);
    };
    let save = settings.choice("save_default_payment_method", &["off", "on_subscription"])?;
    let types = settings.texts("payment_method_types")?;
    settings.finish()?;
    if types.is_some_and(|types| types.iter().any(|kind| kind != "card")) {
        return Err(ApiError::unsupported(
            "payment_settings[payment_method_types]",
            "methods other than cards",
        ));
    }
    Ok(save.map(|word| word == "on_subscription"))
}

/// Takes settings that have only one supported value, and refuses others.
pub fn take_fixed_settings(params: &mut Params) -> Result<(), ApiError> {
    let method = params.choice(
        "collection_method",
        &["charge_automatically", "send_invoice"],
    )?;
    if params.count("days_until_due")?.is_some() && method != Some("send_invoice") {
        return Err(ApiError::bad_param(
            "days_until_due",
            "`days_until_due` can only be set when `collection_method` is `send_invoice`.",
        ));
    }
    if method == Some("send_invoice") {
        return Err(ApiError::unsupported(
            "collection_method",
            "invoices sent by email",
        ));
    }
    params.boolean("off_session")?;
    Ok(())
}

/// The reasons for leaving that Stripe lets a customer choose.
const FEEDBACK: [&str; 8] = [
    "customer_service",
    "low_quality",
    "missing_features",
    "other",
    "switched_service",
    "too_complex",
    "too_expensive",
    "unused",
];

/// The parameter `cancellation_details`.
#[derive(Debug, Clone, Default)]
pub struct CancellationDetails {
    comment: Option<Option<String>>,
    feedback: Option<Option<String>>,
}

impl CancellationDetails {
    pub fn take(params: &mut Params) -> Result<Self, ApiError> {
        let Some(mut details) = params.map("cancellation_details")? else {
            return Ok(Self::default());
        };
        let taken = Self {
            comment: details.clearable("comment")?,
            feedback: details.clearable("feedback")?,
        };
        if let Some(Some(feedback)) = &taken.feedback
            && !FEEDBACK.contains(&feedback.as_str())
        {
            let name = details.name("feedback");
            return Err(ApiError::bad_param(
                &name,
                format!("Invalid {name}: must be one of {}", FEEDBACK.join(", ")),
            ));
        }
        details.finish()?;
        Ok(taken)
    }

    pub fn apply(self, subscription: &mut Subscription) {
        if let Some(comment) = self.comment {
            subscription.cancel_comment = comment;
        }
        if let Some(feedback) = self.feedback {
            subscription.cancel_feedback = feedback;
        }
    }
}
