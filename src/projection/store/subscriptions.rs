//! SQL of subscriptions, their items, and the plans of organizations.

use std::collections::BTreeMap;

use billing_domain::past_due::Access;
use billing_domain::status::SubscriptionStatus;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{document, unzip, version};
use crate::catalogue::{Addons, Bought, Catalogue, Interval, PriceUse, stored_addons};
use crate::projection::invoice::{Payment, PaymentOutcome};
use crate::projection::known_tier::KnownTier;
use crate::projection::plan_assignment::PlanHolding;
use crate::projection::subscription::{Change, StoredSubscription, digest};
use crate::projection::versions::merge::{ObjectKey, Row};
use crate::stripe::objects::{Subscription, SubscriptionItem};

/// All subscriptions of `organizations`.
#[expect(clippy::too_many_lines, reason = "a flat list of columns")]
pub async fn load(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<BTreeMap<ObjectKey, StoredSubscription>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_subscription_id, stripe_customer_id, status, stripe_status,
                  plan_tier, plan_version, plan_interval, plan_seats, plan_addons, currency,
                  current_period_start, current_period_end, usage_period_start, usage_period_end,
                  billing_cycle_anchor, billing_mode, collection_method, collection_paused, trial_start,
                  trial_end, cancel_at, cancel_at_period_end, canceled_at, ended_at, latest_invoice_id,
                  default_payment_method_id, discounted, discount_ids, taxed, pending_update,
                  has_more_items, stripe_schedule_id, cancellation_feedback, cancellation_reason,
                  metadata, known_tier, past_due_since, access_ends_at, access_ended_at,
                  (SELECT coalesce(jsonb_agg(
                            jsonb_build_object('price', i.stripe_price_id, 'quantity', i.quantity)
                            ORDER BY i.stripe_subscription_item_id COLLATE "C"), '[]')
                     FROM billing_subscription_items i
                    WHERE i.organization_id = s.organization_id
                      AND i.stripe_subscription_id = s.stripe_subscription_id) AS "items!",
                  last_event_at, last_event_rank, last_event_id, tied_event_ids
             FROM billing_subscriptions s WHERE organization_id = ANY($1)"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let currency = row.currency.clone();
        let addons = stored_addons(row.plan_addons)?;
        let summary = json!({
            "status": row.status,
            "planTier": row.plan_tier,
            "stripeCustomerId": row.stripe_customer_id,
            "currency": row.currency,
            "currentPeriodStart": row.current_period_start.map(|at| at.to_jiff()),
            "currentPeriodEnd": row.current_period_end.map(|at| at.to_jiff()),
            "billingCycleAnchor": row.billing_cycle_anchor.map(|at| at.to_jiff()),
            "billingMode": row.billing_mode,
            "collectionMethod": row.collection_method,
            "collectionPaused": row.collection_paused,
            "trialStart": row.trial_start.map(|at| at.to_jiff()),
            "trialEnd": row.trial_end.map(|at| at.to_jiff()),
            "cancelAt": row.cancel_at.map(|at| at.to_jiff()),
            "cancelAtPeriodEnd": row.cancel_at_period_end,
            "canceledAt": row.canceled_at.map(|at| at.to_jiff()),
            "endedAt": row.ended_at.map(|at| at.to_jiff()),
            "latestInvoiceId": row.latest_invoice_id,
            "defaultPaymentMethodId": row.default_payment_method_id,
            "discounted": row.discounted,
            "discounts": row.discount_ids,
            "taxed": row.taxed,
            "pendingUpdate": row.pending_update,
            "stripeScheduleId": row.stripe_schedule_id,
            "cancellationFeedback": row.cancellation_feedback,
            "cancellationReason": row.cancellation_reason,
            "metadata": row.metadata.as_object().and_then(digest),
            "items": row.items,
        });
        let subscription = StoredSubscription {
            status: row.status.into(),
            stripe_status: row.stripe_status.into(),
            access: Access {
                past_due_since: row.past_due_since.map(|at| at.to_jiff()),
                ends_at: row.access_ends_at.map(|at| at.to_jiff()),
                ended: row.access_ended_at.is_some(),
            },
            plan_tier: row.plan_tier,
            plan_version: row.plan_version,
            bought: Bought {
                currency: currency.map(|currency| currency.to_ascii_lowercase()),
                interval: Interval::of(row.plan_interval.as_deref(), None),
                seats: row.plan_seats.and_then(|seats| seats.try_into().ok()),
                addons,
            },
            period: (
                row.current_period_start.map(|at| at.to_jiff()),
                row.current_period_end.map(|at| at.to_jiff()),
            ),
            counting_period: (
                row.usage_period_start
                    .or(row.current_period_start)
                    .map(|at| at.to_jiff()),
                row.usage_period_end
                    .or(row.current_period_end)
                    .map(|at| at.to_jiff()),
            ),
            summary,
            pending_update: row.pending_update.is_some(),
            has_more_items: row.has_more_items,
            known_tier: row
                .known_tier
                .and_then(|kept| KnownTier::stored(kept, &row.last_event_id)),
            version: version(
                row.last_event_at,
                row.last_event_rank,
                row.last_event_id,
                row.tied_event_ids,
            ),
        };
        Ok((
            (row.organization_id, row.stripe_subscription_id),
            subscription,
        ))
    });
    stored.collect()
}

