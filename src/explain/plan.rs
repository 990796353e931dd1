//! Why an organization has its plan.

use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::store::{self, Entries, Held, Subscribed};
use super::{Cause, CauseKind, ExplainError, Explanation, at, money};
use crate::catalogue::{Bought, Catalogue};
use crate::projection::{self, PlanSource};

/// Audit entries that an answer shows.
const SHOWN: i64 = 10;
const CHANGES: [&str; 2] = ["plan_changed", "plan_version_changed"];

pub async fn explain(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    then: Option<Timestamp>,
) -> Result<Explanation, ExplainError> {
    let held = store::organization(conn, organization_id).await?;
    let held = held.ok_or(ExplainError::NoOrganization(organization_id))?;
    let entries = Entries {
        actions: Some(&CHANGES),
        until: then,
        ..Entries::of(organization_id, SHOWN)
    };
    let changes = store::entries(conn, &entries).await?;
    let history = changes.iter().map(store::Entry::cause);
    if let Some(then) = then {
        let answer = match changes.first() {
            Some(last) => format!(
                "At {} it had the plan {}, since {}.",
                at(then),
                last.after["planTier"].as_str().unwrap_or("unknown"),
                at(last.created_at)
            ),
            None => first(conn, organization_id, &held, then).await?,
        };
        return Ok(explained(organization_id, answer, history.collect()));
    }
    let subscribed = store::subscriptions(conn, organization_id).await?;
    let counts = counting(catalogue, &subscribed);
    let answer = match counts {
        Some(one) => format!(
            "It has {}, since subscription {} ({}) pays for it.",
            held.plan(),
            one.id,
            one.status
        ),
        None => format!(
            "It has {}, since no running subscription pays for a plan.",
            held.plan()
        ),
    };
    let mut causes: Vec<Cause> = Vec::new();
    for one in &subscribed {
        let is_it = counts.is_some_and(|counts| counts.id == one.id);
        causes.push(cause_of(one, is_it, &held));
    }
    causes.extend(history);
    Ok(explained(organization_id, answer, causes))
}

/// The plan before the first change of it: what that change found.
async fn first(
    conn: &mut PgConnection,
    organization_id: Uuid,
    held: &Held,
    then: Timestamp,
) -> Result<String, sqlx::Error> {
    if held.created_at > then {
        let (then, made) = (at(then), at(held.created_at));
        return Ok(format!(
            "At {then} there was no such organization; it was made at {made}."
        ));
    }
    let next = store::next_change(conn, organization_id, &CHANGES, then).await?;
    let found = next
        .as_ref()
        .and_then(|next| next.before["planTier"].as_str());
    let tier = found.unwrap_or(&held.base_plan_tier);
    let then = at(then);
    Ok(match &next {
        Some(next) => format!(
            "At {then} it had the plan {tier}, as it was made with; the first change came at {}.",
            at(next.created_at)
        ),
        None => format!("At {then} it had the plan {tier}, which has never changed."),
    })
}

fn explained(organization_id: Uuid, answer: String, causes: Vec<Cause>) -> Explanation {
    Explanation {
        subject: "plan".to_owned(),
        organization_id: Some(organization_id),
        answer,
        causes,
    }
}

/// The subscription that the plan comes from, as plans are assigned.
fn counting<'a>(catalogue: &Catalogue, all: &'a [Subscribed]) -> Option<&'a Subscribed> {
    let sources = all.iter().map(|one| PlanSource {
        subscription_id: one.id.clone(),
        status: SubscriptionStatus::from(one.status.as_str()),
        access: one.access(),
        plan_tier: one.plan_tier.clone(),
        plan_version: one.plan_version,
        bought: Bought::default(),
        known_tier: None,
    });
    let sources: Vec<PlanSource> = sources.collect();
    let (_, source) = projection::plan_of(catalogue, &sources)?;
    all.iter().find(|one| one.id == source.subscription_id)
}

fn cause_of(one: &Subscribed, counts: bool, held: &Held) -> Cause {
    let price = match (&one.price_id, one.unit_amount, one.currency.as_deref()) {
        (Some(price), Some(amount), Some(currency)) => {
            format!(" by the price {price} of {}", money(amount, currency))
        }
        (Some(price), ..) => format!(" by the price {price}"),
        _ => String::new(),
    };
    let tier = one.plan_tier.as_deref();
    let why = match (counts, tier) {
        (true, _) => format!("counts: it is {} and pays for the plan{price}", one.status),
        (false, _) if one.access_ended_at.is_some() => format!(
            "does not count: it is {}, and what it grants has ended by [recovery] past_due_access",
            one.status
        ),
        (false, _) if !one.grants_plan() => format!("does not count: it is {}", one.status),
        (false, None) => "does not count: the catalogue knows none of its prices".to_owned(),
        (false, Some(tier)) if tier == held.plan_tier => {
            "does not count: another one of the same plan does".to_owned()
        }
        (false, Some(tier)) => format!(
            "does not count: {tier} is no higher than {}",
            held.plan_tier
        ),
    };
    let sentence = format!("Subscription {} {why}.", one.id);
    let facts = json!({
        "stripeSubscriptionId": one.id, "status": one.status, "planTier": tier,
        "planVersion": one.plan_version, "stripePriceId": one.price_id,
        "unitAmount": one.unit_amount, "currency": one.currency, "lastEventId": one.last_event_id,
        "createdAt": one.created_at, "endedAt": one.ended_at,
        "accessEndedAt": one.access_ended_at, "counts": counts,
    });
    Cause::new(CauseKind::Subscription, sentence, facts)
}
