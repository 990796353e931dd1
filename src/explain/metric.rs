//! Why a use is let in or refused: the quota of a metric, what is used of it, and grace.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::store::{self, Entries, Held, QuotaHeld, Total};
use super::{Cause, CauseKind, ExplainError, Explanation, at, denial, money};
use crate::metering::denials;
use crate::metering::ledger::Rules;
use crate::metering::usage::{self, MetricUsage};

/// Audit entries, and uses, that an answer shows.
const SHOWN: i64 = 5;

pub async fn explain(
    conn: &mut PgConnection,
    rules: &Rules,
    organization_id: Uuid,
    metric: &str,
    then: Timestamp,
) -> Result<Explanation, ExplainError> {
    let known = rules.catalogue.metrics();
    if !known.contains_key(metric) {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        return Err(ExplainError::NoMetric {
            metric: metric.to_owned(),
            known: names.join(", "),
        });
    }
    let held = store::organization(conn, organization_id).await?;
    let held = held.ok_or(ExplainError::NoOrganization(organization_id))?;
    let quota = store::quota(conn, organization_id, metric).await?;
    let total = store::total(conn, organization_id, metric, then).await?;
    let now = usage::read_all(conn, rules, organization_id).await?;
    let now = now.into_iter().find(|one| one.metric == metric);
    let now = now.filter(|one| one.period_start <= then && then < one.period_end);

    let mut causes = Vec::new();
    let answer = match (&quota, &total) {
        (None, _) => format!(
            "Every use of {metric} is refused with 503: the organization has no quota for it. \
             `plans sync` or a restart of `serve` assigns what the catalogue says."
        ),
        (Some(quota), total) => answer(metric, &Standing::of(quota, total.as_ref(), now.as_ref())),
    };
    if let Some(quota) = &quota {
        causes.extend(rules_of(metric, &held, quota));
    }
    if let Some(total) = &total {
        causes.extend(uses(conn, organization_id, metric, total, then).await?);
    }
    if let Some(now) = &now
        && let (Some(amount), Some(currency)) = (now.overage_amount, &now.currency)
    {
        let sentence = format!(
            "{} over the quota come to {} so far.",
            now.overage.0.normalize(),
            money(amount, currency)
        );
        let facts =
            json!({"overageAmount": amount, "currency": currency, "rate": now.overage_rate});
        causes.push(Cause::new(CauseKind::Usage, sentence, facts));
    }
    let refused = denials::of_metric(conn, (organization_id, metric), then, SHOWN).await?;
    causes.extend(refused.iter().map(denial::cause));
    let entries = Entries {
        resource_id: Some(metric),
        until: Some(then),
        ..Entries::of(organization_id, SHOWN)
    };
    for entry in store::entries(conn, &entries).await? {
        causes.push(entry.cause());
    }
    Ok(Explanation {
        subject: metric.to_owned(),
        organization_id: Some(organization_id),
        answer,
        causes,
    })
}

/// What the period's uses add up to, the largest of them, and grace.
async fn uses(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
    total: &Total,
    then: Timestamp,
) -> Result<Vec<Cause>, sqlx::Error> {
    let mut causes = vec![used(metric, total)];
    let start = total.period_start;
    for one in store::largest(conn, organization_id, metric, start, SHOWN).await? {
        let time = one.occurred_at.unwrap_or(one.recorded_at);
        let sentence = format!(
            "{} of it is the use {} at {}.",
            one.quantity,
            one.id,
            at(time)
        );
        let facts = json!({
            "id": one.id, "quantity": one.quantity.to_string(), "occurredAt": one.occurred_at,
            "recordedAt": one.recorded_at,
        });
        causes.push(Cause::new(CauseKind::Usage, sentence, facts));
    }
    let grace = store::grace(conn, organization_id, metric, start).await?;
    causes.extend(grace.map(|grace| grace.cause(then)));
    Ok(causes)
}

/// Where usage stands against the quota: in the current period as the API says it, which
/// knows of trials; in one that is over, by its total.
struct Standing {
    used: Decimal,
    /// None: unlimited.
    limit: Option<Decimal>,
    over_limit: String,
}

impl Standing {
    fn of(quota: &QuotaHeld, total: Option<&Total>, now: Option<&MetricUsage>) -> Self {
        if let Some(now) = now {
            return Self {
                used: now.usage.0.normalize(),
                limit: now.quota.as_ref().map(|quota| quota.0.normalize()),
                over_limit: now.over_limit.as_str().to_owned(),
            };
        }
        let adjustment = total.map_or(Decimal::ZERO, |total| total.quota_adjustment);
        let used = total.map_or(Decimal::ZERO, |total| total.total + total.reserved);
        Self {
            used: used.normalize(),
            limit: quota.quota.map(|limit| (limit + adjustment).normalize()),
            over_limit: quota.over_limit.clone(),
        }
    }
}

