//! Problems in the mirrored state that show without asking Stripe.

use std::fmt;

use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::catalogue::Catalogue;
use crate::db::WorkerTx;
use crate::metering::reports;

/// Each entry names the organization and the object concerned.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Organizations paying for several subscriptions.
    pub doubles: Vec<String>,
    /// Paid subscriptions without a plan of the catalogue.
    pub unknown_prices: Vec<String>,
    /// Plans and add-ons that organizations have but the catalogue lacks.
    pub vanished_plans: Vec<String>,
    /// Running subscriptions whose customer was deleted in Stripe.
    pub deleted_customers: Vec<String>,
    /// Requests abandoned by recovery.
    pub abandoned_requests: Vec<String>,
    /// Running subscriptions with a schedule that is not mirrored.
    pub unknown_schedules: Vec<String>,
    /// Running subscriptions that bill a metric twice.
    pub double_meters: Vec<String>,
    /// Usage that Stripe accepted and rejected afterwards.
    pub rejected_usage: Vec<String>,
    /// Usage that is not billed as it was used. Only the periodic check looks for it:
    /// `doctor` has a check of its own.
    pub unbilled_usage: Vec<String>,
}

impl Findings {
    /// The number of findings of each kind.
    pub fn counts(&self) -> [(&'static str, usize); 8] {
        [
            ("double_subscriptions", self.doubles.len()),
            ("unknown_prices", self.unknown_prices.len()),
            ("vanished_plans", self.vanished_plans.len()),
            ("deleted_customers", self.deleted_customers.len()),
            ("unknown_schedules", self.unknown_schedules.len()),
            ("double_metered_items", self.double_meters.len()),
            ("rejected_usage", self.rejected_usage.len()),
            ("unbilled_usage", self.unbilled_usage.len()),
        ]
    }

    /// Logs the findings that are not in `before`.
    pub fn log_new(&self, before: &Self) {
        let new = |now: &[String], before: &[String], what: &str| {
            for one in now.iter().filter(|one| !before.contains(one)) {
                tracing::error!(finding = %one, "{what}: `doctor` says what to do");
            }
        };
        new(
            &self.doubles,
            &before.doubles,
            "An organization pays for several subscriptions",
        );
        new(
            &self.unknown_prices,
            &before.unknown_prices,
            "A subscription is paid for by a price that the catalogue does not know",
        );
        new(
            &self.vanished_plans,
            &before.vanished_plans,
            "A plan that organizations have is not in the catalogue",
        );
        new(
            &self.deleted_customers,
            &before.deleted_customers,
            "The customer of a running subscription was deleted in Stripe",
        );
        new(
            &self.unknown_schedules,
            &before.unknown_schedules,
            "A schedule in Stripe drives a subscription and is not mirrored",
        );
        new(
            &self.double_meters,
            &before.double_meters,
            "Several items of a subscription bill the same usage",
        );
        new(
            &self.rejected_usage,
            &before.rejected_usage,
            "Stripe has rejected usage that it had accepted",
        );
        new(
            &self.unbilled_usage,
            &before.unbilled_usage,
            "Usage is not billed as it was used",
        );
    }
}

/// An organization that pays for several subscriptions.
#[derive(Debug)]
pub struct DoublyPaying {
    pub organization_id: Uuid,
    pub name: String,
    pub subscriptions: Vec<String>,
    /// Whose they are; one for each.
    pub customers: Vec<String>,
}

impl fmt::Display for DoublyPaying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscriptions = self.subscriptions.join(", ");
        write!(
            f,
            "{} ({}): {subscriptions}",
            self.name, self.organization_id
        )
    }
}

