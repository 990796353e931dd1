//! How many rows each rule would remove now.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

use super::super::What;

/// The rows of `what` that are older than `before`.
#[expect(
    clippy::too_many_lines,
    reason = "a flat table: one query for each rule, and none is forgotten"
)]
pub async fn count(
    conn: &mut PgConnection,
    what: What,
    before: Timestamp,
) -> Result<u64, sqlx::Error> {
    let at = before.to_sqlx();
    let rows =
        match what {
            What::WebhookPayloads => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM webhook_events
                    WHERE processed AND payload_removed_at IS NULL AND received_at < $1
                      AND outcome IS DISTINCT FROM 'discarded'"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::DiscardedDeadLetters => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM webhook_events
                    WHERE outcome = 'discarded' AND payload_removed_at IS NULL
                      AND processed_at < $1"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::WebhookEvents => {
                sqlx::query_scalar!(
                    r#"SELECT (SELECT count(*) FROM webhook_events
                            WHERE payload_removed_at IS NOT NULL AND received_at < $1)
                        + (SELECT count(*) FROM webhook_events
                            WHERE processed AND payload_removed_at IS NULL AND received_at < $1
                              AND (outcome IS DISTINCT FROM 'discarded' OR processed_at < $1))
                          AS "rows!""#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::UnclaimedEvents => sqlx::query_scalar!(
                r#"SELECT count(*) AS "rows!" FROM webhook_unclaimed_events WHERE created_at < $1"#,
                at as _
            )
            .fetch_one(conn)
            .await,
            What::UsageEvents => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM usage_events e
                    WHERE recorded_at < $1
                      AND NOT EXISTS (SELECT FROM usage_totals t
                                       WHERE t.organization_id = e.organization_id
                                         AND t.metric = e.metric
                                         AND t.period_start = e.period_start
                                         AND t.period_end > now() - interval '35 days')"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::IdempotencyKeys => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM request_idempotency
                    WHERE expires_at <= $1::timestamptz + interval '1 day'"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::Sessions => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM user_sessions WHERE expires_at < $1"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::PortalSessions => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM portal_sessions WHERE expires_at < $1"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::LoginThrottles => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM login_throttles WHERE last_attempt_at < $1"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::Rejections => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM webhook_rejections WHERE hour < $1"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::JobRuns => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM billing_job_runs r
                    WHERE finished_at < $1
                      AND EXISTS (SELECT FROM billing_job_runs n
                                   WHERE n.job = r.job
                                     AND (n.finished_at, n.id) > (r.finished_at, r.id)
                                     AND (n.succeeded OR NOT r.succeeded))"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::Denials => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM usage_denials WHERE denied_at < $1"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::BulkActions => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM webhook_bulk_actions WHERE ended_at < $1"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::UsageAlerts => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM usage_alerts
                    WHERE (delivered_at < $1 OR failed_at < $1 AND attempts = 0)
                      AND period_end < now()"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::Reservations => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM usage_reservations WHERE settled_at < $1"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::Mails => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM mails
                    WHERE ended_at < $1 AND happened_at < now() - interval '40 days'"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
            What::OutboundEvents => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "rows!" FROM outbound_events e
                    WHERE created_at < $1
                      AND NOT EXISTS (SELECT FROM outbound_deliveries d
                                        JOIN outbound_endpoints p ON p.id = d.endpoint_id
                                       WHERE d.organization_id = e.organization_id
                                         AND d.sequence = e.sequence AND d.status = 'pending')"#,
                    at as _
                )
                .fetch_one(conn)
                .await
            }
        };
    rows.map(i64::unsigned_abs)
}