/// The newest payment outcome of each subscription of `organizations`.
pub async fn payments(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<BTreeMap<ObjectKey, Payment>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT p.organization_id, p.stripe_subscription_id, p.outcome, p.billing_reason,
                  p.stripe_invoice_id, p.last_event_at, p.last_event_id,
                  EXISTS (SELECT FROM billing_invoices i
                           WHERE i.organization_id = p.organization_id
                             AND i.stripe_invoice_id = p.stripe_invoice_id
                             AND i.status IN ('paid', 'void', 'uncollectible')) AS "settled!"
             FROM billing_subscription_payments p
            WHERE p.organization_id = ANY($1)"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let payments = rows.into_iter().map(|row| {
        let payment = Payment {
            organization_id: row.organization_id,
            stripe_subscription_id: row.stripe_subscription_id.clone(),
            outcome: match row.outcome.as_str() {
                "failed" => PaymentOutcome::Failed,
                _ => PaymentOutcome::Succeeded,
            },
            billing_reason: row.billing_reason,
            stripe_invoice_id: row.stripe_invoice_id,
            last_event_at: row.last_event_at.to_jiff(),
            last_event_id: row.last_event_id,
            settled: row.settled,
        };
        ((row.organization_id, row.stripe_subscription_id), payment)
    });
    Ok(payments.collect())
}

#[derive(Serialize)]
struct SubscriptionRow<'a> {
    #[serde(flatten)]
    row: Row<'a, Subscription>,
    status: &'a SubscriptionStatus,
    plan_tier: Option<&'a str>,
    plan_version: Option<i32>,
    plan_interval: Option<Interval>,
    plan_seats: Option<u32>,
    plan_addons: &'a Addons,
    known_tier: Option<&'a KnownTier>,
}

#[derive(Serialize)]
struct ItemRow<'a> {
    organization_id: Uuid,
    stripe_subscription_id: &'a str,
    #[serde(flatten)]
    item: &'a SubscriptionItem,
    plan_tier: Option<String>,
    metric: Option<String>,
    seats: bool,
    addon: Option<String>,
}

impl<'a> SubscriptionRow<'a> {
    fn of(change: &'a Change) -> Self {
        Self {
            row: change.merged.row(),
            status: &change.status,
            plan_tier: change.plan_tier.as_deref(),
            plan_version: change.plan_version,
            plan_interval: change.bought.interval,
            plan_seats: change.bought.seats,
            plan_addons: &change.bought.addons,
            known_tier: change.known_tier.as_ref(),
        }
    }
}

