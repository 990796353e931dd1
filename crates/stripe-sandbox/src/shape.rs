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

/// The versions that Stripe has had since 2017, before it named them.
const DATED: [&str; 24] = [
    "2017-05-25",
    "2017-06-05",
    "2017-08-15",
    "2017-12-14",
    "2018-01-23",
    "2018-02-05",
    "2018-02-06",
    "2018-02-28",
    "2018-05-21",
    "2018-07-27",
    "2018-08-23",
    "2018-09-06",
    "2018-09-24",
    "2018-10-31",
    "2018-11-08",
    "2019-02-11",
    "2019-02-19",
    "2019-03-14",
    "2019-05-16",
    "2019-08-14",
    "2019-09-09",
    "2019-10-08",
    "2019-10-17",
    "2019-11-05",
];
const DATED_SINCE_2019_12: [&str; 9] = [
    "2019-12-03",
    "2020-03-02",
    "2020-08-27",
    "2022-08-01",
    "2022-11-15",
    "2023-08-16",
    "2023-10-16",
    "2024-04-10",
    "2024-06-20",
];
/// The named versions: the months of each name's releases.
const NAMED: [(&str, &[&str]); 5] = [
    (
        "acacia",
        &[
            "2024-09-30",
            "2024-10-28",
            "2024-11-20",
            "2024-12-18",
            "2025-01-27",
            "2025-02-24",
        ],
    ),
    (
        "basil",
        &[
            "2025-03-31",
            "2025-04-30",
            "2025-05-28",
            "2025-06-30",
            "2025-07-30",
            "2025-08-27",
        ],
    ),
    (
        "clover",
        &[
            "2025-09-30",
            "2025-10-29",
            "2025-11-17",
            "2025-12-15",
            "2026-01-28",
            "2026-02-25",
        ],
    ),
    (
        "dahlia",
        &[
            "2026-03-25",
            "2026-04-22",
            "2026-05-27",
            "2026-06-24",
            "2026-07-29",
            "2026-08-26",
        ],
    ),
    ("endive", &["2026-09-30", "2026-10-28"]),
];

/// Refuses a version that Stripe never had.
pub fn check_version(version: &str) -> Result<(), ApiError> {
    let known = match version.split_once('.') {
        Some((date, name)) => NAMED
            .iter()
            .any(|(known, dates)| name == *known && dates.contains(&date)),
        None => DATED.contains(&version) || DATED_SINCE_2019_12.contains(&version),
    };
    if known {
        Ok(())
    } else {
        Err(ApiError::invalid(format!(
            "Invalid Stripe API version: {version}"
        )))
    }
}
