-- Retention: old payloads and rows go in small batches, found by index; what is
-- needed of an event after its payload is gone is kept beside its organization.
-- And indexes by which lists of events stay fast, however many there are.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE webhook_events
  -- Since when the payload is '{"removed": true}'. The event's id stays.
  ADD COLUMN IF NOT EXISTS payload_removed_at timestamptz;

ALTER TABLE billing_applied_events
  -- What processing reads again of an event whose payload was removed: the
  -- attributes that are mirrored, and a digest of each other one.
  ADD COLUMN IF NOT EXISTS extract json;
GRANT DELETE ON billing_applied_events TO billing_worker;

-- What removed job runs had counted: the running totals never go back.
CREATE TABLE IF NOT EXISTS billing_job_totals (
  job text NOT NULL,
  series text NOT NULL,
  total bigint NOT NULL,
  PRIMARY KEY (job, series)
);
-- Who runs a job that one replica runs for all.
CREATE TABLE IF NOT EXISTS billing_job_leases (
  job text PRIMARY KEY,
  lease_id uuid NOT NULL,
  lease_expires_at timestamptz NOT NULL
);
GRANT DELETE ON billing_job_runs TO billing_worker;

ALTER TABLE billing_job_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_job_totals FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_job_totals_owner ON billing_job_totals;
CREATE POLICY billing_job_totals_owner ON billing_job_totals TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_job_totals_worker ON billing_job_totals;
CREATE POLICY billing_job_totals_worker ON billing_job_totals TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON billing_job_totals TO billing_worker;

ALTER TABLE billing_job_leases ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_job_leases FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_job_leases_owner ON billing_job_leases;
CREATE POLICY billing_job_leases_owner ON billing_job_leases TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_job_leases_worker ON billing_job_leases;
CREATE POLICY billing_job_leases_worker ON billing_job_leases TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_job_leases TO billing_worker;

-- Intake writes none of the indexes on webhook_events: an event enters them when it
-- is processed, and some when its payload goes. On a large table
-- an index takes a while and is left out; `CREATE INDEX CONCURRENTLY` makes it
-- beside the running service (docs/retention.md).
DO $$
DECLARE
  most CONSTANT bigint := 256 * 1024 * 1024;
BEGIN
  IF pg_relation_size('webhook_events') < most THEN
    CREATE INDEX IF NOT EXISTS webhook_events_kept_idx
      ON webhook_events (received_at) WHERE processed AND payload_removed_at IS NULL;
    CREATE INDEX IF NOT EXISTS webhook_events_removed_idx
      ON webhook_events (received_at) WHERE payload_removed_at IS NOT NULL;
    CREATE INDEX IF NOT EXISTS webhook_events_discarded_idx ON webhook_events (processed_at)
      WHERE outcome = 'discarded' AND payload_removed_at IS NULL;
    CREATE INDEX IF NOT EXISTS webhook_events_retried_idx ON webhook_events (processed_at)
      WHERE processed AND retry_count > 0;
    CREATE INDEX IF NOT EXISTS webhook_events_organization_idx
      ON webhook_events (organization_id, received_at) WHERE organization_id IS NOT NULL;
    CREATE INDEX IF NOT EXISTS webhook_events_type_idx
      ON webhook_events (event_type, received_at) WHERE processed;
  END IF;
  IF pg_relation_size('usage_events') < most THEN
    CREATE INDEX IF NOT EXISTS usage_events_time_idx ON usage_events (recorded_at);
  END IF;
  IF pg_relation_size('billing_job_runs') < most THEN
    CREATE INDEX IF NOT EXISTS billing_job_runs_time_idx ON billing_job_runs (finished_at);
  END IF;
  IF pg_relation_size('login_throttles') < most THEN
    CREATE INDEX IF NOT EXISTS login_throttles_time_idx ON login_throttles (last_attempt_at);
  END IF;
  IF pg_relation_size('webhook_unclaimed_events') < most THEN
    CREATE INDEX IF NOT EXISTS webhook_unclaimed_events_time_idx
      ON webhook_unclaimed_events (created_at);
  END IF;
  IF pg_relation_size('usage_alerts') < most THEN
    CREATE INDEX IF NOT EXISTS usage_alerts_delivered_idx ON usage_alerts (delivered_at)
      WHERE delivered_at IS NOT NULL;
    CREATE INDEX IF NOT EXISTS usage_alerts_failed_idx ON usage_alerts (raised_at, id)
      WHERE failed_at IS NOT NULL;
  END IF;
  IF pg_relation_size('organizations') < most THEN
    CREATE INDEX IF NOT EXISTS organizations_created_idx ON organizations (created_at, id);
  END IF;
END
$$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260113010000', 'retention') ON CONFLICT DO NOTHING;
COMMIT;