pub async fn save(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    changes: &[Change],
) -> Result<(), sqlx::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let rows: Vec<SubscriptionRow<'_>> = changes.iter().map(SubscriptionRow::of).collect();
    sqlx::query!(
        "INSERT INTO billing_subscriptions (
           organization_id, stripe_subscription_id, stripe_customer_id, status, stripe_status,
           plan_tier, currency, current_period_start, current_period_end, billing_cycle_anchor,
           billing_mode, collection_method, trial_start, trial_end, cancel_at,
           cancel_at_period_end, canceled_at, ended_at, latest_invoice_id,
           default_payment_method_id, discounted, taxed, stripe_test_clock_id, pending_update,
           has_more_items, metadata, livemode, stripe_created_at, last_event_at,
           last_event_rank, last_event_id, tied_event_ids, known_tier, plan_version,
           plan_interval, plan_seats, plan_addons, stripe_schedule_id, cancellation_comment,
           cancellation_feedback, cancellation_reason, discount_ids, usage_period_start,
           usage_period_end, collection_paused)
         SELECT
           organization_id, stripe_subscription_id, stripe_customer_id, status, stripe_status,
           plan_tier, currency, current_period_start, current_period_end, billing_cycle_anchor,
           billing_mode, collection_method, trial_start, trial_end, cancel_at,
           cancel_at_period_end, canceled_at, ended_at, latest_invoice_id,
           default_payment_method_id, discounted, taxed, stripe_test_clock_id, pending_update,
           has_more_items, metadata, livemode, stripe_created_at, last_event_at,
           last_event_rank, last_event_id, tied_event_ids, known_tier, plan_version,
           plan_interval, plan_seats, plan_addons, stripe_schedule_id, cancellation_comment,
           cancellation_feedback, cancellation_reason, discount_ids, usage_period_start,
           usage_period_end, collection_paused
           FROM json_populate_recordset(NULL::billing_subscriptions, $1::text::json)
         ON CONFLICT (organization_id, stripe_subscription_id) DO UPDATE SET
           stripe_customer_id = excluded.stripe_customer_id, status = excluded.status,
           stripe_status = excluded.stripe_status, plan_tier = excluded.plan_tier, currency =
           excluded.currency, current_period_start = excluded.current_period_start,
           current_period_end = excluded.current_period_end, billing_cycle_anchor =
           excluded.billing_cycle_anchor, billing_mode = excluded.billing_mode,
           collection_method = excluded.collection_method, trial_start = excluded.trial_start,
           trial_end = excluded.trial_end, cancel_at = excluded.cancel_at, cancel_at_period_end
           = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at, ended_at =
           excluded.ended_at, latest_invoice_id = excluded.latest_invoice_id,
           default_payment_method_id = excluded.default_payment_method_id, discounted = excluded.discounted,
           taxed = excluded.taxed, stripe_test_clock_id = excluded.stripe_test_clock_id,
           pending_update = excluded.pending_update, has_more_items = excluded.has_more_items,
           metadata = excluded.metadata, livemode = excluded.livemode, stripe_created_at =
           excluded.stripe_created_at, last_event_at = excluded.last_event_at, last_event_rank =
           excluded.last_event_rank, last_event_id = excluded.last_event_id, tied_event_ids =
           excluded.tied_event_ids, known_tier = excluded.known_tier,
           plan_version = excluded.plan_version, plan_interval = excluded.plan_interval,
           plan_seats = excluded.plan_seats, plan_addons = excluded.plan_addons,
           stripe_schedule_id = excluded.stripe_schedule_id,
           cancellation_comment = excluded.cancellation_comment,
           cancellation_feedback = excluded.cancellation_feedback,
           cancellation_reason = excluded.cancellation_reason,
           discount_ids = excluded.discount_ids,
           usage_period_start = excluded.usage_period_start,
           usage_period_end = excluded.usage_period_end,
           collection_paused = excluded.collection_paused, updated_at = excluded.updated_at",
        document(&rows)?
    )
    .execute(&mut *conn)
    .await?;
    replace_items(conn, catalogue, changes).await
}

