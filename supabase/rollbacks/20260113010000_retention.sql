-- Undoes 20260113010000_retention.sql. Payloads that were removed do not come back.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS organizations_created_idx;
DROP INDEX IF EXISTS usage_alerts_failed_idx;
DROP INDEX IF EXISTS usage_alerts_delivered_idx;
DROP INDEX IF EXISTS webhook_unclaimed_events_time_idx;
DROP INDEX IF EXISTS login_throttles_time_idx;
DROP INDEX IF EXISTS billing_job_runs_time_idx;
DROP INDEX IF EXISTS usage_events_time_idx;
DROP INDEX IF EXISTS webhook_events_type_idx;
DROP INDEX IF EXISTS webhook_events_organization_idx;
DROP INDEX IF EXISTS webhook_events_retried_idx;
DROP INDEX IF EXISTS webhook_events_discarded_idx;
DROP INDEX IF EXISTS webhook_events_removed_idx;
DROP INDEX IF EXISTS webhook_events_kept_idx;
DROP TABLE IF EXISTS billing_job_leases;
DROP TABLE IF EXISTS billing_job_totals;
DO $$
BEGIN
  IF to_regclass('billing_job_runs') IS NOT NULL THEN
    REVOKE DELETE ON billing_job_runs FROM billing_worker;
  END IF;
  IF to_regclass('billing_applied_events') IS NOT NULL THEN
    REVOKE DELETE ON billing_applied_events FROM billing_worker;
  END IF;
END
$$;
ALTER TABLE IF EXISTS billing_applied_events DROP COLUMN IF EXISTS extract;
ALTER TABLE IF EXISTS webhook_events DROP COLUMN IF EXISTS payload_removed_at;

DELETE FROM billing_schema_migrations WHERE version = '20260113010000';
COMMIT;
