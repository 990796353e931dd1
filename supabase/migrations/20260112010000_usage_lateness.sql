-- Which reports of usage came too late for their invoice, and which Stripe will
-- never take.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- It was entered after the invoice of its period was made; false: before a change of
-- ours that has it made. Null: neither was known.
ALTER TABLE usage_reports ADD COLUMN IF NOT EXISTS late boolean;
-- Stripe will never take it: its customer is deleted there.
ALTER TABLE usage_reports ADD COLUMN IF NOT EXISTS refused_at timestamptz;
CREATE INDEX IF NOT EXISTS usage_reports_refused_idx
  ON usage_reports (organization_id, metric, period_start) WHERE refused_at IS NOT NULL;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260112010000', 'usage_lateness') ON CONFLICT DO NOTHING;
COMMIT;
