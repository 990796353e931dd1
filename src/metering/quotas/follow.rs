//! Subscriptions of plans that say `existing = "follow"` get new terms at once, where
//! Stripe charges the same. Where it does not, `plans migrate` moves them.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use billing_domain::grace_period::EndReason;

use super::store::{self, HeldPlan};
use crate::audit::{self, Actor, NewEntry};
use crate::catalogue::{Catalogue, Existing};
use crate::db::WorkerTx;
use crate::metering::grace;

/// The audit action of other terms of the same plan.
pub const VERSION_CHANGED: &str = "plan_version_changed";

/// How many organizations one transaction moves.
const CHUNK: i64 = 500;

/// Moves the organizations that follow. Returns how many another transaction held.
pub async fn follow(pool: &PgPool, catalogue: &Catalogue) -> Result<usize, sqlx::Error> {
    let following = catalogue.plans().iter();
    let following = following.filter(|plan| plan.existing == Existing::Follow);
    let mut skipped = 0;
    for plan in following {
        let Some(version) = catalogue.current_version(&plan.tier) else {
            continue;
        };
        loop {
            let (moved, held) = move_some(pool, catalogue, &plan.tier, version).await?;
            if moved == 0 {
                skipped += held;
                break;
            }
        }
    }
    Ok(skipped)
}

/// Moves a chunk. Returns how many were moved, and how many are held.
async fn move_some(
    pool: &PgPool,
    catalogue: &Catalogue,
    tier: &str,
    version: i32,
) -> Result<(usize, usize), sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let behind = store::behind(tx.conn(), tier, version, None, CHUNK).await?;
    let all: Vec<Uuid> = behind.iter().map(|one| one.organization_id).collect();
    let (chains, locked) = audit::lock_free_chains(tx.conn(), &all).await?;
    let locked: Vec<Uuid> = locked.into_iter().collect();
    let locked = store::lock_free(tx.conn(), &locked).await?;
    // Read again under the lock: another plan may have been assigned meanwhile.
    let free = store::behind(tx.conn(), tier, version, Some(&locked), CHUNK).await?;
    let moving: Vec<Uuid> = free.iter().map(|one| one.organization_id).collect();
    if moving.is_empty() {
        return Ok((0, all.len()));
    }
    store::set_version(tx.conn(), &moving, tier, version).await?;
    let mut alike = BTreeMap::<HeldPlan, Vec<(Uuid, Option<u32>)>>::new();
    for one in &free {
        let held = HeldPlan::of(tier, Some(version), &one.bought);
        let holder = (one.organization_id, one.bought.seats);
        alike.entry(held).or_default().push(holder);
    }
    for (held, holders) in alike {
        store::set_plan(tx.conn(), catalogue, &held, &holders).await?;
    }
    let ended = grace::end_covered(tx.conn(), &moving, EndReason::QuotaRaised).await?;
    let mut entries: Vec<NewEntry> = free
        .iter()
        .map(|one| NewEntry {
            organization_id: one.organization_id,
            action: VERSION_CHANGED,
            actor: Actor::System,
            resource_type: "organization",
            resource_id: one.organization_id.to_string(),
            before: Some(json!({"planTier": tier, "planVersion": one.version})),
            after: Some(json!({"planTier": tier, "planVersion": version})),
            metadata: json!({}),
            client: None,
            reason: None,
        })
        .collect();
    entries.extend(ended.iter().map(|ended| ended.entry(Actor::System)));
    audit::record(&mut tx, &chains, &entries).await?;
    tx.commit().await?;
    grace::count(&ended);
    Ok((moving.len(), all.len() - moving.len()))
}
