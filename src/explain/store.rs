//! SQL of what explains: read as the worker, of all organizations, and by indexes.

mod invoices;

use billing_domain::past_due::Access;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Cause, CauseKind, at};
pub use invoices::{InvoiceHeld, InvoiceLine, charges, invoice, invoice_lines};

/// Which audit entries to show, newest first.
pub struct Entries<'a> {
    pub organization_id: Uuid,
    pub resource_id: Option<&'a str>,
    pub actions: Option<&'a [&'a str]>,
    /// The event that they tell of.
    pub event_id: Option<&'a str>,
    pub until: Option<Timestamp>,
    pub limit: i64,
}

impl Entries<'_> {
    pub fn of(organization_id: Uuid, limit: i64) -> Self {
        Self {
            organization_id,
            resource_id: None,
            actions: None,
            event_id: None,
            until: None,
            limit,
        }
    }
}

/// An entry of the audit log.
pub struct Entry {
    id: Uuid,
    action: String,
    actor_type: String,
    actor_id: Option<Uuid>,
    resource: String,
    event_id: Option<String>,
    before: Value,
    pub after: Value,
    pub created_at: Timestamp,
}

impl Entry {
    pub fn cause(&self) -> Cause {
        let by = match (&self.event_id, self.actor_id) {
            (Some(event), _) => format!("by Stripe's event {event}"),
            (None, Some(id)) => format!("by {} {id}", self.actor_type),
            (None, None) => format!("by {}", self.actor_type),
        };
        let sentence = format!(
            "The audit log has {} of {} {by} at {}.",
            self.action,
            self.resource,
            at(self.created_at)
        );
        let facts = json!({
            "id": self.id, "action": self.action, "actorType": self.actor_type,
            "actorId": self.actor_id, "stripeEventId": self.event_id, "createdAt": self.created_at,
            "before": self.before, "after": self.after,
        });
        Cause::new(CauseKind::AuditEntry, sentence, facts)
    }
}

pub async fn entries(conn: &mut PgConnection, of: &Entries<'_>) -> Result<Vec<Entry>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, action, actor_type, actor_id, concat_ws(' ', resource_type, resource_id) AS "resource!",
                  metadata ->> 'stripe_event_id' AS event_id, before_state, after_state, created_at
             FROM billing_audit_log
            WHERE organization_id = $1
              AND ($2::text IS NULL OR resource_id = $2)
              AND ($3::text[] IS NULL OR action = ANY ($3))
              AND ($4::text IS NULL OR metadata ->> 'stripe_event_id' = $4)
              AND created_at <= coalesce($5::timestamptz, 'infinity')
            ORDER BY created_at DESC, sequence DESC LIMIT $6"#,
        of.organization_id,
        of.resource_id,
        of.actions as _,
        of.event_id,
        of.until.map(|time| time.to_sqlx()) as _,
        of.limit
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| Entry {
        id: row.id,
        action: row.action,
        actor_type: row.actor_type,
        actor_id: row.actor_id,
        resource: row.resource,
        event_id: row.event_id,
        before: row.before_state.unwrap_or_default(),
        after: row.after_state.unwrap_or_default(),
        created_at: row.created_at.to_jiff(),
    });
    Ok(rows.collect())
}

/// The first entry after a time, of one of `actions`: its states.
pub struct Change {
    pub before: Value,
    pub created_at: Timestamp,
}

pub async fn next_change(
    conn: &mut PgConnection,
    organization_id: Uuid,
    actions: &[&str],
    after: Timestamp,
) -> Result<Option<Change>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT before_state, created_at FROM billing_audit_log
          WHERE organization_id = $1 AND action = ANY ($2) AND created_at > $3
          ORDER BY created_at, sequence LIMIT 1",
        organization_id,
        actions as _,
        after.to_sqlx() as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Change {
        before: row.before_state.unwrap_or_default(),
        created_at: row.created_at.to_jiff(),
    }))
}

/// An event that was applied to an object.
pub struct Applied {
    pub event_id: String,
    pub event_type: String,
    pub created_at: Timestamp,
    pub applied_at: Timestamp,
}

/// The object that an event was about.
pub async fn resource_of(
    conn: &mut PgConnection,
    organization_id: Uuid,
    event_id: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT resource_id FROM billing_applied_events
          WHERE organization_id = $1 AND stripe_event_id = $2",
        organization_id,
        event_id
    )
    .fetch_optional(conn)
    .await
}

