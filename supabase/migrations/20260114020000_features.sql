-- Features: what each organization's plan lets it do, and what operators set
-- instead, with a reason and perhaps an end.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- What the plan says, written with the plan's quotas. Features that are off and
-- not mentioned have no row. The catalogue follower fills it at the next start.
CREATE TABLE IF NOT EXISTS organization_features (
  organization_id uuid NOT NULL,
  feature text NOT NULL CHECK (feature <> ''),
  -- true, 20 or "gold".
  value jsonb NOT NULL CHECK (jsonb_typeof(value) IN ('boolean', 'number', 'string')),
  plan_tier text NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, feature)
);

-- What an operator set instead. Once its end has come it holds no longer,
-- whether or not it was removed.
CREATE TABLE IF NOT EXISTS feature_overrides (
  organization_id uuid NOT NULL,
  feature text NOT NULL CHECK (feature <> ''),
  -- JSON's null: a text that is off.
  value jsonb NOT NULL CHECK (jsonb_typeof(value) IN ('boolean', 'number', 'string', 'null')),
  reason text NOT NULL CHECK (btrim(reason) <> ''),
  -- Null: until it is removed.
  expires_at timestamptz,
  -- A user's id, or the login name of whoever ran the command.
  set_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, feature)
);
CREATE INDEX IF NOT EXISTS feature_overrides_expires_idx ON feature_overrides (expires_at)
  WHERE expires_at IS NOT NULL;

ALTER TABLE organization_features ENABLE ROW LEVEL SECURITY;
ALTER TABLE organization_features FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS organization_features_owner ON organization_features;
CREATE POLICY organization_features_owner ON organization_features TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS organization_features_select ON organization_features;
CREATE POLICY organization_features_select ON organization_features FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS organization_features_worker ON organization_features;
CREATE POLICY organization_features_worker ON organization_features TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON organization_features TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON organization_features TO billing_worker;

ALTER TABLE feature_overrides ENABLE ROW LEVEL SECURITY;
ALTER TABLE feature_overrides FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS feature_overrides_owner ON feature_overrides;
CREATE POLICY feature_overrides_owner ON feature_overrides TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS feature_overrides_select ON feature_overrides;
CREATE POLICY feature_overrides_select ON feature_overrides FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS feature_overrides_worker ON feature_overrides;
CREATE POLICY feature_overrides_worker ON feature_overrides TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON feature_overrides TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON feature_overrides TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260114020000', 'features') ON CONFLICT DO NOTHING;
COMMIT;
