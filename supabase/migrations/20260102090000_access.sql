-- Who may call: members of organizations, their sessions, API keys, and what
-- slows down those who guess.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

ALTER TABLE users ADD COLUMN IF NOT EXISTS password_hash text;
ALTER TABLE users ADD COLUMN IF NOT EXISTS password_changed_at timestamptz;
-- Operators work across organizations and belong to none.
ALTER TABLE users ADD COLUMN IF NOT EXISTS operator boolean NOT NULL DEFAULT false;

CREATE TABLE IF NOT EXISTS organization_members (
  organization_id uuid NOT NULL,
  user_id uuid NOT NULL,
  role text NOT NULL CHECK (role IN ('owner', 'billing_manager', 'member')),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX IF NOT EXISTS organization_members_user_idx ON organization_members (user_id);

-- A token is known by its hash alone. It is looked up before the organization
-- is known, so the table has no tenant and is closed to requests.
CREATE TABLE IF NOT EXISTS user_sessions (
  token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
  user_id uuid NOT NULL,
  -- The organization that the session acts for; null: an operator's.
  for_organization_id uuid,
  created_at timestamptz NOT NULL DEFAULT now(),
  last_used_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  revoked_at timestamptz
);
CREATE INDEX IF NOT EXISTS user_sessions_user_idx ON user_sessions (user_id);
CREATE INDEX IF NOT EXISTS user_sessions_expires_idx ON user_sessions (expires_at);

CREATE TABLE IF NOT EXISTS api_keys (
  organization_id uuid NOT NULL,
  id uuid NOT NULL,
  name text NOT NULL CHECK (name <> ''),
  -- What of the key may be shown.
  prefix text NOT NULL,
  key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 32),
  scopes text[] NOT NULL CHECK (scopes <> '{}'),
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz,
  PRIMARY KEY (organization_id, id)
);
CREATE INDEX IF NOT EXISTS api_keys_hash_idx ON api_keys (key_hash);

-- Attempts to log in, counted for an account from an address, for an address
-- and for an account. The keys are hashes.
CREATE TABLE IF NOT EXISTS login_throttles (
  throttle_key bytea PRIMARY KEY CHECK (octet_length(throttle_key) = 32),
  failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
  last_attempt_at timestamptz NOT NULL DEFAULT now(),
  blocked_until timestamptz,
  succeeded_at timestamptz
);

ALTER TABLE organization_members ENABLE ROW LEVEL SECURITY;
ALTER TABLE organization_members FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS organization_members_owner ON organization_members;
CREATE POLICY organization_members_owner ON organization_members TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS organization_members_select ON organization_members;
CREATE POLICY organization_members_select ON organization_members FOR SELECT TO billing_app
  USING (organization_id = auth.get_current_org_id());
DROP POLICY IF EXISTS organization_members_worker ON organization_members;
CREATE POLICY organization_members_worker ON organization_members TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT ON organization_members TO billing_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON organization_members TO billing_worker;

ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS api_keys_owner ON api_keys;
CREATE POLICY api_keys_owner ON api_keys TO billing_owner USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS api_keys_worker ON api_keys;
CREATE POLICY api_keys_worker ON api_keys TO billing_worker
  USING (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id())
  WITH CHECK (auth.get_current_org_id() IS NULL OR organization_id = auth.get_current_org_id());
GRANT SELECT, INSERT, UPDATE ON api_keys TO billing_worker;

-- Credentials are for background work alone, never for a request's transaction.
DROP POLICY IF EXISTS users_worker ON users;
CREATE POLICY users_worker ON users TO billing_worker
  USING (auth.get_current_org_id() IS NULL) WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON users TO billing_worker;

ALTER TABLE user_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_sessions FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS user_sessions_owner ON user_sessions;
CREATE POLICY user_sessions_owner ON user_sessions TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS user_sessions_worker ON user_sessions;
CREATE POLICY user_sessions_worker ON user_sessions TO billing_worker
  USING (auth.get_current_org_id() IS NULL) WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON user_sessions TO billing_worker;

ALTER TABLE login_throttles ENABLE ROW LEVEL SECURITY;
ALTER TABLE login_throttles FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS login_throttles_owner ON login_throttles;
CREATE POLICY login_throttles_owner ON login_throttles TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS login_throttles_worker ON login_throttles;
CREATE POLICY login_throttles_worker ON login_throttles TO billing_worker
  USING (auth.get_current_org_id() IS NULL) WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON login_throttles TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260102090000', 'access') ON CONFLICT DO NOTHING;
COMMIT;
