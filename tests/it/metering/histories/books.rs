//! What was counted, what the stand-in billed, and what our API shows.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::Value;
use valuecanvas_billing::catalogue::{Catalogue, metered_lookup_key};
use valuecanvas_billing::metering::reports::{Reason, Report};

use super::party::Party;
use super::stage::Stage;
use crate::subscriptions::world::{seconds, text};

const HOUR: i64 = 3_600;
const METRICS: [&str; 2] = ["api_calls", "storage_gb"];

/// A total of our books.
#[derive(Debug)]
struct Total {
    metric: String,
    start: i64,
    end: i64,
    total: Decimal,
}

/// What was billed of a metric and a period.
#[derive(Debug, Default, Clone)]
struct Bill {
    tier: String,
    units: Decimal,
    amount: i64,
    /// The units that changes of plan within the period charged.
    charged: Decimal,
    /// Those of them that Stripe charged by itself, as it does in flexible billing.
    by_stripe: Decimal,
    invoices: Vec<String>,
}

/// What does not agree.
pub async fn compare(stage: &Stage, party: &mut Party, report: &Report) -> Vec<String> {
    let totals = totals(stage, party).await;
    let mut wrong = std::mem::take(&mut party.wrong);
    wrong.extend(counted(stage, party, &totals).await);
    let service = &stage.world.service;
    let mut shown = BTreeMap::new();
    for metric in METRICS {
        shown.insert(metric, party.tenant.usage(service, metric).await);
    }
    let bills = bills(stage, party, &totals).await;
    let of = [("customer", &*party.customer), ("status", "all")];
    let subscriptions = stage.world.stripe.list("/v1/subscriptions", &of).await;
    for total in &totals {
        let key = (total.metric.clone(), total.start);
        let bill = bills.get(&key).cloned().unwrap_or_default();
        let mut unbilled = report.unbilled.iter().filter(|found| {
            found.organization_id == party.tenant.organization
                && found.metric == total.metric
                && found.period_start.as_second() == total.start
        });
        let unseen = unbilled
            .next()
            .map_or(Decimal::ZERO, |found| match found.reason {
                Reason::BilledTooMuch => -found.units.0,
                _ => found.units.0,
            });
        // What a change charged counts no more at the end.
        let over = over(&stage.catalogue, &subscriptions, total, &bill).max(bill.charged);
        if bill.units + bill.charged - bill.by_stripe + unseen != over {
            wrong.push(format!(
                "{total:?}: {over} over the quota, {bill:?}, and {unseen} said to be lost"
            ));
        }
        let usage = &shown[total.metric.as_str()];
        if seconds(&usage["periodStart"]) == total.start
            && usage["overageAmount"]
                .as_i64()
                .is_some_and(|amount| amount != bill.amount)
            && bill.tier == tier_of(&subscriptions, total.start)
            && unseen.is_zero()
        {
            wrong.push(format!("shown as {usage}, and {bill:?}"));
        }
    }
    for ((metric, start), bill) in &bills {
        let known = totals
            .iter()
            .any(|total| total.metric == *metric && total.start == *start);
        if !known && !bill.units.is_zero() {
            wrong.push(format!("{metric} of {start} is not in our books: {bill:?}"));
        }
    }
    if !wrong.is_empty() {
        wrong.push(format!("{totals:#?}"));
        for subscription in &subscriptions {
            wrong.push(format!(
                "{} {} created {} trial {}-{} ended {} period {}",
                subscription["id"],
                subscription["status"],
                subscription["created"],
                subscription["trial_start"],
                subscription["trial_end"],
                subscription["ended_at"],
                subscription["items"]["data"][0]["current_period_start"],
            ));
        }
        wrong.push(format!("{bills:#?}"));
        let sql = format!(
            "SELECT metric, units, floor(extract(epoch FROM at))::bigint AS at, sent_at, late,
                    extract(epoch FROM period_start)::bigint AS of
               FROM usage_reports WHERE organization_id = '{}' ORDER BY created_at",
            party.tenant.organization
        );
        let totals = format!(
            "SELECT metric, extract(epoch FROM period_start)::bigint AS start, total, reported,
                    reported_late, extract(epoch FROM closed_at)::bigint AS closed, billed_by
               FROM usage_totals WHERE organization_id = '{}' ORDER BY 1, 2",
            party.tenant.organization
        );
        for sql in [sql, totals] {
            for row in stage.rows(&sql).await {
                wrong.push(row.to_string());
            }
        }
    }
    wrong
}

