//! The two shapes of Stripe's API, chosen by version.

use crate::error::ApiError;

/// The version that the current official SDKs pin.
pub const LATEST: &str = "2026-10-28.endive";

/// How objects are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Before `2025-03-31.basil`: the period is on the subscription, the
    /// invoice names its subscription, charge and payment intent.
    Legacy,
    /// `2025-03-31.basil` and later.
    Basil,
}

impl Shape {
    /// The shape of an API version such as `2023-10-16`.
    #[must_use]
    pub fn of(version: &str) -> Self {
        if version < "2025-03-31" {
            Self::Legacy
        } else {
            Self::Basil
        }
    }
}

/// Whether new subscriptions are in flexible billing mode by default.
#[must_use]
pub fn flexible_by_default(version: &str) -> bool {
    version >= "2025-09-30"
}

/// Refuses what is not of the form `2023-10-16` or `2025-03-31.basil`.
pub fn check_version(version: &str) -> Result<(), ApiError> {
    let (date, name) = version.split_once('.').unwrap_or((version, "basil"));
    let digits = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts: Vec<&str> = date.split('-').collect();
    let well_formed = matches!(parts[..], [year, month, day]
        if digits(year, 4) && digits(month, 2) && digits(day, 2))
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase());
    if well_formed {
        Ok(())
    } else {
        Err(ApiError::invalid(format!(
            "Invalid Stripe API version: {version}"
        )))
    }
}