/// The organizations that pay for several subscriptions, or the one that is named if it does.
pub async fn doubly_paying(
    conn: &mut PgConnection,
    only: Option<Uuid>,
) -> Result<Vec<DoublyPaying>, sqlx::Error> {
    sqlx::query_as!(
        DoublyPaying,
        r#"SELECT o.id AS organization_id, o.name,
                  array_agg(s.stripe_subscription_id ORDER BY s.stripe_subscription_id)
                  AS "subscriptions!",
                  array_agg(s.stripe_customer_id ORDER BY s.stripe_subscription_id)
                  AS "customers!"
             FROM billing_subscriptions s JOIN organizations o ON o.id = s.organization_id
            WHERE s.status IN ('active', 'trialing', 'past_due', 'unpaid', 'paused')
              AND ($1::uuid IS NULL OR s.organization_id = $1)
            GROUP BY o.id, o.name HAVING count(*) > 1 ORDER BY o.id LIMIT 1000"#,
        only
    )
    .fetch_all(conn)
    .await
}

/// Whether the audit log has an entry of this action about this object.
pub async fn is_entered(
    conn: &mut PgConnection,
    organization_id: Uuid,
    action: &str,
    resource_id: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM billing_audit_log
                           WHERE organization_id = $1 AND action = $2 AND resource_id = $3) AS "entered!""#,
        organization_id,
        action,
        resource_id
    )
    .fetch_one(conn)
    .await
}

pub async fn findings(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
) -> Result<Findings, sqlx::Error> {
    let doubles = doubly_paying(conn, None).await?;
    let doubles = doubles.iter().map(ToString::to_string).collect();
    let unknown_prices = sqlx::query_scalar!(
        r#"SELECT o.name || ' (' || o.id || '): ' || s.stripe_subscription_id AS "found!"
             FROM billing_subscriptions s JOIN organizations o ON o.id = s.organization_id
            WHERE s.status IN ('active', 'trialing', 'past_due') AND s.plan_tier IS NULL
            ORDER BY o.id LIMIT 1000"#
    )
    .fetch_all(&mut *conn)
    .await?;
    let deleted_customers = sqlx::query_scalar!(
        r#"SELECT o.name || ' (' || o.id || '): ' || c.stripe_customer_id AS "found!"
             FROM billing_customers c JOIN organizations o ON o.id = c.organization_id
            WHERE c.deleted_at IS NOT NULL
              AND EXISTS (SELECT FROM billing_subscriptions s
                           WHERE s.organization_id = c.organization_id
                             AND s.stripe_customer_id = c.stripe_customer_id
                             AND s.status IN ('active', 'trialing', 'past_due', 'unpaid', 'paused'))
            ORDER BY o.id LIMIT 1000"#
    )
    .fetch_all(&mut *conn)
    .await?;
    let abandoned_requests = sqlx::query_scalar!(
        r#"SELECT organization_id || ': ' || operation || ' ' || subject || ', '
                  || coalesce(recovery_error, 'no reason') AS "found!"
             FROM billing_stripe_requests WHERE abandoned_at IS NOT NULL
            ORDER BY abandoned_at LIMIT 1000"#
    )
    .fetch_all(&mut *conn)
    .await?;
    let unknown_schedules = sqlx::query_scalar!(
        r#"SELECT o.name || ' (' || o.id || '): ' || s.stripe_schedule_id AS "found!"
             FROM billing_subscriptions s JOIN organizations o ON o.id = s.organization_id
            WHERE s.stripe_schedule_id IS NOT NULL
              AND s.status IN ('active', 'trialing', 'past_due', 'unpaid', 'paused')
              AND NOT EXISTS (SELECT FROM billing_subscription_schedules h
                               WHERE h.organization_id = s.organization_id
                                 AND h.stripe_schedule_id = s.stripe_schedule_id)
            ORDER BY o.id LIMIT 1000"#
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok(Findings {
        unknown_schedules,
        double_meters: double_meters(conn).await?,
        rejected_usage: rejected_usage(conn).await?,
        unbilled_usage: Vec::new(),
        doubles,
        unknown_prices,
        vanished_plans: [
            vanished_plans(conn, catalogue).await?,
            vanished_addons(conn, catalogue).await?,
        ]
        .concat(),
        deleted_customers,
        abandoned_requests,
    })
}

/// Events of usage that Stripe rejected, with what it says about them.
async fn rejected_usage(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let errors = reports::meter_errors(conn).await?;
    Ok(errors.iter().map(ToString::to_string).collect())
}

/// Running subscriptions with several items of one metric: Stripe bills the usage by
/// each of them, and the API shows the first.
async fn double_meters(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT o.name || ' (' || o.id || '): ' || s.stripe_subscription_id || ', '
                  || coalesce(i.metric, b.metric) || ' by '
                  || string_agg(i.stripe_subscription_item_id, ' and '
                                ORDER BY i.stripe_subscription_item_id) AS "found!"
             FROM billing_subscriptions s
             JOIN organizations o ON o.id = s.organization_id
             JOIN billing_subscription_items i
               ON i.organization_id = s.organization_id
              AND i.stripe_subscription_id = s.stripe_subscription_id
             LEFT JOIN billing_prices b ON b.stripe_price_id = i.stripe_price_id
            WHERE s.status IN ('active', 'trialing', 'past_due', 'unpaid', 'paused')
              AND coalesce(i.metric, b.metric) IS NOT NULL
            GROUP BY o.id, o.name, s.stripe_subscription_id, coalesce(i.metric, b.metric)
           HAVING count(*) > 1
            ORDER BY o.id LIMIT 1000"#
    )
    .fetch_all(conn)
    .await
}

