//! The plans that are sold, in the customer's currency, and the form that asks for the price
//! of one.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::look::{Around, Notice};
use super::meters::{name_of, quantity};
use super::text::{money, rate};
use super::visitor::Signed;
use super::{Portal, change};
use crate::catalogue::features::FeatureValue;
use crate::catalogue::{
    Addon, Interval, MAX_SEATS, OnPlanChange, OverLimit, Plan, Price as CataloguePrice, Quota,
};
use crate::server::problem::Problem;
use crate::subscriptions::SubscriptionState;

pub const PATH: &str = "/portal/plans";

#[derive(Template)]
#[template(path = "portal/plans.html")]
struct Plans {
    around: Around,
    offers: Vec<Offer>,
    preview: &'static str,
}

struct Offer {
    tier: String,
    name: String,
    current: bool,
    prices: Vec<Price>,
    seats: Option<SeatsField>,
    addons: Vec<AddonField>,
    quotas: Vec<(String, String)>,
    features: Vec<String>,
    /// What its button says; none where there is nothing to choose.
    act: Option<String>,
}

struct Price {
    interval: &'static str,
    label: String,
    chosen: bool,
}

struct SeatsField {
    fewest: u32,
    most: u32,
    value: u32,
    note: String,
}

/// An add-on, and how many of it.
struct AddonField {
    /// Of the field.
    field: String,
    name: String,
    most: u32,
    value: u32,
    note: String,
}

pub async fn page(State(portal): State<Arc<Portal>>, signed: Signed) -> Response {
    let page = shown(&portal, &signed, None, StatusCode::OK).await;
    portal.shown(&signed, page)
}

/// The page, with what is to be said above it.
pub async fn shown(
    portal: &Portal,
    signed: &Signed,
    notice: Option<Notice>,
    status: StatusCode,
) -> Result<Response, Problem> {
    let state = portal.state(signed).await?;
    let sold = portal.catalogue.plans().iter().filter(|plan| !plan.retired);
    let plans = Plans {
        around: signed.around(portal, &state, PATH, "Plans").with(notice),
        offers: sold.map(|plan| Offer::of(portal, &state, plan)).collect(),
        preview: change::PREVIEW,
    };
    Ok(portal.look.answer(status, &plans))
}

impl Offer {
    fn of(portal: &Portal, state: &SubscriptionState, plan: &Plan) -> Self {
        let catalogue = &portal.catalogue;
        let current = plan.tier == state.plan_tier;
        let held = state.subscription.as_ref();
        let currency = held
            .and_then(|one| one.currency.as_deref())
            .or(state.customer_currency.as_deref());
        let offers = plan.offers();
        let sold_in = |currency: &str| {
            let mut prices = offers.iter().map(|one| &one.price);
            prices.any(|price| price.currency.eq_ignore_ascii_case(currency))
        };
        let currency = currency.filter(|currency| sold_in(currency));
        let currency = currency.unwrap_or(&plan.price.currency);
        let offers = offers.iter();
        let offers: Vec<&Plan> = offers
            .filter(|one| one.price.currency.eq_ignore_ascii_case(currency))
            .collect();
        // As it is paid today, where that is offered.
        let offered =
            |interval: &Interval| offers.iter().any(|one| one.price.interval == *interval);
        let chosen = state.bought.interval.filter(offered);
        let chosen = chosen.unwrap_or(plan.price.interval);
        let prices = offers.iter().map(|one| Price {
            interval: one.price.interval.as_str(),
            label: price_label(one),
            chosen: one.price.interval == chosen,
        });
        let terms = plan.paid_in(Some(currency), Some(chosen));
        let quotas = terms.quotas.iter().map(|(metric, quota)| {
            let limit = limit(portal, metric, quota, currency);
            (name_of(catalogue, metric), limit)
        });
        let seats = SeatsField::of(&terms, state.bought.seats.filter(|_| current));
        let addons = addons(portal, state, plan, (currency, &chosen));
        let billed = held.is_some() && current;
        let several = offers.len() > 1 || seats.is_some() || !addons.is_empty();
        let act = match (current, billed && several) {
            (true, true) => Some("See the price of this".to_owned()),
            (true, false) => None,
            (false, _) => Some(format!("Choose {}", plan.name)),
        };
        Self {
            tier: plan.tier.clone(),
            name: plan.name.clone(),
            current,
            prices: prices.collect(),
            seats,
            addons,
            quotas: quotas.collect(),
            features: features(portal, plan),
            act,
        }
    }
}

