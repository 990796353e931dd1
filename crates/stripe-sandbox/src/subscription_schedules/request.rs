//! Takes the phases of a request.

use crate::discounts::redeem::DiscountChange;
use crate::error::ApiError;
use crate::metadata::MetadataChange;
use crate::params::Params;
use crate::subscription_schedules::model::PhaseItem;
use crate::subscriptions::change::ProrationBehavior;
use crate::subscriptions::request;

/// Stripe's maximum number of phases, past ones excluded.
const MAX_PHASES: usize = 10;
/// Parameters of a phase that Stripe accepts and the sandbox does not support.
const UNSUPPORTED_IN_PHASES: [&str; 14] = [
    "add_invoice_items",
    "application_fee_percent",
    "automatic_tax",
    "billing_thresholds",
    "coupon",
    "default_payment_method",
    "default_tax_rates",
    "description",
    "invoice_settings",
    "iterations",
    "on_behalf_of",
    "plans",
    "transfer_data",
    "trial",
];

/// A time in a request: `now` or a Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Now,
    At(i64),
}

impl Moment {
    fn take(params: &mut Params, key: &str) -> Result<Option<Self>, ApiError> {
        let name = params.name(key);
        match params.text(key)?.as_deref() {
            None => Ok(None),
            Some("now") => Ok(Some(Self::Now)),
            Some(number) => number.parse().map(|at| Some(Self::At(at))).map_err(|_| {
                ApiError::bad_param(
                    &name,
                    "Invalid timestamp: must be an integer Unix timestamp.",
                )
            }),
        }
    }

    #[must_use]
    pub const fn secs(self, now_secs: i64) -> i64 {
        match self {
            Self::Now => now_secs,
            Self::At(at_secs) => at_secs,
        }
    }
}

/// A number of intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duration {
    pub interval: &'static str,
    pub count: u16,
}

/// A phase as requested.
#[derive(Debug, Clone)]
pub struct RequestedPhase {
    /// The name of the parameter, for errors, such as `phases[0]`.
    pub param: String,
    pub start: Option<Moment>,
    pub end: Option<Moment>,
    pub duration: Option<Duration>,
    pub items: Vec<PhaseItem>,
    pub behavior: ProrationBehavior,
    pub anchor: Option<&'static str>,
    pub currency: Option<String>,
    pub trial_end: Option<Moment>,
    pub discounts: DiscountChange,
    pub metadata: MetadataChange,
}

/// Takes `phases`.
pub fn take_phases(params: &mut Params) -> Result<Option<Vec<RequestedPhase>>, ApiError> {
    let name = params.name("phases");
    let Some(phases) = params.list("phases")? else {
        return Ok(None);
    };
    if phases.is_empty() || phases.len() > MAX_PHASES {
        return Err(ApiError::bad_param(
            &name,
            format!("A schedule has 1 to {MAX_PHASES} current and future phases."),
        ));
    }
    phases
        .into_iter()
        .map(take_phase)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn take_phase(mut params: Params) -> Result<RequestedPhase, ApiError> {
    let items_name = params.name("items");
    let param = items_name
        .strip_suffix("[items]")
        .unwrap_or("phases")
        .to_owned();
    let items = params
        .list("items")?
        .filter(|items| !items.is_empty())
        .ok_or_else(|| ApiError::missing_param(&items_name))?
        .into_iter()
        .map(take_item)
        .collect::<Result<_, _>>()?;
    let method = params.choice(
        "collection_method",
        &["charge_automatically", "send_invoice"],
    )?;
    if method == Some("send_invoice") {
        return Err(ApiError::unsupported(
            &params.name("collection_method"),
            "invoices sent by email",
        ));
    }
    let phase = RequestedPhase {
        start: Moment::take(&mut params, "start_date")?,
        end: Moment::take(&mut params, "end_date")?,
        duration: take_duration(&mut params)?,
        items,
        behavior: request::take_proration_behavior(&mut params)?,
        anchor: params.choice("billing_cycle_anchor", &["automatic", "phase_start"])?,
        currency: params.text("currency")?,
        trial_end: Moment::take(&mut params, "trial_end")?,
        discounts: DiscountChange::take(&mut params)?,
        metadata: MetadataChange::take(&mut params)?,
        param,
    };
    params.finish_rejecting(&UNSUPPORTED_IN_PHASES)?;
    if phase.end.is_some() && phase.duration.is_some() {
        return Err(ApiError::bad_param(
            &format!("{}[duration]", phase.param),
            "You may only specify one of these parameters: duration, end_date.",
        ));
    }
    Ok(phase)
}

fn take_duration(params: &mut Params) -> Result<Option<Duration>, ApiError> {
    let Some(mut duration) = params.map("duration")? else {
        return Ok(None);
    };
    let name = duration.name("interval");
    let interval = duration
        .choice("interval", &["day", "week", "month", "year"])?
        .ok_or_else(|| ApiError::missing_param(&name))?;
    let name = duration.name("interval_count");
    let count = duration.count("interval_count")?.unwrap_or(1);
    duration.finish()?;
    let count = u16::try_from(count)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| {
            ApiError::bad_param(
                &name,
                "This value must be greater than or equal to 1, and at most 65535.",
            )
        })?;
    Ok(Some(Duration { interval, count }))
}

fn take_item(mut params: Params) -> Result<PhaseItem, ApiError> {
    let name = params.name("price");
    let plan = params.text("plan")?;
    let price = match (params.text("price")?, plan) {
        (Some(price), Some(plan)) if price != plan => {
            return Err(ApiError::bad_param(
                &name,
                "You may only specify one of these parameters: plan, price.",
            ));
        }
        (price, plan) => price
            .or(plan)
            .ok_or_else(|| ApiError::missing_param(&name))?,
    };
    let item = PhaseItem {
        price,
        quantity: params.count("quantity")?,
        metadata: MetadataChange::take(&mut params)?,
    };
    params.finish_rejecting(&["billing_thresholds", "discounts", "price_data", "tax_rates"])?;
    Ok(item)
}