/// Plans that the catalogue no longer has, with the organizations on them.
pub async fn vanished_plans(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
) -> Result<Vec<String>, sqlx::Error> {
    let tiers: Vec<String> = catalogue.plans().iter().map(|p| p.tier.clone()).collect();
    sqlx::query_scalar!(
        r#"SELECT plan_tier || ': ' || count(*)
                  || CASE count(*) WHEN 1 THEN ' organization: ' ELSE ' organizations: ' END
                  || array_to_string((array_agg(name || ' (' || id || ')' ORDER BY created_at, id))[1:5], ', ')
                  || CASE WHEN count(*) > 5 THEN ', …' ELSE '' END AS "found!"
             FROM (SELECT id, name, created_at, plan_tier FROM organizations
                   UNION
                   SELECT o.id, o.name, o.created_at, s.plan_tier
                     FROM billing_subscriptions s JOIN organizations o ON o.id = s.organization_id
                    WHERE s.status NOT IN ('canceled', 'incomplete_expired')
                      AND s.plan_tier IS NOT NULL) held
            WHERE plan_tier <> ALL($1) GROUP BY plan_tier ORDER BY plan_tier"#,
        &tiers
    )
    .fetch_all(conn)
    .await
}

/// Add-ons that the catalogue no longer has and that running subscriptions have, with some
/// of their organizations.
async fn vanished_addons(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
) -> Result<Vec<String>, sqlx::Error> {
    let addons = catalogue.addons().iter();
    let addons: Vec<String> = addons.map(|addon| addon.id.clone()).collect();
    sqlx::query_scalar!(
        r#"SELECT addon || ': ' || count(*)
                  || CASE count(*) WHEN 1 THEN ' organization: ' ELSE ' organizations: ' END
                  || array_to_string((array_agg(name || ' (' || id || ')' ORDER BY created_at, id))[1:5], ', ')
                  || CASE WHEN count(*) > 5 THEN ', …' ELSE '' END AS "found!"
             FROM (SELECT DISTINCT o.id, o.name, o.created_at, i.addon
                     FROM billing_subscription_items i
                     JOIN billing_subscriptions s
                       ON s.organization_id = i.organization_id
                      AND s.stripe_subscription_id = i.stripe_subscription_id
                     JOIN organizations o ON o.id = i.organization_id
                    WHERE s.status NOT IN ('canceled', 'incomplete_expired')
                      AND i.addon IS NOT NULL AND i.addon <> ALL($1)) held
            GROUP BY addon ORDER BY addon"#,
        &addons
    )
    .fetch_all(conn)
    .await
}