/// The add-ons that go with a plan, each with as many as there would be: those that are held
/// and stay, or none.
fn addons(
    portal: &Portal,
    state: &SubscriptionState,
    plan: &Plan,
    (currency, chosen): (&str, &Interval),
) -> Vec<AddonField> {
    let current = plan.tier == state.plan_tier;
    let of = |addon: &Addon| {
        let held = state.bought.addons.get(&addon.id).copied().unwrap_or(0);
        let stays = current || addon.on_plan_change == OnPlanChange::Keep;
        let value = if stays { held } else { 0 };
        let mut prices: Vec<&CataloguePrice> = addon
            .prices
            .iter()
            .filter(|price| price.currency.eq_ignore_ascii_case(currency))
            .collect();
        // That of the interval that is chosen comes first.
        prices.sort_by_key(|price| price.interval != *chosen);
        let sold = !addon.retired && !prices.is_empty();
        let most = match sold {
            true => addon.max_quantity.max(held),
            false => value,
        };
        let each: Vec<String> = prices
            .iter()
            .map(|price| {
                let amount = money(price.amount, &price.currency);
                format!("{amount} per {}", price.interval.as_str())
            })
            .collect();
        let note = match sold {
            true => format!("{} for each", each.join(" or ")),
            false => "Sold no more: you may have fewer.".to_owned(),
        };
        (most > 0).then(|| AddonField {
            field: format!("{}{}", change::ADDON, addon.id),
            name: addon.name.clone(),
            most,
            value,
            note,
        })
    };
    let all = portal.catalogue.addons().iter();
    let all = all.filter(|addon| addon.goes_with(plan));
    all.filter_map(of).collect()
}

impl SeatsField {
    fn of(terms: &Plan, bought: Option<u32>) -> Option<Self> {
        let seats = terms.licensed_seats()?;
        let price = &terms.price;
        let note = match terms.seat_price() {
            Some(each) => format!(
                "{} included, {} for each one more",
                seats.included,
                money(each.amount, &each.currency)
            ),
            None => format!("{} for each", money(price.amount, &price.currency)),
        };
        Some(Self {
            fewest: seats.fewest(),
            most: MAX_SEATS,
            value: bought.unwrap_or(seats.fewest()),
            note,
        })
    }
}

fn price_label(offer: &Plan) -> String {
    let price = &offer.price;
    let amount = money(price.amount, &price.currency);
    let per_seat = offer.licensed_seats().is_some() && offer.seat_price().is_none();
    let seat = if per_seat { " a seat" } else { "" };
    format!("{amount}{seat} per {}", price.interval.as_str())
}

fn limit(portal: &Portal, metric: &str, quota: &Quota, currency: &str) -> String {
    let Some(number) = quota.quota else {
        return "unlimited".to_owned();
    };
    let included = quantity(&portal.catalogue, metric, number.normalize());
    match (quota.over_limit, quota.overage_rate) {
        (OverLimit::Overage, Some(each)) => {
            let each = rate(&each.normalize().to_string(), currency);
            format!("{included}, then {each} each")
        }
        _ => included,
    }
}

/// What the plan has, by name.
fn features(portal: &Portal, plan: &Plan) -> Vec<String> {
    let has = portal.catalogue.features_of(plan);
    let named = has.into_iter().filter(|(_, value)| value.is_on());
    let named = named.map(|(id, value)| feature(portal, &id, Some(&value)));
    named.collect()
}

/// A feature and its value as people say it: `Projects: 20`.
pub fn feature(portal: &Portal, id: &str, value: Option<&FeatureValue>) -> String {
    let name = feature_name(portal, id);
    match value {
        Some(FeatureValue::Flag(_)) | None => name,
        Some(value) => format!("{name}: {}", value_text(Some(value))),
    }
}

pub fn feature_name(portal: &Portal, id: &str) -> String {
    let found = portal.catalogue.features().get(id);
    found.map_or_else(|| super::text::words(id), |one| one.name.clone())
}

pub fn value_text(value: Option<&FeatureValue>) -> String {
    match value {
        Some(FeatureValue::Flag(true)) => "yes".to_owned(),
        Some(FeatureValue::Flag(false)) | None => "no".to_owned(),
        Some(FeatureValue::Number(number)) => crate::pages::number::grouped(number),
        Some(FeatureValue::Text(text)) => text.clone(),
    }
}
