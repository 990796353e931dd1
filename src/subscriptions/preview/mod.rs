//! Previews: what a change of plan would cost. Nothing here changes a subscription,
//! neither in Stripe nor in our state. Where Stripe charges usage with the change, it is
//! told the usage so far before it is asked, and that report is recorded, as those of
//! `usage report` are.

mod addons;
mod features;
pub mod later;
pub mod local;
mod pricing;
pub(super) mod quotes;
pub mod stripe;
pub mod switch;
pub(super) mod switched;
pub(super) mod token;
mod totals;
pub(super) mod usage_lines;

use std::fmt;

use billing_domain::money;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::PendingChangeView;
use super::selection::AskedAddons;
use super::state::SubscriptionRow;
use crate::catalogue::{Addons, BoughtAddon, Catalogue, Interval, Plan, Price, When};
use crate::metering::charges::UsageCharge;
use crate::server::number::Number;
use addons::AddonChange;
use features::FeatureChange;
pub(super) use pricing::Asked;
use token::{LIFETIME, Quote};
pub use totals::Totals;

/// Where the amounts of a preview come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = PreviewSource)]
pub enum Source {
    Stripe,
    Local,
}

/// The price of a change. Amounts are in minor units, after discounts and taxes and
/// before the customer's credit balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pricing {
    pub currency: String,
    /// When the change takes effect, and the start of proration.
    pub effective_at: Timestamp,
    /// The cost of the change itself, now or with the next invoice: what its lines
    /// come to.
    pub prorated_amount: i64,
    /// The part of it that is invoiced at once.
    pub due_now_amount: i64,
    /// The total of the next invoice, without usage.
    pub next_invoice_amount: i64,
    pub next_invoice_at: Timestamp,
    pub lines: Vec<Line>,
    /// Usage over the quota that the change charges, which is among the lines.
    pub usage: Vec<UsageCharge>,
    pub totals: Totals,
    /// Of the next invoice, without usage.
    pub next_totals: Totals,
    /// The latest time at which this price can be valid.
    pub holds_until: Option<Timestamp>,
    pub source: Source,
}

/// A line that the change adds to an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PreviewLine)]
pub struct Line {
    pub description: String,
    /// In minor units, as the following ones; before discounts and the taxes that are
    /// added.
    pub amount: i64,
    /// What discounts take off. Prorations are of discounted amounts, so that nothing is
    /// taken off them again.
    pub discount_amount: i64,
    /// All tax.
    pub tax_amount: i64,
    /// The tax that `amount` includes.
    pub included_tax_amount: i64,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub proration: bool,
}

impl Line {
    /// Without discount and tax, and no proration.
    pub fn plain(description: String, amount: i64, period: (Timestamp, Timestamp)) -> Self {
        Self {
            description,
            amount,
            discount_amount: 0,
            tax_amount: 0,
            included_tax_amount: 0,
            period_start: period.0,
            period_end: period.1,
            proration: false,
        }
    }

    /// Whether it changes no total.
    pub fn is_nothing(&self) -> bool {
        (self.amount, self.discount_amount, self.tax_amount) == (0, 0, 0)
    }
}

/// A metric whose quota or overage rate changes.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaChange {
    pub metric: String,
    /// Null: unlimited.
    #[schema(required, value_type = Option<Number>)]
    pub current_quota: Option<Box<RawValue>>,
    #[schema(required, value_type = Option<Number>)]
    pub new_quota: Option<Box<RawValue>>,
    /// In major units for one unit of the metric; "0" where none is charged.
    pub current_overage_rate: String,
    pub new_overage_rate: String,
}

/// What a preview is of, as it is bought.
#[derive(Debug)]
pub struct Previewed {
    pub plan: Plan,
    pub interval: Option<Interval>,
    pub quantity: Option<u64>,
    /// What `PUT` is to say of the interval.
    pub asked: Option<Interval>,
    /// When it takes effect; `None` if there is no choice.
    pub when: Option<When>,
    /// The add-ons beside it; `None` if there is no subscription then.
    pub addons: Option<Addons>,
}

impl Previewed {
    /// What `PUT` is to say of the add-ons.
    pub fn asked_addons(&self) -> Option<AskedAddons> {
        let addons = self.addons.as_ref()?.iter();
        Some(
            addons
                .map(|(id, quantity)| (id.clone(), i64::from(*quantity)))
                .collect(),
        )
    }
}

