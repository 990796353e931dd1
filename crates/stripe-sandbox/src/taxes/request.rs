//! Takes the tax settings of subscriptions, their items and previews.

use crate::error::ApiError;
use crate::params::Params;
use crate::state::State;
use crate::subscriptions::model::Subscription;
use crate::taxes::{automatic, rates};

/// How a request changes the taxes of a subscription.
#[derive(Debug, Clone, Default)]
pub struct TaxChange {
    automatic: Option<bool>,
    default_rates: Option<Vec<String>>,
}

impl TaxChange {
    /// Takes `automatic_tax` and `default_tax_rates`.
    pub fn take(params: &mut Params) -> Result<Self, ApiError> {
        Ok(Self {
            automatic: take_automatic(params)?,
            default_rates: params.texts("default_tax_rates")?,
        })
    }

    /// Takes only `default_tax_rates`, where `automatic_tax` is elsewhere.
    pub fn take_rates(&mut self, params: &mut Params) -> Result<(), ApiError> {
        self.default_rates = params.texts("default_tax_rates")?;
        Ok(())
    }

    /// A change of `automatic_tax` alone.
    pub fn take_automatic_only(params: &mut Params) -> Result<Self, ApiError> {
        Ok(Self {
            automatic: take_automatic(params)?,
            default_rates: None,
        })
    }

    #[must_use]
    pub const fn is_keep(&self) -> bool {
        self.automatic.is_none() && self.default_rates.is_none()
    }

    /// Applies the change, and refuses a subscription that cannot be taxed so.
    pub fn apply(&self, state: &State, subscription: &mut Subscription) -> Result<(), ApiError> {
        if let Some(automatic) = self.automatic {
            subscription.automatic_tax = automatic;
        }
        if let Some(default_rates) = &self.default_rates {
            rates::check(&state.tax_rates, default_rates, "default_tax_rates")?;
            subscription.default_tax_rates.clone_from(default_rates);
        }
        if !subscription.automatic_tax {
            return Ok(());
        }
        let by_hand = !subscription.default_tax_rates.is_empty()
            || subscription
                .items
                .iter()
                .any(|item| !item.tax_rates.is_empty());
        if by_hand {
            return Err(ApiError::bad_param(
                "automatic_tax[enabled]",
                "You cannot set tax rates when automatic tax is enabled.",
            ));
        }
        automatic::check_location(state.customer(&subscription.customer, "customer")?)
    }
}

/// Takes `automatic_tax[enabled]`.
pub fn take_automatic(params: &mut Params) -> Result<Option<bool>, ApiError> {
    let Some(mut tax) = params.map("automatic_tax")? else {
        return Ok(None);
    };
    let name = tax.name("enabled");
    let enabled = tax
        .boolean("enabled")?
        .ok_or_else(|| ApiError::missing_param(&name))?;
    if let Some(mut liability) = tax.map("liability")? {
        let name = liability.name("type");
        if liability.choice("type", &["account", "self"])? == Some("account") {
            return Err(ApiError::unsupported(&name, "accounts other than its own"));
        }
        liability.finish()?;
    }
    tax.finish()?;
    Ok(Some(enabled))
}
