//! What Stripe is told of a schedule's phase. Stripe keeps nothing of a phase that is left
//! out, so that those which stay are repeated.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::stripe::client::Params;

/// The discounts that a subscription has now, which phases are told. A phase goes on naming
/// one after an invoice has used it up, and Stripe refuses to be told of it again; of a
/// coupon that the phase has redeemed, it would make another discount.
#[derive(Debug, Default)]
pub struct Discounts<'a> {
    own: Vec<&'a str>,
    /// Those of items, by price.
    of_items: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Discounts<'a> {
    /// Those of `subscription`, all of whose items are listed.
    pub fn of(subscription: &'a Value) -> Self {
        let ids = |object: &'a Value| members(&object["discounts"]).map(id).collect();
        let items = members(&subscription["items"]["data"]);
        Self {
            own: ids(subscription),
            of_items: items.map(|item| (id(&item["price"]), ids(item))).collect(),
        }
    }

    /// Tells a phase that repeats the subscription, or goes on from it.
    pub fn repeat(&self, at: &str, params: Params) -> Params {
        named(&self.own, at, params)
    }

    /// Tells an item that repeats `item`, or takes its place.
    pub fn repeat_item(&self, item: &Value, at: &str, params: Params) -> Params {
        match self.of_items.get(id(&item["price"])) {
            Some(own) => named(own, at, params),
            None => self.keep(&item["discounts"], at, params),
        }
    }

    /// Tells a phase or an item that is to come what it was told already.
    pub fn keep(&self, list: &Value, at: &str, mut params: Params) -> Params {
        let all = self.of_items.values().chain([&self.own]).flatten();
        let kept = members(list).filter_map(|discount| {
            let kinds = ["discount", "coupon", "promotion_code"];
            let kind = kinds.into_iter().find(|kind| !discount[*kind].is_null())?;
            let value = id(&discount[kind]);
            let is_there = kind != "discount" || all.clone().any(|held| *held == value);
            is_there.then_some((kind, value))
        });
        for (n, (kind, value)) in kept.enumerate() {
            params = params.set(format!("{at}[discounts][{n}][{kind}]"), value);
        }
        params
    }
}

fn named(ids: &[&str], at: &str, params: Params) -> Params {
    let ids = ids.iter().enumerate();
    ids.fold(params, |params, (n, id)| {
        params.set(format!("{at}[discounts][{n}][discount]"), id)
    })
}

/// What a phase says of how it is charged, besides its discounts.
pub fn terms(phase: &Value, at: &str, mut params: Params) -> Params {
    for name in [
        "collection_method",
        "default_payment_method",
        "description",
        "on_behalf_of",
        "application_fee_percent",
    ] {
        let value = &phase[name];
        if !value.is_null() {
            let value = value
                .as_str()
                .map_or_else(|| id_or_text(value), str::to_owned);
            params = params.set(format!("{at}[{name}]"), value);
        }
    }
    if let Some(enabled) = phase["automatic_tax"]["enabled"].as_bool() {
        params = params.set(format!("{at}[automatic_tax][enabled]"), enabled);
    }
    if let Some(days) = phase["invoice_settings"]["days_until_due"].as_i64() {
        params = params.set(format!("{at}[invoice_settings][days_until_due]"), days);
    }
    for (n, rate) in members(&phase["default_tax_rates"]).enumerate() {
        params = params.set(format!("{at}[default_tax_rates][{n}]"), id(rate));
    }
    recipients(phase, at, params)
}

