-- Retry with backoff, the dead-letter queue, and the record of job runs.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

ALTER TABLE webhook_events
  ADD COLUMN IF NOT EXISTS retry_count integer NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS next_retry_at timestamptz,
  ADD COLUMN IF NOT EXISTS error_message text,
  -- Each failed attempt: {"at", "error"}.
  ADD COLUMN IF NOT EXISTS attempts jsonb NOT NULL DEFAULT '[]',
  -- The Stripe customer whose organization the event waits for.
  ADD COLUMN IF NOT EXISTS waiting_for_customer_id text,
  -- Who works on the event, and until when. The id fences: a worker whose
  -- lease was taken over cannot commit.
  ADD COLUMN IF NOT EXISTS lease_id uuid,
  ADD COLUMN IF NOT EXISTS lease_expires_at timestamptz;

CREATE INDEX IF NOT EXISTS webhook_events_due_idx
  ON webhook_events (coalesce(next_retry_at, received_at)) WHERE NOT processed;
CREATE INDEX IF NOT EXISTS webhook_events_waiting_idx
  ON webhook_events (waiting_for_customer_id)
  WHERE NOT processed AND waiting_for_customer_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS webhook_dead_letter_queue (
  bucket smallint NOT NULL CHECK (bucket >= 0 AND bucket < 1024),
  stripe_event_id text NOT NULL,
  event_type text NOT NULL,
  api_version text,
  livemode boolean NOT NULL,
  account text,
  event_created_at timestamptz NOT NULL,
  payload json NOT NULL,
  received_at timestamptz NOT NULL,
  organization_id uuid,
  retry_count integer NOT NULL,
  error_message text NOT NULL,
  attempts jsonb NOT NULL,
  dead_lettered_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (bucket, stripe_event_id)
);
CREATE INDEX IF NOT EXISTS webhook_dead_letter_queue_time_idx
  ON webhook_dead_letter_queue (dead_lettered_at);

DO $$
BEGIN
  ALTER TABLE webhook_dead_letter_queue ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
  NULL;
END
$$;

ALTER TABLE webhook_dead_letter_queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_dead_letter_queue FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS webhook_dead_letter_queue_owner ON webhook_dead_letter_queue;
CREATE POLICY webhook_dead_letter_queue_owner ON webhook_dead_letter_queue TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS webhook_dead_letter_queue_worker ON webhook_dead_letter_queue;
CREATE POLICY webhook_dead_letter_queue_worker ON webhook_dead_letter_queue TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_dead_letter_queue TO billing_worker;

-- What the scheduled jobs did. Their processes are short-lived, so what they
-- counted is added up here and pushed as running totals.
CREATE TABLE IF NOT EXISTS billing_job_runs (
  id uuid PRIMARY KEY,
  job text NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  succeeded boolean NOT NULL,
  counters jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS billing_job_runs_job_idx ON billing_job_runs (job, finished_at DESC);
ALTER TABLE billing_job_runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_job_runs FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS billing_job_runs_owner ON billing_job_runs;
CREATE POLICY billing_job_runs_owner ON billing_job_runs TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS billing_job_runs_worker ON billing_job_runs;
CREATE POLICY billing_job_runs_worker ON billing_job_runs TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT ON billing_job_runs TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260101093000', 'webhook_retry') ON CONFLICT DO NOTHING;
COMMIT;