/// Metrics that the catalogue no longer has, and that a running subscription is charged
/// for, with the number of organizations.
async fn vanished_metrics(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
) -> Result<Vec<String>, sqlx::Error> {
    let metrics: Vec<String> = catalogue.metrics().keys().cloned().collect();
    sqlx::query_scalar!(
        r#"SELECT i.metric || ': ' || count(DISTINCT i.organization_id) AS "found!"
             FROM billing_subscription_items i
             JOIN billing_subscriptions s
               ON s.organization_id = i.organization_id
              AND s.stripe_subscription_id = i.stripe_subscription_id
            WHERE s.status NOT IN ('canceled', 'incomplete_expired')
              AND i.metric IS NOT NULL AND i.metric <> ALL($1)
            GROUP BY i.metric ORDER BY i.metric"#,
        &metrics
    )
    .fetch_all(conn)
    .await
}

/// Metrics that a running subscription is charged for and that the catalogue aggregates in
/// another way than before: each with the way before.
async fn changed_aggregations(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
) -> Result<Vec<String>, sqlx::Error> {
    let known = sqlx::query!(
        "SELECT m.metric, m.aggregation FROM catalogue_metrics m
          WHERE EXISTS (
            SELECT FROM billing_subscription_items i
              JOIN billing_subscriptions s
                ON s.organization_id = i.organization_id
               AND s.stripe_subscription_id = i.stripe_subscription_id
             WHERE s.status NOT IN ('canceled', 'incomplete_expired') AND i.metric = m.metric)
          ORDER BY m.metric"
    )
    .fetch_all(conn)
    .await?;
    let changed = known.into_iter().filter_map(|row| {
        let now = catalogue.metric(&row.metric)?.aggregation.as_str();
        (now != row.aggregation)
            .then(|| format!("{} from {:?} to {now:?}", row.metric, row.aggregation))
    });
    Ok(changed.collect())
}

/// Why the catalogue's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VanishedPlans {
    #[error(
        "PLANS_FILE lacks plans that organizations have: {0}. Put each back, with \
         `retired = true` if it is to be sold no more"
    )]
    Found(String),
    #[error(
        "PLANS_FILE lacks add-ons that running subscriptions have: {0}. Put each back in \
         [[addons]], with `retired = true` if it is to be sold no more"
    )]
    Addons(String),
    #[error(
        "PLANS_FILE lacks metrics that running subscriptions are charged for (metric: \
         organizations): {0}. Put each back in [metrics] and in the plans, and move the \
         subscriptions first: a new version of the plan without an overage_rate for it, \
         then `plans migrate`"
    )]
    Metrics(String),
    #[error(
        "PLANS_FILE changes the aggregation of metrics that running subscriptions are charged \
         for: {0}. What was counted and what Stripe was told are of the former one: put it \
         back, and count in the new way under another metric"
    )]
    Aggregations(String),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Checks that the file has every plan that an organization has, and every metric that
/// a subscription is charged for: without one, nobody could tell what its subscribers
/// may use, and its usage would be refused.
pub async fn check_vanished(pool: &PgPool, catalogue: &Catalogue) -> Result<(), VanishedPlans> {
    let mut tx = WorkerTx::begin(pool).await?;
    let found = vanished_plans(tx.conn(), catalogue).await?;
    let addons = vanished_addons(tx.conn(), catalogue).await?;
    let metrics = vanished_metrics(tx.conn(), catalogue).await?;
    let aggregations = changed_aggregations(tx.conn(), catalogue).await?;
    tx.commit().await?;
    if !found.is_empty() {
        return Err(VanishedPlans::Found(found.join("; ")));
    }
    if !addons.is_empty() {
        return Err(VanishedPlans::Addons(addons.join("; ")));
    }
    if !metrics.is_empty() {
        return Err(VanishedPlans::Metrics(metrics.join("; ")));
    }
    if !aggregations.is_empty() {
        return Err(VanishedPlans::Aggregations(aggregations.join("; ")));
    }
    Ok(())
}
