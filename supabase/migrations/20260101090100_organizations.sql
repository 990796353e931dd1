-- Organizations (the tenants), the people who log in, and quotas by plan.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS organizations (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name text NOT NULL CHECK (name <> ''),
  -- What applies now, and what applies while no subscription says otherwise.
  plan_tier text NOT NULL DEFAULT 'free',
  base_plan_tier text NOT NULL DEFAULT 'free',
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

-- A person may belong to several organizations, so this table has no tenant.
CREATE TABLE IF NOT EXISTS users (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  email text NOT NULL CHECK (email <> ''),
  created_at timestamptz NOT NULL DEFAULT now(),
  disabled_at timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS users_email_key ON users (lower(email));

-- The quotas in force, one row for each metric: absent never means unlimited,
-- so unlimited is said.
CREATE TABLE IF NOT EXISTS usage_quotas (
  organization_id uuid NOT NULL,
  metric text NOT NULL,
  plan_tier text NOT NULL,
  unlimited boolean NOT NULL DEFAULT false,
  quota numeric(24,4) CHECK (quota >= 0),
  over_limit text NOT NULL CHECK (over_limit IN ('hard', 'grace', 'overage')),
  overage_rate numeric(24,12) CHECK (overage_rate >= 0),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, metric),
  CHECK (unlimited = (quota IS NULL)),
  CHECK ((over_limit = 'overage' AND NOT unlimited) = (overage_rate IS NOT NULL))
);

ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS organizations_owner ON organizations;
CREATE POLICY organizations_owner ON organizations TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS organizations_select ON organizations;
CREATE POLICY organizations_select ON organizations FOR SELECT TO billing_app
  USING (id = auth.get_current_org_id());
DROP POLICY IF EXISTS organizations_worker ON organizations;
CREATE POLICY organizations_worker ON organizations TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR id = auth.get_current_org_id());
GRANT SELECT ON organizations TO billing_app;
GRANT SELECT, INSERT, UPDATE ON organizations TO billing_worker;

ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS users_owner ON users;
CREATE POLICY users_owner ON users TO billing_owner USING (true) WITH CHECK (true);

ALTER TABLE usage_quotas ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_quotas FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS usage_quotas_owner ON usage_quotas;
CREATE POLICY usage_quotas_owner ON usage_quotas TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS usage_quotas_select ON usage_quotas;
CREATE POLICY usage_quotas_select ON usage_quotas FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS usage_quotas_worker ON usage_quotas;
CREATE POLICY usage_quotas_worker ON usage_quotas TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON usage_quotas TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_quotas TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260101090100', 'organizations') ON CONFLICT DO NOTHING;
COMMIT;