/// Who gets what is paid, in whose name it is invoiced, and from which amount on.
fn recipients(phase: &Value, at: &str, mut params: Params) -> Params {
    for name in [
        "transfer_data[destination]",
        "transfer_data[amount_percent]",
        "automatic_tax[liability][type]",
        "automatic_tax[liability][account]",
        "invoice_settings[issuer][type]",
        "invoice_settings[issuer][account]",
        "billing_thresholds[amount_gte]",
        "billing_thresholds[reset_billing_cycle_anchor]",
    ] {
        let mut parts = name.split(['[', ']']).filter(|part| !part.is_empty());
        let first = parts.next().unwrap_or_default();
        let value = parts.fold(&phase[first], |object, part| &object[part]);
        if !value.is_null() {
            let value = value
                .as_str()
                .map_or_else(|| id_or_text(value), str::to_owned);
            params = params.set(format!("{at}[{first}]{}", &name[first.len()..]), value);
        }
    }
    for (n, tax_id) in members(&phase["invoice_settings"]["account_tax_ids"]).enumerate() {
        let name = format!("{at}[invoice_settings][account_tax_ids][{n}]");
        params = params.set(name, id(tax_id));
    }
    params
}

/// What an item says of how it is charged, besides its price, quantity and discounts.
pub fn item_terms(item: &Value, at: &str, mut params: Params) -> Params {
    for (n, rate) in members(&item["tax_rates"]).enumerate() {
        params = params.set(format!("{at}[tax_rates][{n}]"), id(rate));
    }
    let usage = item["billing_thresholds"]["usage_gte"].as_i64();
    params.set_if(&format!("{at}[billing_thresholds][usage_gte]"), usage)
}

/// The items of a phase as they are; `discounts` tells those of an item.
pub fn same_items(
    phase: &Value,
    at: &str,
    mut params: Params,
    discounts: impl Fn(&Value, &str, Params) -> Params,
) -> Params {
    for (n, item) in members(&phase["items"]).enumerate() {
        let at = format!("{at}[items][{n}]");
        params = params
            .set(format!("{at}[price]"), id(&item["price"]))
            .set_if(&format!("{at}[quantity]"), item["quantity"].as_u64());
        params = metadata(&item["metadata"], &at, params);
        params = discounts(item, &at, item_terms(item, &at, params));
    }
    params
}

/// When the schedule's current phase has begun.
pub fn begun(schedule: &Value) -> Option<i64> {
    schedule["current_phase"]["start_date"].as_i64()
}

/// The current phase and those that follow.
pub fn from_current_on(schedule: &Value) -> Vec<&Value> {
    let begun = begun(schedule);
    let phases = members(&schedule["phases"]);
    phases
        .filter(|phase| phase["start_date"].as_i64() >= begun)
        .collect()
}

/// Repeats the phases from the current one on; `items` tells the items of each, with the
/// discounts that its third argument tells of an item.
pub fn repeat_all(
    phases: &[&Value],
    held: &Discounts<'_>,
    mut params: Params,
    items: impl Fn(&Value, &str, Params, &dyn Fn(&Value, &str, Params) -> Params) -> Params,
) -> Params {
    for (n, phase) in phases.iter().enumerate() {
        let at = format!("phases[{n}]");
        if n == 0 {
            params = params.set(format!("{at}[start_date]"), number(&phase["start_date"]));
        }
        for name in [
            "end_date",
            "proration_behavior",
            "trial_end",
            "billing_cycle_anchor",
        ] {
            let value = &phase[name];
            if !value.is_null() {
                params = params.set(format!("{at}[{name}]"), number(value));
            }
        }
        params = terms(phase, &at, params);
        params = metadata(&phase["metadata"], &at, params);
        let discounts = |item: &Value, at: &str, params| match n {
            0 => held.repeat_item(item, at, params),
            _ => held.keep(&item["discounts"], at, params),
        };
        if n == 0 {
            params = held.repeat(&at, params);
        } else {
            params = held.keep(&phase["discounts"], &at, params);
            // Those of the current phase are on an invoice already.
            params = one_off_items(&phase["add_invoice_items"], &at, params, discounts);
        }
        params = items(phase, &at, params, &discounts);
    }
    params
}

