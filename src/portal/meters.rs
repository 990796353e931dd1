//! Usage beside what the plan allows.

use billing_domain::quota::OverLimit;
use jiff::Timestamp;
use rust_decimal::prelude::ToPrimitive as _;

use super::look::{Notice, Tone};
use super::text::{day, left, minute, money, rate, words};
use super::{Portal, plans};
use crate::catalogue::{Aggregation, Catalogue};
use crate::metering::grace::{self, GraceRow};
use crate::metering::usage::{self, MetricUsage};
use crate::pages::number::grouped;
use crate::server::problem::Problem;
use crate::tenancy::auth::Principal;

/// A metric, and how much of it is used.
pub struct Meter {
    pub name: String,
    pub used: String,
    /// None: unlimited.
    pub limit: Option<String>,
    pub percent: u64,
    /// How far the bar is filled.
    pub width: u64,
    pub tone: Tone,
    pub notes: Vec<String>,
}

/// What people call a metric.
pub fn name_of(catalogue: &Catalogue, metric: &str) -> String {
    let given = catalogue.given_name(metric);
    given.map_or_else(|| words(metric), str::to_owned)
}

/// A quantity with its unit, where that is short: `12 GB`.
pub fn quantity(catalogue: &Catalogue, metric: &str, number: impl ToString) -> String {
    let unit = catalogue.metric_name(metric);
    let unit = unit.and_then(|named| named.unit.as_deref());
    match unit.filter(|unit| unit.chars().all(char::is_uppercase)) {
        Some(unit) => format!("{} {unit}", grouped(number)),
        None => grouped(number),
    }
}

impl Meter {
    fn of(catalogue: &Catalogue, usage: &MetricUsage) -> Self {
        let metric = &usage.metric;
        let percent = usage.percentage.0.floor().to_u64().unwrap_or(0);
        let is_over = usage.overage.0 > 0.into();
        let tone = match usage.over_limit {
            OverLimit::Hard | OverLimit::Grace if percent >= 100 => Tone::Bad,
            _ if is_over || percent >= 80 => Tone::Warn,
            _ => Tone::Plain,
        };
        let mut notes = Vec::new();
        if let (true, Some(amount), Some(currency)) =
            (is_over, usage.overage_amount, &usage.currency)
        {
            let over = quantity(catalogue, metric, usage.overage.0);
            notes.push(format!("{over} over, {} so far", money(amount, currency)));
        } else if let (Some(_), Some(each), Some(currency)) =
            (&usage.quota, &usage.overage_rate, &usage.currency)
        {
            notes.push(format!("{} each beyond it", rate(each, currency)));
        } else if usage.quota.is_some() && usage.over_limit == OverLimit::Hard {
            notes.push("No more than that".to_owned());
        }
        let summed = catalogue.metric(metric);
        if summed.is_some_and(|one| one.aggregation == Aggregation::Sum) {
            notes.push(format!("Starts anew on {}", day(usage.period_end)));
        }
        Self {
            name: name_of(catalogue, metric),
            used: quantity(catalogue, metric, usage.usage.0),
            limit: usage
                .quota
                .map(|quota| quantity(catalogue, metric, quota.0)),
            percent,
            width: percent.min(100),
            tone,
            notes,
        }
    }
}

/// The usage of each metric, and what is said of those that are over it.
pub async fn read(
    portal: &Portal,
    principal: &Principal,
    now: Timestamp,
) -> Result<(Vec<Meter>, Vec<Notice>), Problem> {
    let organization = principal.organization_id;
    let mut tx = portal.shared.read(organization).await?;
    let used = usage::read_all(tx.conn(), &portal.metering, organization).await?;
    let filter = grace::Filter {
        organization_id: Some(organization),
        only_active: true,
        after: None,
        limit: i64::try_from(used.len()).unwrap_or(100).max(1),
    };
    let graces = grace::list(tx.conn(), &filter).await?;
    let meters = used.iter().map(|usage| Meter::of(&portal.catalogue, usage));
    let notices = graces.iter().map(|one| notice(portal, one, now));
    Ok((meters.collect(), notices.collect()))
}

fn notice(portal: &Portal, grace: &GraceRow, now: Timestamp) -> Notice {
    let name = name_of(&portal.catalogue, &grace.metric);
    let quota = quantity(&portal.catalogue, &grace.metric, grace.quota.0);
    let secs = grace.expires_at.as_second() - now.as_second();
    let title = format!("{name}: {} left over the limit", left(secs));
    let text = format!(
        "You have used more than the {quota} of your plan. It goes on until {}, and is refused \
         then. A larger plan ends this at once.",
        minute(grace.expires_at)
    );
    Notice::new(Tone::Warn, title, text).link(plans::PATH, "See the plans")
}