/// What there is before a change.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    pub tier: &'a str,
    /// As they are paid; `None` for a plan that the catalogue no longer has.
    pub terms: Option<&'a Plan>,
    pub addons: &'a Addons,
}

/// The API's representation of a preview.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    pub current_plan: String,
    pub new_plan: String,
    /// The interval of the new plan; null for one without a subscription.
    #[schema(required)]
    pub interval: Option<Interval>,
    /// The seats of the new plan; null if they are not bought.
    #[schema(required)]
    pub quantity: Option<u64>,
    /// The add-ons beside the new plan.
    pub addons: Vec<BoughtAddon>,
    pub currency: String,
    /// Exact, in major units.
    #[schema(value_type = Number)]
    pub prorated_amount: Box<RawValue>,
    #[schema(value_type = Number)]
    pub next_invoice_amount: Box<RawValue>,
    #[schema(value_type = Number)]
    pub due_now_amount: Box<RawValue>,
    pub prorated_amount_minor: i64,
    pub next_invoice_amount_minor: i64,
    pub due_now_amount_minor: i64,
    pub effective_date: Timestamp,
    /// When the change takes effect; null if there is no choice.
    #[schema(required)]
    pub when: Option<When>,
    /// The pending change that this one would take the place of.
    #[schema(required)]
    pub pending_change: Option<PendingChangeView>,
    pub next_invoice_date: Timestamp,
    /// Those of usage and prorations that come to nothing are left out.
    pub lines: Vec<Line>,
    /// What the change costs; its total is `proratedAmount`.
    pub totals: Totals,
    /// What the next invoice comes to without usage; its total is `nextInvoiceAmount`.
    pub next_invoice_totals: Totals,
    /// The promotion code that the change redeems.
    #[schema(required)]
    pub promotion_code: Option<String>,
    pub changes: Vec<QuotaChange>,
    pub feature_changes: Vec<FeatureChange>,
    /// The add-ons that come, go, or become more or fewer.
    pub addon_changes: Vec<AddonChange>,
    pub source: Source,
    pub preview_token: String,
    pub preview_token_expires_at: Timestamp,
}

/// Why there is no preview.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreviewUnavailable {
    #[error("the subscription {0}, and only Stripe can price a change of it")]
    StripeOnly(&'static str),
    #[error(
        "the subscription {why} and a schedule, another interval or invoices of usage before its renewal, and Stripe does not say what its next invoice would be"
    )]
    NotPriced { why: &'static str, way_out: WayOut },
    #[error(
        "the promotion code is redeemed when the period ends, and Stripe prices it as if it were redeemed now, when it would hold until {0} only"
    )]
    CodeEndsBefore(Timestamp),
    #[error("the currency of subscription {0} is not known here")]
    NoCurrency(String),
    #[error("the amounts are out of range: {0}")]
    OutOfRange(String),
}

/// What lets Stripe price a change that it cannot price now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayOut {
    /// Calling off what is pending.
    CallOff,
    /// The end of a schedule from which nothing follows.
    Wait(Timestamp),
    None,
}

impl PreviewUnavailable {
    /// Stripe does not price a change of `subscription`.
    fn not_priced(subscription: &SubscriptionRow, why: &'static str) -> Self {
        let phases = subscription.schedule.iter().flat_map(|one| &one.phases);
        let ends = phases.filter_map(|phase| phase.end).max();
        let way_out = match (&subscription.pending, ends) {
            (Some(pending), _) if !pending.migrates => WayOut::CallOff,
            (_, Some(at)) => WayOut::Wait(at),
            _ => WayOut::None,
        };
        Self::NotPriced { why, way_out }
    }
}

impl Pricing {
    /// When a quote of this price expires: at the latest with the period that it
    /// was made in.
    pub fn expires_at(&self, now: Timestamp) -> Timestamp {
        let latest = now + LIFETIME;
        match self.holds_until {
            // The customer may be on a test clock, so only the time left counts.
            Some(until) => latest.min(now + until.duration_since(self.effective_at)),
            None => latest,
        }
    }

    /// Whether the change still costs what was quoted.
    pub fn matches(&self, quote: &Quote) -> bool {
        self.currency == quote.currency
            && self.prorated_amount == quote.prorated_amount
            && self.due_now_amount == quote.due_now_amount
            && self.next_invoice_amount == quote.next_invoice_amount
    }