async fn totals(stage: &Stage, party: &Party) -> Vec<Total> {
    let sql = format!(
        "SELECT metric, extract(epoch FROM period_start)::bigint AS start,
                extract(epoch FROM period_end)::bigint AS \"end\", total::text AS total
           FROM usage_totals WHERE organization_id = '{}' ORDER BY 1, 2",
        party.tenant.organization
    );
    let total = |row: Value| Total {
        metric: text(&row, "metric"),
        start: row["start"].as_i64().unwrap(),
        end: row["end"].as_i64().unwrap(),
        total: text(&row, "total").parse().unwrap(),
    };
    stage.rows(&sql).await.into_iter().map(total).collect()
}

/// Each event counts once, in the one period that it lies in.
async fn counted(stage: &Stage, party: &Party, totals: &[Total]) -> Vec<String> {
    let sql = format!(
        "SELECT event_id, metric, quantity::text AS quantity,
                extract(epoch FROM period_start)::bigint AS start,
                floor(extract(epoch FROM coalesce(occurred_at, recorded_at)))::bigint AS at,
                EXISTS (
                  SELECT FROM usage_reports r
                   WHERE r.organization_id = e.organization_id AND r.metric = e.metric
                     AND r.period_start = e.period_start AND r.late IS FALSE
                     AND r.created_at >= e.recorded_at
                     AND date_trunc('second', r.created_at)
                       = date_trunc('second', coalesce(e.occurred_at, e.recorded_at))) AS told
           FROM usage_events e WHERE organization_id = '{}'
          ORDER BY coalesce(occurred_at, recorded_at), event_id COLLATE \"C\"",
        party.tenant.organization
    );
    let events = stage.rows(&sql).await;
    let mut wrong = Vec::new();
    if events.len() != party.accepted.len() {
        wrong.push(format!(
            "{} events, and {} accepted",
            events.len(),
            party.accepted.len()
        ));
    }
    for total in totals {
        let of = |event: &&Value| {
            event["metric"] == *total.metric && event["start"].as_i64() == Some(total.start)
        };
        let mut sum = Decimal::ZERO;
        for event in events.iter().filter(of) {
            let quantity: Decimal = text(event, "quantity").parse().unwrap();
            sum = if total.metric == "storage_gb" {
                quantity
            } else {
                sum + quantity
            };
            let at = event["at"].as_i64().unwrap();
            // What Stripe was told just before the end is billed with it.
            let in_its_last_moment = at == total.end && event["told"] == true;
            if !(total.start..total.end).contains(&at) && !in_its_last_moment {
                wrong.push(format!("{event} is counted in {total:?}"));
            }
        }
        if sum != total.total {
            wrong.push(format!("{total:?} has events of {sum}"));
        }
    }
    for pair in totals.windows(2) {
        if pair[0].metric == pair[1].metric && pair[0].end > pair[1].start {
            wrong.push(format!("{:?} overlaps {:?}", pair[0], pair[1]));
        }
    }
    wrong
}