/// What becomes of the next use.
fn answer(metric: &str, standing: &Standing) -> String {
    let used = standing.used;
    let Some(limit) = standing.limit else {
        return format!("{used} of {metric} are used, and any more is let in: it is unlimited.");
    };
    if used < limit {
        let left = (limit - used).normalize();
        return format!("{used} of {limit} {metric} are used, so that {left} are left.");
    }
    let over = format!("{used} of {limit} {metric} are used, so that nothing is left");
    match standing.over_limit.as_str() {
        "overage" => format!("{over}; more is let in, and billed."),
        "grace" => format!(
            "{over}; more is let in during the grace period, and refused with \
             QUOTA_EXCEEDED_GRACE_EXPIRED after it."
        ),
        _ => format!("{over}; more is refused with QUOTA_EXCEEDED."),
    }
}

/// What the plan says, and what an operator set instead.
fn rules_of(metric: &str, held: &Held, quota: &QuotaHeld) -> Vec<Cause> {
    let limit = |limit: Option<Decimal>| match limit {
        Some(limit) => limit.normalize().to_string(),
        None => "unlimited".to_owned(),
    };
    let plan = held.plan();
    let rate = match &quota.overage_rate {
        Some(rate) => format!(" at {} {} a unit", rate.normalize(), quota.currency()),
        None => String::new(),
    };
    let sentence = format!(
        "By {plan}, {} {metric} are included, and over that it is {}{rate}.",
        limit(quota.plan_quota),
        quota.plan_over_limit
    );
    let facts = json!({
        "planTier": held.plan_tier, "planVersion": held.plan_version,
        "quota": quota.plan_quota.map(|limit| limit.normalize().to_string()),
        "overLimit": quota.plan_over_limit,
        "overageRate": quota.overage_rate.map(|rate| rate.normalize().to_string()),
    });
    let mut causes = vec![Cause::new(CauseKind::Rule, sentence, facts)];
    let added = match (quota.added_unlimited, quota.added.is_zero()) {
        (true, _) => Some("An add-on lifts the limit.".to_owned()),
        (false, true) => None,
        (false, false) => Some(format!("Add-ons add {} to it.", quota.added.normalize())),
    };
    if let Some(sentence) = added {
        let facts = json!({
            "added": quota.added.normalize().to_string(), "unlimited": quota.added_unlimited,
        });
        causes.push(Cause::new(CauseKind::Rule, sentence, facts));
    }
    if let Some(since) = quota.overridden_at {
        let sentence = format!(
            "An operator's override replaces it since {}: {}, and over it is {}.",
            at(since),
            limit(quota.quota),
            quota.over_limit
        );
        let facts = json!({
            "quota": quota.quota.map(|limit| limit.normalize().to_string()),
            "overLimit": quota.over_limit, "since": since,
        });
        causes.insert(0, Cause::new(CauseKind::Override, sentence, facts));
    }
    causes
}

fn used(metric: &str, total: &Total) -> Cause {
    let reserved = match total.reserved.is_zero() {
        true => String::new(),
        false => format!(
            ", and {} are reserved for calls under way",
            total.reserved.normalize()
        ),
    };
    let adjusted = match total.quota_adjustment.is_zero() {
        true => String::new(),
        false => format!(
            "; changes of plan within it moved the quota by {}",
            total.quota_adjustment.normalize()
        ),
    };
    let told = match total.told {
        Some(told) => format!("; Stripe was told of {}", told.normalize()),
        None => String::new(),
    };
    let sentence = format!(
        "In the period from {} to {}, {} events came to {} {metric}{reserved}{adjusted}{told}.",
        at(total.period_start),
        at(total.period_end),
        total.events,
        total.total.normalize()
    );
    let facts = json!({
        "periodStart": total.period_start, "periodEnd": total.period_end, "events": total.events,
        "total": total.total.normalize().to_string(),
        "reserved": total.reserved.normalize().to_string(),
        "quotaAdjustment": total.quota_adjustment.normalize().to_string(),
        "closedAt": total.closed_at, "billedBy": total.billed_by,
        "toldStripe": total.told.map(|told| told.normalize().to_string()),
    });
    Cause::new(CauseKind::Usage, sentence, facts)
}
