-- Keys of the operators' own programs. They belong to no organization, and are looked up before
-- anything else is known, so the table is closed to requests.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS operator_api_keys (
  id uuid PRIMARY KEY,
  name text NOT NULL CHECK (name <> ''),
  -- What of the key may be shown.
  prefix text NOT NULL,
  key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 32),
  -- Whether it looks at everything and changes nothing.
  reads_only boolean NOT NULL,
  -- The operator who made it; null: a command did.
  created_by uuid,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
CREATE INDEX IF NOT EXISTS operator_api_keys_hash_idx ON operator_api_keys (key_hash);

ALTER TABLE operator_api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE operator_api_keys FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS operator_api_keys_owner ON operator_api_keys;
CREATE POLICY operator_api_keys_owner ON operator_api_keys TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS operator_api_keys_worker ON operator_api_keys;
CREATE POLICY operator_api_keys_worker ON operator_api_keys TO billing_worker
  USING (auth.get_current_org_id() IS NULL) WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON operator_api_keys TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260127010000', 'operator_keys') ON CONFLICT DO NOTHING;
COMMIT;
