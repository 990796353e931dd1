-- Grace periods: the time for which a soft limit may be exceeded.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- At most one for each organization, metric and billing period.
CREATE TABLE IF NOT EXISTS grace_periods (
  organization_id uuid NOT NULL,
  metric text NOT NULL,
  period_start timestamptz NOT NULL,
  period_end timestamptz NOT NULL,
  quota numeric(24,4) NOT NULL CHECK (quota >= 0),
  usage_at_start numeric(24,4) NOT NULL CHECK (usage_at_start >= 0),
  started_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  ended_at timestamptz,
  end_reason text CHECK (end_reason IN ('upgraded', 'quota_raised', 'period_ended', 'expired')),
  PRIMARY KEY (organization_id, metric, period_start),
  CHECK (period_start < period_end),
  CHECK (started_at < expires_at),
  CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);
CREATE INDEX IF NOT EXISTS grace_periods_expires_idx
  ON grace_periods (expires_at) WHERE ended_at IS NULL;

ALTER TABLE grace_periods ENABLE ROW LEVEL SECURITY;
ALTER TABLE grace_periods FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS grace_periods_owner ON grace_periods;
CREATE POLICY grace_periods_owner ON grace_periods TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS grace_periods_select ON grace_periods;
CREATE POLICY grace_periods_select ON grace_periods FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS grace_periods_worker ON grace_periods;
CREATE POLICY grace_periods_worker ON grace_periods TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON grace_periods TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON grace_periods TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260101092000', 'grace_periods') ON CONFLICT DO NOTHING;
COMMIT;
