-- How each metric's usage is aggregated. Totals, reports and Stripe's meters are of one
-- aggregation, so that the catalogue's file may not change it under a running
-- subscription.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS catalogue_metrics (
  metric text PRIMARY KEY,
  aggregation text NOT NULL CHECK (aggregation IN ('sum', 'max', 'last')),
  updated_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE catalogue_metrics ENABLE ROW LEVEL SECURITY;
ALTER TABLE catalogue_metrics FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS catalogue_metrics_owner ON catalogue_metrics;
CREATE POLICY catalogue_metrics_owner ON catalogue_metrics TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS catalogue_metrics_worker ON catalogue_metrics;
CREATE POLICY catalogue_metrics_worker ON catalogue_metrics TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON catalogue_metrics TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260119050000', 'catalogue_metrics') ON CONFLICT DO NOTHING;
COMMIT;
