//! SQL for the state of subscriptions.

pub mod findings;
pub mod past_due;
pub mod trials;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use billing_domain::past_due::Access;
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::migrate::{Candidate, Migration};
use super::pending::Schedule;
use super::state::{Item, SubscriptionRow, SubscriptionState};
use crate::catalogue::{Bought, Catalogue, Interval, PriceUse, stored_addons};
use crate::db::{RequestTx, TenantTx};
use crate::stripe::objects::SchedulePhase;

/// A row of the states query: an organization, with one item of one of its
/// subscriptions.
struct StateRow {
    organization_id: Uuid,
    name: String,
    plan_tier: String,
    plan_version: Option<i32>,
    plan_currency: Option<String>,
    plan_interval: Option<String>,
    plan_seats: Option<i32>,
    plan_addons: Value,
    customer_id: Option<String>,
    customer_currency: Option<String>,
    tax_located: Option<bool>,
    customer_discounted: bool,
    had_trial: bool,
    has_payment_method: bool,
    id: Option<String>,
    held_customer_id: Option<String>,
    status: Option<String>,
    past_due_since: Option<jiff_sqlx::Timestamp>,
    access_ends_at: Option<jiff_sqlx::Timestamp>,
    access_ended: Option<bool>,
    held_plan_tier: Option<String>,
    held_plan_version: Option<i32>,
    currency: Option<String>,
    period_start: Option<jiff_sqlx::Timestamp>,
    period_end: Option<jiff_sqlx::Timestamp>,
    anchor: Option<jiff_sqlx::Timestamp>,
    billing_mode: Option<String>,
    trial_end: Option<jiff_sqlx::Timestamp>,
    cancel_at: Option<jiff_sqlx::Timestamp>,
    cancel_at_period_end: Option<bool>,
    canceled_at: Option<jiff_sqlx::Timestamp>,
    latest_invoice_id: Option<String>,
    is_payable: Option<bool>,
    discounted: Option<bool>,
    discount_ids: Option<Vec<String>>,
    taxed: Option<bool>,
    test_clock_id: Option<String>,
    created: Option<jiff_sqlx::Timestamp>,
    change_id: Option<String>,
    schedule_id: Option<String>,
    schedule_phases: Option<Value>,
    schedule_phase_start: Option<jiff_sqlx::Timestamp>,
    schedule_change_id: Option<String>,
    cancellation_comment: Option<String>,
    cancellation_feedback: Option<String>,
    pending_update: Option<Value>,
    item_id: Option<String>,
    price_id: Option<String>,
    lookup_key: Option<String>,
    usage_type: Option<String>,
    unit_amount: Option<i64>,
    interval: Option<String>,
    interval_count: Option<i32>,
    quantity: Option<i64>,
    item_discount_ids: Option<Vec<String>>,
    item_plan_tier: Option<String>,
    item_metric: Option<String>,
    item_seats: Option<bool>,
    item_addon: Option<String>,
}

impl StateRow {
    fn organization(&self) -> Result<SubscriptionState, sqlx::Error> {
        Ok(SubscriptionState {
            name: self.name.clone(),
            plan_tier: self.plan_tier.clone(),
            plan_version: self.plan_version,
            bought: Bought {
                currency: self.plan_currency.clone(),
                interval: Interval::of(self.plan_interval.as_deref(), None),
                seats: self.plan_seats.and_then(|seats| seats.try_into().ok()),
                addons: stored_addons(Some(self.plan_addons.clone()))?,
            },
            customer_id: self.customer_id.clone(),
            customer_currency: self.customer_currency.clone(),
            tax_located: self.tax_located,
            customer_discounted: self.customer_discounted,
            had_trial: self.had_trial,
            has_payment_method: self.has_payment_method,
            subscription: None,
            others: Vec::new(),
        })
    }

    fn item(&self) -> Option<Item> {
        Some(Item {
            id: self.item_id.clone()?,
            price_id: self.price_id.clone(),
            lookup_key: self.lookup_key.clone(),
            metered: self.usage_type.as_deref() == Some("metered"),
            unit_amount: self.unit_amount,
            interval: self.interval.clone(),
            interval_count: self.interval_count,
            quantity: self.quantity,
            discount_ids: self.item_discount_ids.clone().unwrap_or_default(),
            used: match &self.item_addon {
                Some(id) => Some(PriceUse::addon(id)),
                // An older replica writes an add-on's empty plan.
                None => (self.item_plan_tier.clone().filter(|tier| !tier.is_empty())).map(|tier| {
                    PriceUse {
                        tier,
                        metric: self.item_metric.clone(),
                        seats: self.item_seats.unwrap_or(false),
                        addon: None,
                    }
                }),
            },
        })
    }