async fn replace_items(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    changes: &[Change],
) -> Result<(), sqlx::Error> {
    let (organizations, ids): (Vec<Uuid>, Vec<&str>) = changes
        .iter()
        .map(|change| {
            (
                change.merged.organization_id,
                change.merged.snapshot.id.as_str(),
            )
        })
        .unzip();
    sqlx::query!(
        "DELETE FROM billing_subscription_items i
          USING unnest($1::uuid[], $2::text[]) AS gone(organization, id)
          WHERE i.organization_id = gone.organization AND i.stripe_subscription_id = gone.id",
        &organizations,
        &ids as &[&str]
    )
    .execute(&mut *conn)
    .await?;
    let items: Vec<ItemRow<'_>> = changes
        .iter()
        .flat_map(|change| {
            change.merged.snapshot.items.iter().map(|item| {
                let used = catalogue.item_use(item);
                let tier = used.as_ref().and_then(PriceUse::plan_tier);
                let plan_tier = tier.map(str::to_owned);
                ItemRow {
                    organization_id: change.merged.organization_id,
                    stripe_subscription_id: &change.merged.snapshot.id,
                    item,
                    plan_tier,
                    seats: used.as_ref().is_some_and(|used| used.seats),
                    addon: used.as_ref().and_then(|used| used.addon.clone()),
                    metric: used.and_then(|used| used.metric),
                }
            })
        })
        .collect();
    if items.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO billing_subscription_items (
           organization_id, stripe_subscription_id, stripe_subscription_item_id,
           stripe_price_id, stripe_product_id, lookup_key, usage_type, unit_amount,
           unit_amount_decimal, currency, recurring_interval, recurring_interval_count,
           quantity, current_period_start, current_period_end, plan_tier, metric, seats,
           addon, discount_ids, quantity_divide_by, quantity_round, tax_behavior,
           included_tax_percent)
         SELECT
           organization_id, stripe_subscription_id, stripe_subscription_item_id,
           stripe_price_id, stripe_product_id, lookup_key, usage_type, unit_amount,
           unit_amount_decimal, currency, recurring_interval, recurring_interval_count,
           quantity, current_period_start, current_period_end, plan_tier, metric, seats,
           addon, discount_ids, quantity_divide_by, quantity_round, tax_behavior,
           included_tax_percent
           FROM json_populate_recordset(NULL::billing_subscription_items, $1::text::json)",
        document(&items)?
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores the known tiers of subscriptions.
pub async fn keep_tiers(
    conn: &mut PgConnection,
    tiers: &BTreeMap<ObjectKey, KnownTier>,
) -> Result<(), sqlx::Error> {
    if tiers.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = tiers
        .iter()
        .map(|((organization, id), tier)| {
            json!({"organization_id": organization, "stripe_subscription_id": id, "known_tier": tier})
        })
        .collect();
    sqlx::query!(
        "UPDATE billing_subscriptions s SET known_tier = kept.known_tier
           FROM json_to_recordset($1::text::json)
             AS kept(organization_id uuid, stripe_subscription_id text, known_tier jsonb)
          WHERE s.organization_id = kept.organization_id
            AND s.stripe_subscription_id = kept.stripe_subscription_id",
        document(&rows)?
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks subscriptions as stale, so that they are fetched from Stripe.
pub async fn mark_stale(conn: &mut PgConnection, keys: &[ObjectKey]) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let (organizations, ids) = unzip(keys);
    sqlx::query!(
        "UPDATE billing_subscriptions s SET ask_again_since = now()
           FROM unnest($1::uuid[], $2::text[]) AS doubtful(organization, id)
          WHERE s.organization_id = doubtful.organization AND s.stripe_subscription_id = doubtful.id",
        &organizations,
        &ids as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sets the statuses that payments changed.
pub async fn set_status(
    conn: &mut PgConnection,
    statuses: &[(ObjectKey, SubscriptionStatus)],
) -> Result<(), sqlx::Error> {
    if statuses.is_empty() {
        return Ok(());
    }
    let keys: Vec<ObjectKey> = statuses.iter().map(|(key, _)| key.clone()).collect();
    let (organizations, ids) = unzip(&keys);
    let statuses: Vec<&str> = statuses.iter().map(|(_, status)| status.as_str()).collect();
    sqlx::query!(
        "UPDATE billing_subscriptions s SET status = new.status, updated_at = now()
           FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new(organization, id, status)
          WHERE s.organization_id = new.organization AND s.stripe_subscription_id = new.id",
        &organizations,
        &ids as &[&str],
        &statuses as &[&str]
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The plans that `organizations` hold.
pub async fn plan_holdings(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<Vec<PlanHolding>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, plan_tier, plan_version, plan_currency, plan_interval, plan_seats,
                plan_addons, base_plan_tier
           FROM organizations WHERE id = ANY($1) ORDER BY id",
        organizations
    )
    .fetch_all(conn)
    .await?;
    let holdings = rows.into_iter().map(|row| {
        Ok(PlanHolding {
            organization_id: row.id,
            plan_tier: row.plan_tier,
            plan_version: row.plan_version,
            bought: Bought {
                currency: row.plan_currency,
                interval: Interval::of(row.plan_interval.as_deref(), None),
                seats: row.plan_seats.and_then(|seats| seats.try_into().ok()),
                addons: stored_addons(Some(row.plan_addons))?,
            },
            base_plan_tier: row.base_plan_tier,
        })
    });
    holdings.collect()
}

/// Marks a subscription that Stripe does not have as canceled. A later state from
/// Stripe counts again, since the row's order is not terminal.
pub async fn end(
    conn: &mut PgConnection,
    organization_id: Uuid,
    subscription_id: &str,
    by: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_subscriptions
            SET status = 'canceled', stripe_status = 'canceled',
                ended_at = coalesce(ended_at, now()), canceled_at = coalesce(canceled_at, now()),
                ask_again_since = NULL, last_event_at = greatest(last_event_at, now()),
                last_event_rank = 3, last_event_id = 'request:' || $3::text,
                known_tier = CASE WHEN known_tier ->> 'as_of' = last_event_id
                  THEN jsonb_set(known_tier, '{as_of}', to_jsonb('request:' || $3::text)) END,
                tied_event_ids = ARRAY['request:' || $3::text], updated_at = now()
          WHERE organization_id = $1 AND stripe_subscription_id = $2",
        organization_id,
        subscription_id,
        by.to_string()
    )
    .execute(conn)
    .await?;
    Ok(())
}