/// The events that were applied to an object, newest first.
pub async fn applied(
    conn: &mut PgConnection,
    organization_id: Uuid,
    object: &str,
    limit: i64,
) -> Result<Vec<Applied>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT stripe_event_id, event_type, event_created_at AS "event_created_at!", applied_at
             FROM billing_applied_events
            WHERE organization_id = $1 AND resource_id = $2 AND event_created_at IS NOT NULL
            ORDER BY event_created_at DESC, applied_at DESC LIMIT $3"#,
        organization_id,
        object,
        limit
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| Applied {
        event_id: row.stripe_event_id,
        event_type: row.event_type,
        created_at: row.event_created_at.to_jiff(),
        applied_at: row.applied_at.to_jiff(),
    });
    Ok(rows.collect())
}

/// What an organization holds.
pub struct Held {
    pub plan_tier: String,
    pub plan_version: Option<i32>,
    pub base_plan_tier: String,
    pub created_at: Timestamp,
}

impl Held {
    /// `the plan standard (version 2)`.
    pub fn plan(&self) -> String {
        match self.plan_version {
            Some(version) => format!("the plan {} (version {version})", self.plan_tier),
            None => format!("the plan {}", self.plan_tier),
        }
    }
}

pub async fn organization(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<Held>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT plan_tier, plan_version, base_plan_tier, created_at FROM organizations WHERE id = $1",
        organization_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Held {
        plan_tier: row.plan_tier,
        plan_version: row.plan_version,
        base_plan_tier: row.base_plan_tier,
        created_at: row.created_at.to_jiff(),
    }))
}

/// A subscription, with the price of its plan.
pub struct Subscribed {
    pub id: String,
    pub status: String,
    /// Since when it grants nothing while it is past due.
    pub access_ended_at: Option<Timestamp>,
    pub plan_tier: Option<String>,
    pub plan_version: Option<i32>,
    pub price_id: Option<String>,
    pub unit_amount: Option<i64>,
    pub currency: Option<String>,
    pub last_event_id: String,
    pub created_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

impl Subscribed {
    pub fn access(&self) -> Access {
        Access {
            ended: self.access_ended_at.is_some(),
            ..Access::default()
        }
    }

    pub fn grants_plan(&self) -> bool {
        self.access().grants_plan(&self.status.as_str().into())
    }
}

/// An organization's subscriptions, those that run first.
pub async fn subscriptions(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Vec<Subscribed>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT s.stripe_subscription_id, s.status,
                  -- One whose prices are unknown keeps the plan that they last paid.
                  coalesce(s.plan_tier, s.known_tier #>> '{newest,tier}') AS plan_tier,
                  s.plan_version, s.last_event_id, s.access_ended_at,
                  s.stripe_created_at, s.ended_at, i.stripe_price_id AS "price_id?", i.unit_amount,
                  coalesce(i.currency, s.currency) AS currency
             FROM billing_subscriptions s
             LEFT JOIN LATERAL (
               SELECT i.stripe_price_id, i.unit_amount, i.currency
                 FROM billing_subscription_items i
                WHERE i.organization_id = s.organization_id
                  AND i.stripe_subscription_id = s.stripe_subscription_id
                  AND i.usage_type IS DISTINCT FROM 'metered'
                ORDER BY i.plan_tier IS NOT DISTINCT FROM s.plan_tier DESC,
                         i.unit_amount DESC NULLS LAST, i.stripe_subscription_item_id
                LIMIT 1) i ON true
            WHERE s.organization_id = $1
            ORDER BY s.ended_at DESC NULLS FIRST, s.stripe_created_at DESC LIMIT 20"#,
        organization_id
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| Subscribed {
        id: row.stripe_subscription_id,
        status: row.status,
        access_ended_at: row.access_ended_at.map(|time| time.to_jiff()),
        plan_tier: row.plan_tier,
        plan_version: row.plan_version,
        price_id: row.price_id,
        unit_amount: row.unit_amount,
        currency: row.currency,
        last_event_id: row.last_event_id,
        created_at: row.stripe_created_at.map(|time| time.to_jiff()),
        ended_at: row.ended_at.map(|time| time.to_jiff()),
    });
    Ok(rows.collect())
}

/// A quota in force, and the plan's.
pub struct QuotaHeld {
    pub quota: Option<Decimal>,
    pub over_limit: String,
    pub plan_quota: Option<Decimal>,
    pub plan_over_limit: String,
    pub overage_rate: Option<Decimal>,
    currency: Option<String>,
    pub overridden_at: Option<Timestamp>,
    /// What add-ons add to the plan's.
    pub added: Decimal,
    pub added_unlimited: bool,
}

impl QuotaHeld {
    pub fn currency(&self) -> String {
        let currency = self.currency.as_deref().unwrap_or_default();
        currency.to_uppercase()
    }
}

pub async fn quota(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
) -> Result<Option<QuotaHeld>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT CASE WHEN e.unlimited THEN NULL ELSE e.quota END AS quota,
                  e.over_limit AS "over_limit!", e.plan_quota,
                  q.over_limit AS plan_over_limit, q.overage_rate, q.currency, e.overridden_at,
                  q.added_quota, q.added_unlimited
             FROM effective_usage_quotas e
             JOIN usage_quotas q ON q.organization_id = e.organization_id AND q.metric = e.metric
            WHERE e.organization_id = $1 AND e.metric = $2"#,
        organization_id,
        metric
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| QuotaHeld {
        quota: row.quota,
        over_limit: row.over_limit,
        plan_quota: row.plan_quota,
        plan_over_limit: row.plan_over_limit,
        overage_rate: row.overage_rate,
        currency: row.currency,
        overridden_at: row.overridden_at.map(|time| time.to_jiff()),
        added: row.added_quota,
        added_unlimited: row.added_unlimited,
    }))
}