/// What the invoice of a phase has besides its items, such as a fee for setting up.
fn one_off_items(
    items: &Value,
    at: &str,
    mut params: Params,
    discounts: impl Fn(&Value, &str, Params) -> Params,
) -> Params {
    for (n, item) in members(items).enumerate() {
        let at = format!("{at}[add_invoice_items][{n}]");
        params = params
            .set(format!("{at}[price]"), id(&item["price"]))
            .set_if(&format!("{at}[quantity]"), item["quantity"].as_u64());
        params = metadata(&item["metadata"], &at, params);
        params = discounts(item, &at, item_terms(item, &at, params));
    }
    params
}

pub fn metadata(map: &Value, at: &str, mut params: Params) -> Params {
    for (key, value) in map.as_object().into_iter().flatten() {
        if let Some(value) = value.as_str() {
            params = params.set(format!("{at}[metadata][{key}]"), value);
        }
    }
    params
}

pub fn members(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// An id, bare or in its object.
pub fn id(value: &Value) -> &str {
    value
        .as_str()
        .or_else(|| value["id"].as_str())
        .unwrap_or_default()
}

fn id_or_text(value: &Value) -> String {
    match value {
        Value::Object(_) => id(value).to_owned(),
        other => other.to_string(),
    }
}

/// A number or a word, as a parameter has it.
pub fn number(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn discounts_that_are_used_up_are_not_told_again() {
        let subscription = json!({
            "discounts": [{"id": "di_1"}],
            "items": {"data": [{"price": {"id": "price_a"}, "discounts": ["di_2"]}]},
        });
        let held = Discounts::of(&subscription);
        let shown = |params: Params| serde_json::to_value(params).unwrap();
        let told = held.repeat("p", Params::new());
        assert_eq!(shown(told), json!({"p[discounts][0][discount]": "di_1"}));
        let item = json!({"price": "price_a", "discounts": [{"discount": "di_gone"}]});
        let told = held.repeat_item(&item, "i", Params::new());
        assert_eq!(shown(told), json!({"i[discounts][0][discount]": "di_2"}));
        let later = json!([
            {"discount": "di_gone"}, {"discount": "di_2", "coupon": null}, {"coupon": "c"},
            {"promotion_code": {"id": "promo_1"}},
        ]);
        let expected = json!({
            "p[discounts][0][discount]": "di_2",
            "p[discounts][1][coupon]": "c",
            "p[discounts][2][promotion_code]": "promo_1",
        });
        assert_eq!(shown(held.keep(&later, "p", Params::new())), expected);
    }

    #[test]
    fn who_is_paid_and_in_whose_name_is_repeated() {
        let phase = json!({
            "automatic_tax": {"enabled": null, "liability": {"type": "account", "account": "acct_3"}},
            "transfer_data": {"destination": {"id": "acct_1"}, "amount_percent": 12.5},
            "invoice_settings": {
                "account_tax_ids": ["atxi_1"], "days_until_due": null,
                "issuer": {"type": "account", "account": {"id": "acct_2"}},
            },
            "billing_thresholds": {"amount_gte": 500, "reset_billing_cycle_anchor": false},
        });
        let expected = json!({
            "p[transfer_data][destination]": "acct_1",
            "p[transfer_data][amount_percent]": "12.5",
            "p[automatic_tax][liability][type]": "account",
            "p[automatic_tax][liability][account]": "acct_3",
            "p[invoice_settings][issuer][type]": "account",
            "p[invoice_settings][issuer][account]": "acct_2",
            "p[invoice_settings][account_tax_ids][0]": "atxi_1",
            "p[billing_thresholds][amount_gte]": "500",
            "p[billing_thresholds][reset_billing_cycle_anchor]": "false",
        });
        let params = terms(&phase, "p", Params::new());
        assert_eq!(serde_json::to_value(params).unwrap(), expected);
        let item = json!({"billing_thresholds": {"usage_gte": 9}});
        let params = item_terms(&item, "p", Params::new());
        let expected = json!({"p[billing_thresholds][usage_gte]": "9"});
        assert_eq!(serde_json::to_value(params).unwrap(), expected);
    }
}