    pub fn into_preview(
        self,
        current: Current<'_>,
        new: &Previewed,
        pending_change: Option<PendingChangeView>,
        sealed: Sealed,
    ) -> Preview {
        let major = |minor| exactly(money::major(minor, &self.currency));
        let (interval, quantity, when) = (new.interval, new.quantity, new.when);
        let addons = new.addons.clone().unwrap_or_default();
        let new = &new.plan;
        Preview {
            current_plan: current.tier.to_owned(),
            new_plan: new.tier.clone(),
            interval,
            quantity,
            addons: BoughtAddon::list(&addons),
            prorated_amount: major(self.prorated_amount),
            next_invoice_amount: major(self.next_invoice_amount),
            due_now_amount: major(self.due_now_amount),
            prorated_amount_minor: self.prorated_amount,
            next_invoice_amount_minor: self.next_invoice_amount,
            due_now_amount_minor: self.due_now_amount,
            effective_date: self.effective_at,
            when,
            pending_change,
            next_invoice_date: self.next_invoice_at,
            lines: self.lines,
            totals: self.totals,
            next_invoice_totals: self.next_totals,
            promotion_code: sealed.promotion_code,
            changes: quota_changes(current.terms, new),
            feature_changes: features::changes(current.terms, new),
            addon_changes: addons::changes(current.addons, &addons),
            source: self.source,
            preview_token: sealed.token,
            preview_token_expires_at: sealed.expires_at,
            currency: self.currency,
        }
    }
}

/// A quote as a token.
pub struct Sealed {
    pub token: String,
    pub expires_at: Timestamp,
    pub promotion_code: Option<String>,
}

/// A JSON number with exactly these digits, which a float cannot guarantee.
fn exactly(number: impl fmt::Display) -> Box<RawValue> {
    RawValue::from_string(number.to_string()).expect("a decimal number is JSON")
}

fn quota_changes(current: Option<&Plan>, new: &Plan) -> Vec<QuotaChange> {
    let rate = |rate: Option<Decimal>| rate.unwrap_or_default().normalize().to_string();
    let number = |quota: Option<Decimal>| quota.map(|quota| exactly(quota.normalize()));
    let changes = new.quotas.iter().filter_map(|(metric, new)| {
        let current = current?.quotas.get(metric)?;
        let same = current.quota == new.quota && current.overage_rate == new.overage_rate;
        (!same).then(|| QuotaChange {
            metric: metric.clone(),
            current_quota: number(current.quota),
            new_quota: number(new.quota),
            current_overage_rate: rate(current.overage_rate),
            new_overage_rate: rate(new.overage_rate),
        })
    });
    changes.collect()
}

/// Stripe's wording: `1 × Standard (at $99.00 / month)`.
fn describe_price(name: &str, price: &Price, quantity: u64) -> String {
    let amount = money::major(price.amount, &price.currency);
    let cost = match price.currency.to_ascii_lowercase().as_str() {
        "usd" => format!("${amount}"),
        "eur" => format!("€{amount}"),
        "gbp" => format!("£{amount}"),
        other => format!("{amount} {}", other.to_uppercase()),
    };
    let interval = price.interval.as_str();
    format!("{quantity} × {name} (at {cost} / {interval})")
}

/// The end of a subscription, at once or with its period: never charged.
pub fn of_end(
    catalogue: &Catalogue,
    subscription: &SubscriptionRow,
    now: Timestamp,
) -> Result<Pricing, PreviewUnavailable> {
    let with_period = subscription.cancel_at.or(subscription.period_end);
    let ends_at = with_period
        .filter(|_| !subscription.is_incomplete())
        .unwrap_or(now);
    let currency = subscription.currency.clone().or_else(|| {
        let (_, plan) = subscription.base_item(catalogue)?;
        Some(plan.price.currency.clone())
    });
    let unknown = || PreviewUnavailable::NoCurrency(subscription.id.clone());
    Ok(Pricing {
        currency: currency.ok_or_else(unknown)?,
        effective_at: ends_at,
        prorated_amount: 0,
        due_now_amount: 0,
        next_invoice_amount: 0,
        next_invoice_at: ends_at,
        lines: Vec::new(),
        usage: Vec::new(),
        totals: Totals::default(),
        next_totals: Totals::default(),
        holds_until: None,
        source: Source::Local,
    })
}