    /// The subscription, without items.
    fn subscription(self) -> Result<Option<SubscriptionRow>, sqlx::Error> {
        let (Some(id), Some(customer_id), Some(status)) =
            (self.id, self.held_customer_id, self.status)
        else {
            return Ok(None);
        };
        let phases = self.schedule_phases.map(phases_of).transpose()?;
        Ok(Some(SubscriptionRow {
            id,
            customer_id,
            status: status.into(),
            access: Access {
                past_due_since: self.past_due_since.map(|at| at.to_jiff()),
                ends_at: self.access_ends_at.map(|at| at.to_jiff()),
                ended: self.access_ended.unwrap_or(false),
            },
            plan_tier: self.held_plan_tier,
            plan_version: self.held_plan_version,
            // Stripe's older versions do not say it: a customer has one.
            currency: self.currency.or(self.customer_currency),
            period_start: self.period_start.map(|at| at.to_jiff()),
            period_end: self.period_end.map(|at| at.to_jiff()),
            anchor: self.anchor.map(|at| at.to_jiff()),
            billing_mode: self.billing_mode,
            trial_end: self.trial_end.map(|at| at.to_jiff()),
            cancel_at: self.cancel_at.map(|at| at.to_jiff()),
            cancel_at_period_end: self.cancel_at_period_end.unwrap_or(false),
            canceled_at: self.canceled_at.map(|at| at.to_jiff()),
            latest_invoice_id: self.latest_invoice_id,
            is_payable: self.is_payable.unwrap_or(false),
            discounted: self.discounted.unwrap_or(false),
            discount_ids: self.discount_ids.unwrap_or_default(),
            taxed: self.taxed.unwrap_or(false),
            test_clock_id: self.test_clock_id,
            created: self.created.map(|at| at.to_jiff()),
            change_id: self.change_id,
            schedule_id: self.schedule_id,
            schedule: phases.map(|phases| Schedule {
                current_phase_start: self.schedule_phase_start.map(|at| at.to_jiff()),
                phases,
                change_id: self.schedule_change_id,
            }),
            pending: None,
            awaited: None,
            cancellation_comment: self.cancellation_comment,
            cancellation_feedback: self.cancellation_feedback,
            items: Vec::new(),
        }))
    }
}

