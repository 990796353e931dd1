-- What Stripe makes of usage after it accepted it: it counts it later, or rejects it.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- When a change was first refused since Stripe had not counted the report; Stripe's code if
-- it rejected it (`refused_at`) after it had accepted it; when it became due again.
ALTER TABLE usage_reports
  ADD COLUMN IF NOT EXISTS uncounted_at timestamptz,
  ADD COLUMN IF NOT EXISTS rejected_code text,
  ADD COLUMN IF NOT EXISTS retold_at timestamptz;
CREATE INDEX IF NOT EXISTS usage_reports_uncounted_idx
  ON usage_reports (organization_id, metric) WHERE uncounted_at IS NOT NULL;

-- Stripe's events about rejected usage, which name no organization. What they are about is
-- asked of Stripe.
CREATE TABLE IF NOT EXISTS stripe_meter_errors (
  stripe_event_id text PRIMARY KEY,
  event_type text NOT NULL,
  occurred_at timestamptz NOT NULL,
  next_attempt_at timestamptz NOT NULL DEFAULT now(),
  attempts integer NOT NULL DEFAULT 0,
  -- Why Stripe could not be asked.
  error_message text,
  explained_at timestamptz,
  error_count bigint,
  summary text,
  errors jsonb,
  -- When an operator had dealt with it.
  settled_at timestamptz
);
CREATE INDEX IF NOT EXISTS stripe_meter_errors_due_idx
  ON stripe_meter_errors (next_attempt_at) WHERE explained_at IS NULL;

ALTER TABLE stripe_meter_errors ENABLE ROW LEVEL SECURITY;
ALTER TABLE stripe_meter_errors FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS stripe_meter_errors_owner ON stripe_meter_errors;
CREATE POLICY stripe_meter_errors_owner ON stripe_meter_errors TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS stripe_meter_errors_worker ON stripe_meter_errors;
CREATE POLICY stripe_meter_errors_worker ON stripe_meter_errors TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON stripe_meter_errors TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260120010000', 'counted_usage') ON CONFLICT DO NOTHING;
COMMIT;
