//! SQL that finds facts and queues them.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::mail::facts::Fact;
use crate::tenancy::SAMPLE;

/// Mails count as switched off once nobody has searched for so long.
const OFF_AFTER_SECS: f64 = 86_400.0;
/// An alert is committed well within this time of when it was raised.
const COMMITTED_WITHIN_SECS: f64 = 600.0;
/// A failed payment waits so long for the event that its payer has to act, which is told
/// instead.
const HELD_SECS: f64 = 30.0;
/// Facts of a kind that one search queues; the next one goes on.
const BATCH: i64 = 1_000;

/// From when on there are facts.
pub struct Since {
    pub switched_on_at: Timestamp,
    searched_at: Timestamp,
}

pub async fn queue(conn: &mut PgConnection, facts: &[Fact]) -> Result<(), sqlx::Error> {
    let organizations: Vec<Uuid> = facts.iter().map(|fact| fact.organization_id).collect();
    let kinds: Vec<&str> = facts.iter().map(|fact| fact.kind.as_str()).collect();
    let keys: Vec<&str> = facts.iter().map(|fact| fact.key.as_str()).collect();
    let resources: Vec<&str> = facts.iter().map(|fact| fact.resource_id.as_str()).collect();
    let times: Vec<String> = facts
        .iter()
        .map(|fact| fact.happened_at.to_string())
        .collect();
    sqlx::query!(
        "INSERT INTO mails (organization_id, id, kind, fact, resource_id, happened_at,
                            next_attempt_at)
         SELECT t.organization_id, gen_random_uuid(), t.kind, t.fact, t.resource_id, t.happened_at,
                now() + make_interval(secs => CASE WHEN t.kind = 'payment_failed' THEN $8::float8
                                                   ELSE 0 END)
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
             AS w(organization_id, kind, fact, resource_id, at)
          CROSS JOIN LATERAL (SELECT w.organization_id, w.kind, w.fact, w.resource_id,
                                     w.at::timestamptz AS happened_at) t
           JOIN mail_switch s ON s.searched_at > now() - make_interval(secs => $7)
            AND s.switched_on_at <= t.happened_at
            -- Whatever is replayed later was told, and may be forgotten.
            AND t.happened_at > now() - interval '30 days'
          WHERE t.organization_id <> $6
         ON CONFLICT DO NOTHING",
        &organizations,
        &kinds as &[&str],
        &keys as &[&str],
        &resources as &[&str],
        &times,
        SAMPLE,
        OFF_AFTER_SECS,
        HELD_SECS
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Switches mails on, if they never were.
pub async fn make_switch(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // To the second, as Stripe tells of times.
    sqlx::query!(
        "INSERT INTO mail_switch (name, switched_on_at, searched_at)
         SELECT 'mails', date_trunc('second', now()), now()
          WHERE NOT EXISTS (SELECT FROM mail_switch)
         ON CONFLICT DO NOTHING"
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Holds the switch until the transaction ends, and turns it on again where it was off;
/// `None`: another replica searches. What still waited when it was off is told no more.
pub async fn hold_switch(conn: &mut PgConnection) -> Result<Option<Since>, sqlx::Error> {
    let held = sqlx::query!(
        r#"SELECT switched_on_at, searched_at,
                  searched_at <= now() - make_interval(secs => $1) AS "off!"
             FROM mail_switch FOR UPDATE SKIP LOCKED"#,
        OFF_AFTER_SECS
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(held) = held else { return Ok(None) };
    if !held.off {
        return Ok(Some(Since {
            switched_on_at: held.switched_on_at.to_jiff(),
            searched_at: held.searched_at.to_jiff(),
        }));
    }
    sqlx::query!(
        "UPDATE mails SET status = 'withdrawn', ended_at = now(), lease_id = NULL,
                error_message = 'mails were switched off'
          WHERE status = 'pending'"
    )
    .execute(&mut *conn)
    .await?;
    let row = sqlx::query!(
        "UPDATE mail_switch SET switched_on_at = date_trunc('second', now()), searched_at = now()
         RETURNING switched_on_at, searched_at"
    )
    .fetch_one(conn)
    .await?;
    Ok(Some(Since {
        switched_on_at: row.switched_on_at.to_jiff(),
        searched_at: row.searched_at.to_jiff(),
    }))
}

pub async fn note_search(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE mail_switch SET searched_at = now()")
        .execute(conn)
        .await?;
    Ok(())
}

/// Quotas that were used to 80 and 100 %.
pub async fn alerts(conn: &mut PgConnection, since: &Since) -> Result<u64, sqlx::Error> {
    let queued = sqlx::query!(
        r#"INSERT INTO mails (organization_id, id, kind, fact, resource_id, about_at, happened_at)
           SELECT a.organization_id, gen_random_uuid(), t.kind, t.fact, a.metric, a.period_start,
                  a.raised_at
             FROM usage_alerts a
            CROSS JOIN LATERAL (
              SELECT CASE WHEN a.threshold < 100 THEN 'quota_warning' ELSE 'quota_reached' END,
                     a.metric || '/' || to_char(a.period_start AT TIME ZONE 'UTC',
                                                'YYYY-MM-DD"T"HH24:MI:SS"Z"')) t(kind, fact)
            WHERE a.raised_at >= greatest($1::timestamptz, $2::timestamptz - make_interval(secs => $3))
              AND a.threshold IN (80, 100) AND a.organization_id <> $4
              AND NOT EXISTS (SELECT FROM mails m
                               WHERE m.organization_id = a.organization_id
                                 AND m.kind = t.kind AND m.fact = t.fact)
           ON CONFLICT DO NOTHING"#,
        since.switched_on_at.to_sqlx() as _,
        since.searched_at.to_sqlx() as _,
        COMMITTED_WITHIN_SECS,
        SAMPLE
    );
    Ok(queued.execute(conn).await?.rows_affected())
}

/// Trials that end within three days, or are shorter and began.
pub async fn trials(
    conn: &mut PgConnection,
    switched_on_at: Timestamp,
) -> Result<u64, sqlx::Error> {
    let queued = sqlx::query!(
        r#"INSERT INTO mails (organization_id, id, kind, fact, resource_id, about_at, happened_at)
           SELECT s.organization_id, gen_random_uuid(), 'trial_ending', t.fact,
                  s.stripe_subscription_id, s.trial_end, t.happened_at
             FROM billing_subscriptions s
            CROSS JOIN LATERAL (
              SELECT s.stripe_subscription_id || '/' || to_char(s.trial_end AT TIME ZONE 'UTC',
                                                               'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                     greatest(s.trial_end - interval '3 days', s.trial_start)) t(fact, happened_at)
            WHERE s.trial_end IS NOT NULL AND s.status = 'trialing'
              AND LEAST(s.trial_end, s.ended_at) > now()
              AND LEAST(s.trial_end, s.ended_at) <= now() + interval '3 days'
              AND t.happened_at >= $1 AND s.organization_id <> $2
              AND NOT EXISTS (SELECT FROM mails m
                               WHERE m.organization_id = s.organization_id
                                 AND m.kind = 'trial_ending' AND m.fact = t.fact)
            LIMIT $3
           ON CONFLICT DO NOTHING"#,
        switched_on_at.to_sqlx() as _,
        SAMPLE,
        BATCH
    );
    Ok(queued.execute(conn).await?.rows_affected())
}

/// Cards that expire at the end of this month (UTC) and are what a running subscription is
/// paid by: its own, else its customer's default, else the only one.
pub async fn cards(conn: &mut PgConnection, switched_on_at: Timestamp) -> Result<u64, sqlx::Error> {
    let queued = sqlx::query!(
        r#"WITH this AS (
             SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS month,
                    extract(year FROM now() AT TIME ZONE 'UTC')::smallint AS year,
                    extract(month FROM now() AT TIME ZONE 'UTC')::smallint AS number)
           INSERT INTO mails (organization_id, id, kind, fact, resource_id, happened_at)
           SELECT m.organization_id, gen_random_uuid(), 'card_expiring', t.fact,
                  m.stripe_payment_method_id, this.month
             FROM this
             JOIN billing_payment_methods m
               ON m.status = 'attached' AND m.exp_year = this.year AND m.exp_month = this.number
             JOIN billing_customers c
               ON c.organization_id = m.organization_id
              AND c.stripe_customer_id = m.stripe_customer_id AND c.deleted_at IS NULL
            CROSS JOIN LATERAL (
              SELECT m.stripe_payment_method_id || '/' || m.exp_year || '-' || m.exp_month) t(fact)
            WHERE this.month >= $1 AND m.organization_id <> $2
              AND EXISTS (
                SELECT FROM billing_subscriptions s
                 WHERE s.organization_id = m.organization_id
                   AND s.stripe_customer_id = m.stripe_customer_id
                   AND s.status IN ('trialing', 'active', 'past_due')
                   AND NOT s.cancel_at_period_end
                   AND coalesce(s.default_payment_method_id, c.default_payment_method_id,
                                m.stripe_payment_method_id) = m.stripe_payment_method_id
                   AND (coalesce(s.default_payment_method_id, c.default_payment_method_id)
                          IS NOT NULL
                        OR NOT EXISTS (
                          SELECT FROM billing_payment_methods other
                           WHERE other.organization_id = m.organization_id
                             AND other.stripe_customer_id = m.stripe_customer_id
                             AND other.status = 'attached'
                             AND other.stripe_payment_method_id <> m.stripe_payment_method_id)))
              AND NOT EXISTS (SELECT FROM mails sent
                               WHERE sent.organization_id = m.organization_id
                                 AND sent.kind = 'card_expiring' AND sent.fact = t.fact)
            LIMIT $3
           ON CONFLICT DO NOTHING"#,
        switched_on_at.to_sqlx() as _,
        SAMPLE,
        BATCH
    );
    Ok(queued.execute(conn).await?.rows_affected())
}

/// The mails that wait.
pub struct Waiting {
    pub mails: i64,
    /// Since when the first of them was queued.
    pub oldest_secs: i64,
}

pub async fn waiting(conn: &mut PgConnection) -> Result<Waiting, sqlx::Error> {
    sqlx::query_as!(
        Waiting,
        r#"SELECT count(*) AS "mails!",
                  coalesce(extract(epoch FROM now() - min(queued_at)), 0)::bigint AS "oldest_secs!"
             FROM mails WHERE status = 'pending'"#
    )
    .fetch_one(conn)
    .await
}