/// The phases of a mirrored schedule. Those that cannot be read are an error: without them
/// a change that is pending would seem not to be.
fn phases_of(stored: Value) -> Result<Vec<SchedulePhase>, sqlx::Error> {
    serde_json::from_value(stored).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// The states of the organizations, in one round trip. Organizations that do
/// not exist are left out.
#[expect(clippy::too_many_lines, reason = "one query")]
pub async fn states(
    conn: &mut PgConnection,
    organization_ids: &[Uuid],
    catalogue: &Catalogue,
) -> Result<HashMap<Uuid, SubscriptionState>, sqlx::Error> {
    let rows = sqlx::query_as!(
        StateRow,
        r#"SELECT o.id AS organization_id, o.name, o.plan_tier, o.plan_version, o.plan_currency,
                  o.plan_interval, o.plan_seats, o.plan_addons, c.stripe_customer_id AS "customer_id?",
                  -- What a lost event did not tell, a subscription of the customer's does.
                  lower(coalesce(c.currency,
                    (SELECT b.currency FROM billing_subscriptions b
                      WHERE b.organization_id = o.id AND b.currency IS NOT NULL
                        AND b.stripe_customer_id = c.stripe_customer_id
                        AND b.status <> 'incomplete_expired'
                      ORDER BY b.stripe_created_at, b.stripe_subscription_id LIMIT 1)))
                    AS customer_currency,
                  c.tax_located AS "tax_located?",
                  EXISTS (SELECT FROM billing_customers d
                           WHERE d.organization_id = o.id AND d.deleted_at IS NULL
                             AND coalesce(cardinality(d.discount_ids) > 0, EXISTS (
                               SELECT FROM billing_discounts b
                                WHERE b.organization_id = o.id AND b.deleted_at IS NULL
                                  AND b.stripe_customer_id = d.stripe_customer_id
                                  AND b.stripe_subscription_id IS NULL
                                  AND b.stripe_subscription_item_id IS NULL)))
                    AS "customer_discounted!",
                  EXISTS (SELECT FROM billing_subscriptions t
                           WHERE t.organization_id = o.id AND t.trial_start IS NOT NULL)
                    AS "had_trial!",
                  (c.default_payment_method_id IS NOT NULL
                   OR EXISTS (SELECT FROM billing_payment_methods m
                               WHERE m.organization_id = o.id AND m.status = 'attached'))
                    AS "has_payment_method!",
                  (s.default_payment_method_id IS NOT NULL
                   OR s.collection_method = 'send_invoice') AS "is_payable?",
                  s.stripe_subscription_id AS "id?", s.stripe_customer_id AS "held_customer_id?",
                  s.status AS "status?", s.past_due_since AS "past_due_since?",
                  s.access_ends_at AS "access_ends_at?",
                  s.access_ended_at IS NOT NULL AS "access_ended?", s.plan_tier AS "held_plan_tier?",
                  s.plan_version AS "held_plan_version?", s.currency AS "currency?",
                  s.current_period_start AS "period_start?", s.current_period_end AS "period_end?",
                  s.billing_cycle_anchor AS "anchor?", s.billing_mode AS "billing_mode?",
                  s.trial_end AS "trial_end?", s.cancel_at AS "cancel_at?",
                  s.cancel_at_period_end AS "cancel_at_period_end?",
                  s.canceled_at AS "canceled_at?", s.latest_invoice_id AS "latest_invoice_id?",
                  s.discounted AS "discounted?", s.discount_ids AS "discount_ids?",
                  s.taxed AS "taxed?",
                  s.stripe_test_clock_id AS "test_clock_id?", s.stripe_created_at AS "created?",
                  s.metadata ->> 'billing_change_id' AS change_id,
                  s.stripe_schedule_id AS "schedule_id?", h.phases AS "schedule_phases?",
                  h.current_phase_start AS "schedule_phase_start?",
                  h.metadata ->> 'billing_change_id' AS schedule_change_id,
                  s.cancellation_comment AS "cancellation_comment?",
                  s.cancellation_feedback AS "cancellation_feedback?",
                  s.pending_update AS "pending_update?",
                  i.stripe_subscription_item_id AS "item_id?", i.stripe_price_id AS "price_id?",
                  i.lookup_key AS "lookup_key?", i.usage_type AS "usage_type?",
                  i.unit_amount AS "unit_amount?", i.recurring_interval AS "interval?",
                  i.recurring_interval_count AS "interval_count?", i.quantity AS "quantity?",
                  i.discount_ids AS "item_discount_ids?", i.plan_tier AS "item_plan_tier?",
                  i.metric AS "item_metric?", i.seats AS "item_seats?", i.addon AS "item_addon?"
             FROM organizations o
             LEFT JOIN LATERAL (
               SELECT one.stripe_customer_id, one.currency, one.tax_located,
                      one.default_payment_method_id
                 FROM billing_customers one
                WHERE one.organization_id = o.id AND one.deleted_at IS NULL
                  AND one.stripe_customer_id NOT LIKE 'acct\_%'
                ORDER BY one.linked_at DESC NULLS LAST, one.created_at, one.stripe_customer_id
                LIMIT 1) AS c ON true
             LEFT JOIN billing_subscriptions s
               ON s.organization_id = o.id AND s.status NOT IN ('canceled', 'incomplete_expired')
             LEFT JOIN billing_subscription_schedules h
               ON h.organization_id = o.id AND h.stripe_schedule_id = s.stripe_schedule_id
              AND h.status IN ('active', 'not_started')
             LEFT JOIN billing_subscription_items i
               ON i.organization_id = o.id AND i.stripe_subscription_id = s.stripe_subscription_id
            WHERE o.id = ANY($1)
            ORDER BY i.stripe_subscription_item_id"#,
        organization_ids
    )
    .fetch_all(conn)
    .await?;
    assembled(rows, catalogue)
}

/// The states that the rows are parts of.
fn assembled(
    rows: Vec<StateRow>,
    catalogue: &Catalogue,
) -> Result<HashMap<Uuid, SubscriptionState>, sqlx::Error> {
    let mut states = HashMap::<Uuid, (SubscriptionState, BTreeMap<String, SubscriptionRow>)>::new();
    let mut updates = HashMap::<String, Value>::new();
    for mut row in rows {
        if let (Some(id), Some(update)) = (&row.id, row.pending_update.take()) {
            updates.insert(id.clone(), update);
        }
        let (_, subscriptions) = match states.entry(row.organization_id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert((row.organization()?, BTreeMap::new())),
        };
        let item = row.item();
        if let Some(subscription) = row.subscription()? {
            let subscription = subscriptions
                .entry(subscription.id.clone())
                .or_insert(subscription);
            subscription.items.extend(item);
        }
    }
    let states = states.into_iter().map(|(id, (state, mut rows))| {
        for row in rows.values_mut() {
            row.pending = row.find_pending_change(catalogue);
            row.awaited = row.find_awaited_change(updates.get(&row.id), catalogue);
        }
        let (subscription, others) =
            SubscriptionState::choose(rows.into_values().collect(), catalogue);
        let state = SubscriptionState {
            subscription,
            others,
            ..state
        };
        (id, state)
    });
    Ok(states.collect())
}

/// Running subscriptions of a plan that do not have the migration's version.
pub async fn on_other_versions(
    conn: &mut PgConnection,
    migration: &Migration,
) -> Result<Vec<Candidate>, sqlx::Error> {
    sqlx::query_as!(
        Candidate,
        "SELECT s.organization_id, o.name, s.stripe_subscription_id AS subscription_id,
                s.plan_version AS version
           FROM billing_subscriptions s JOIN organizations o ON o.id = s.organization_id
          WHERE s.plan_tier = $1 AND s.plan_version IS DISTINCT FROM $2
            AND ($3::integer IS NULL OR coalesce(s.plan_version, 1) = $3)
            AND ($4::uuid IS NULL OR s.organization_id = $4)
            AND s.status IN ('active', 'trialing', 'past_due')
            AND NOT EXISTS (SELECT FROM billing_subscription_schedules h,
                                        jsonb_array_elements(h.phases) AS phase
                             WHERE h.organization_id = s.organization_id
                               AND h.stripe_schedule_id = s.stripe_schedule_id
                               AND h.status = 'active' AND phase ->> 'planVersion' = $5
                               AND (phase ->> 'start')::timestamptz >= s.current_period_end)
          ORDER BY s.organization_id, s.stripe_subscription_id",
        migration.tier,
        migration.to,
        migration.from,
        migration.organization,
        migration.scheduled_as()
    )
    .fetch_all(conn)
    .await
}

/// Whether the organization has this Stripe customer.
pub async fn has_customer(tx: &mut RequestTx, customer: &str) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM billing_customers
                           WHERE organization_id = $1 AND stripe_customer_id = $2
                             AND deleted_at IS NULL) AS "has!""#,
        organization_id,
        customer
    )
    .fetch_one(tx.conn())
    .await
}