/// What was used of a metric in a period.
pub struct Total {
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub total: Decimal,
    pub reserved: Decimal,
    pub events: i64,
    pub quota_adjustment: Decimal,
    pub closed_at: Option<Timestamp>,
    pub billed_by: Option<String>,
    pub told: Option<Decimal>,
}

/// The usage of the period that contains `at`.
pub async fn total(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
    at: Timestamp,
) -> Result<Option<Total>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT t.period_start, t.period_end, t.total, t.reserved, t.events, t.quota_adjustment,
                t.closed_at, nullif(t.billed_by, '') AS billed_by,
                (SELECT sum(r.units) FROM usage_reports r
                  WHERE r.organization_id = t.organization_id AND r.metric = t.metric
                    AND r.period_start = t.period_start AND r.sent_at IS NOT NULL) AS told
           FROM usage_totals t
          WHERE t.organization_id = $1 AND t.metric = $2
            AND t.period_start <= $3 AND t.period_end > $3
          ORDER BY t.period_start DESC LIMIT 1",
        organization_id,
        metric,
        at.to_sqlx() as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Total {
        period_start: row.period_start.to_jiff(),
        period_end: row.period_end.to_jiff(),
        total: row.total,
        reserved: row.reserved,
        events: row.events,
        quota_adjustment: row.quota_adjustment,
        closed_at: row.closed_at.map(|time| time.to_jiff()),
        billed_by: row.billed_by,
        told: row.told,
    }))
}

/// A use.
pub struct Use {
    pub id: String,
    pub quantity: Decimal,
    pub occurred_at: Option<Timestamp>,
    pub recorded_at: Timestamp,
}

/// The largest uses of a period.
pub async fn largest(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
    period_start: Timestamp,
    limit: i64,
) -> Result<Vec<Use>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT event_id, quantity, occurred_at, recorded_at FROM usage_events
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3
          ORDER BY quantity DESC, event_id LIMIT $4",
        organization_id,
        metric,
        period_start.to_sqlx() as _,
        limit
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| Use {
        id: row.event_id,
        quantity: row.quantity.normalize(),
        occurred_at: row.occurred_at.map(|time| time.to_jiff()),
        recorded_at: row.recorded_at.to_jiff(),
    });
    Ok(rows.collect())
}

/// A grace period.
pub struct Grace {
    quota: Decimal,
    started_at: Timestamp,
    expires_at: Timestamp,
    ended_at: Option<Timestamp>,
    end_reason: Option<String>,
}

impl Grace {
    pub fn cause(&self, now: Timestamp) -> Cause {
        let ended = match (self.ended_at, &self.end_reason) {
            (Some(end), reason) => {
                let reason = reason.as_deref().unwrap_or("ended");
                format!("ended at {} ({reason})", at(end))
            }
            (None, _) if self.expires_at <= now => format!("expired at {}", at(self.expires_at)),
            (None, _) => format!("lasts until {}", at(self.expires_at)),
        };
        let sentence = format!(
            "A grace period began at {}, when usage crossed {}, and {ended}.",
            at(self.started_at),
            self.quota.normalize()
        );
        let facts = json!({
            "quota": self.quota.normalize().to_string(), "startedAt": self.started_at,
            "expiresAt": self.expires_at, "endedAt": self.ended_at, "endReason": self.end_reason,
        });
        Cause::new(CauseKind::GracePeriod, sentence, facts)
    }
}

pub async fn grace(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
    period_start: Timestamp,
) -> Result<Option<Grace>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT quota, started_at, expires_at, ended_at, end_reason FROM grace_periods
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3
            -- One that ended when it began is void.
            AND ended_at IS DISTINCT FROM started_at",
        organization_id,
        metric,
        period_start.to_sqlx() as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Grace {
        quota: row.quota,
        started_at: row.started_at.to_jiff(),
        expires_at: row.expires_at.to_jiff(),
        ended_at: row.ended_at.map(|time| time.to_jiff()),
        end_reason: row.end_reason,
    }))
}
