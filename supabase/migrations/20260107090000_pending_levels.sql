-- Levels that are dated ahead: each counts when its time comes, and is removed
-- then.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS usage_pending_levels (
  organization_id uuid NOT NULL,
  metric text NOT NULL,
  -- When it counts.
  occurred_at timestamptz NOT NULL,
  -- Of usage_events; in the order of its bytes, as events of one instant are told apart.
  event_id text COLLATE "C" NOT NULL,
  period_start timestamptz NOT NULL,
  quantity numeric(24,4) NOT NULL CHECK (quantity >= 0),
  PRIMARY KEY (organization_id, metric, occurred_at, event_id)
);
CREATE INDEX IF NOT EXISTS usage_pending_levels_due_idx ON usage_pending_levels (occurred_at);

ALTER TABLE usage_pending_levels ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_pending_levels FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_pending_levels_owner ON usage_pending_levels;
CREATE POLICY usage_pending_levels_owner ON usage_pending_levels TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_pending_levels_select ON usage_pending_levels;
CREATE POLICY usage_pending_levels_select ON usage_pending_levels FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_pending_levels_worker ON usage_pending_levels;
CREATE POLICY usage_pending_levels_worker ON usage_pending_levels TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_pending_levels TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_pending_levels TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260107090000', 'pending_levels') ON CONFLICT DO NOTHING;
COMMIT;