/// Whether a payment method of the organization is mirrored.
pub async fn has_card(tx: &mut RequestTx, id: &str) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM billing_payment_methods
                           WHERE organization_id = $1 AND stripe_payment_method_id = $2
                             AND status = 'attached') AS "has!""#,
        organization_id,
        id
    )
    .fetch_one(tx.conn())
    .await
}

/// A subscription whose mirrored state may be out of date.
pub struct StaleMirror {
    pub organization_id: Uuid,
    pub subscription_id: String,
    pub since: Timestamp,
    /// Failed attempts to fetch it from Stripe.
    pub attempts: i32,
}

/// The stale subscriptions that are due, oldest first.
pub async fn stale_mirrors(
    conn: &mut PgConnection,
    limit: i64,
) -> Result<Vec<StaleMirror>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_subscription_id, ask_again_since AS "since!",
                  recovery_attempts
             FROM billing_subscriptions
            WHERE ask_again_since IS NOT NULL
              AND (next_recovery_at IS NULL OR next_recovery_at <= now())
            ORDER BY ask_again_since LIMIT $1"#,
        limit
    )
    .fetch_all(conn)
    .await?;
    let stale_mirrors = rows.into_iter().map(|row| StaleMirror {
        organization_id: row.organization_id,
        subscription_id: row.stripe_subscription_id,
        since: row.since.to_jiff(),
        attempts: row.recovery_attempts,
    });
    Ok(stale_mirrors.collect())
}

/// Marks the subscription as current, unless it became stale again meanwhile.
pub async fn clear_stale(tx: &mut TenantTx, stale: &StaleMirror) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE billing_subscriptions
            SET ask_again_since = NULL, recovery_attempts = 0, next_recovery_at = NULL
          WHERE organization_id = $1 AND stripe_subscription_id = $2 AND ask_again_since = $3",
        organization_id,
        stale.subscription_id,
        stale.since.to_sqlx() as _
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Fetches the subscription again after `pause`.
pub async fn postpone(
    tx: &mut TenantTx,
    stale: &StaleMirror,
    pause: SignedDuration,
) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE billing_subscriptions
            SET recovery_attempts = recovery_attempts + 1,
                next_recovery_at = now() + $3::bigint * interval '1 second'
          WHERE organization_id = $1 AND stripe_subscription_id = $2",
        organization_id,
        stale.subscription_id,
        pause.as_secs()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