/// Time goes on until all is billed, and what was billed is read.
async fn bills(
    stage: &Stage,
    party: &mut Party,
    totals: &[Total],
) -> BTreeMap<(String, i64), Bill> {
    let of = [("customer", &*party.customer)];
    if let Some(live) = stage
        .world
        .stripe
        .list("/v1/subscriptions", &of)
        .await
        .first()
    {
        let end = live["items"]["data"][0]["current_period_end"].as_i64();
        party.tick(stage, end.unwrap() + 2 * HOUR).await;
    } else {
        party
            .tick(stage, Timestamp::now().as_second() + 2 * HOUR)
            .await;
    }
    let mut prices = BTreeMap::new();
    for price in stage.world.stripe.list("/v1/prices", &[]).await {
        let key = price["lookup_key"].as_str().unwrap_or_default().to_owned();
        prices.insert(text(&price, "id"), key);
    }
    let mut bills = BTreeMap::<(String, i64), Bill>::new();
    for invoice in stage.world.stripe.invoices(&party.customer).await {
        for line in invoice["lines"]["data"].as_array().unwrap() {
            let Some(price) = line["pricing"]["price_details"]["price"].as_str() else {
                continue;
            };
            // One that was made for an amount is no plan's.
            let Some((tier, metric)) = prices.get(price).and_then(|key| key.split_once('_')) else {
                continue;
            };
            // A price that came within a period charges from then on.
            let from = line["period"]["start"].as_i64().unwrap();
            let of = |total: &&Total| {
                total.metric == *metric && (total.start..total.end).contains(&from)
            };
            let total = totals.iter().find(of);
            let start = total.map_or(from, |total| total.start);
            let bill = bills.entry((metric.to_owned(), start)).or_default();
            // In flexible billing, one that goes within a period is charged until then.
            let until = line["period"]["end"].as_i64().unwrap();
            let goes_on = total.is_none_or(|total| until >= total.end);
            if goes_on {
                tier.clone_into(&mut bill.tier);
            }
            let amount = line["amount"].as_i64().unwrap();
            if amount != 0 {
                bill.units += Decimal::from(line["quantity"].as_i64().unwrap());
                bill.amount += if goes_on { amount } else { 0 };
                bill.invoices.push(format!(
                    "{} {} {}-{}",
                    invoice["id"], invoice["status"], start, line["period"]["end"]
                ));
            }
        }
    }
    let charges = format!(
        "SELECT metric, extract(epoch FROM period_start)::bigint AS start, units::text AS units,
                charged_by
           FROM usage_charges WHERE organization_id = '{}'",
        party.tenant.organization
    );
    for row in stage.rows(&charges).await {
        let key = (text(&row, "metric"), row["start"].as_i64().unwrap());
        let units: Decimal = text(&row, "units").parse().unwrap();
        let bill = bills.entry(key).or_default();
        bill.charged += units;
        if row["charged_by"] == "stripe" {
            bill.by_stripe += units;
        }
    }
    bills
}

/// The plan of the subscription that there was at a time; empty: none.
fn tier_of(subscriptions: &[Value], at: i64) -> String {
    let held = subscriptions.iter().find(|subscription| {
        let ended = subscription["ended_at"].as_i64().unwrap_or(i64::MAX);
        subscription["created"].as_i64().unwrap() <= at && at < ended
    });
    held.map_or(String::new(), |held| {
        let items = held["items"]["data"].as_array().unwrap();
        let keys = items
            .iter()
            .map(|item| item["price"]["lookup_key"].as_str().unwrap());
        let fee = keys.into_iter().find(|key| !key.contains('_'));
        fee.unwrap_or_default().to_owned()
    })
}

/// The whole units that are to be billed.
fn over(catalogue: &Catalogue, subscriptions: &[Value], total: &Total, bill: &Bill) -> Decimal {
    let on_trial = subscriptions.iter().any(|subscription| {
        let from = subscription["trial_start"].as_i64().unwrap_or(i64::MAX);
        let to = subscription["trial_end"].as_i64().unwrap_or(i64::MIN);
        let to = to.min(subscription["ended_at"].as_i64().unwrap_or(i64::MAX));
        (from..to).contains(&total.start)
    });
    if on_trial {
        return Decimal::ZERO;
    }
    let tier = if bill.tier.is_empty() {
        tier_of(subscriptions, total.start)
    } else {
        bill.tier.clone()
    };
    let Some(plan) = catalogue.plan(&tier) else {
        return Decimal::ZERO;
    };
    if metered_lookup_key(plan, &total.metric).is_none() {
        return Decimal::ZERO;
    }
    let quota = plan.quotas[&total.metric].quota.unwrap();
    (total.total - quota).floor().max(Decimal::ZERO)
}
