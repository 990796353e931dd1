-- Organizations that the product makes, finds and archives by its own ids, and the
-- service keys with which it does so.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

ALTER TABLE organizations
  -- The product's own notes: texts by name.
  ADD COLUMN IF NOT EXISTS metadata jsonb NOT NULL DEFAULT '{}'
    CHECK (jsonb_typeof(metadata) = 'object'),
  -- Since when it is only read: nothing of it changes, and no usage is counted.
  ADD COLUMN IF NOT EXISTS archived_at timestamptz;

-- Searches ignore case. lower() may not run before row-level security has decided,
-- and so finds nothing by an index: what it makes of the texts is stored. This
-- rewrites the table, which has one short row for each customer of the product.
ALTER TABLE organizations
  ADD COLUMN IF NOT EXISTS folded_name text GENERATED ALWAYS AS (lower(name)) STORED,
  ADD COLUMN IF NOT EXISTS folded_email text GENERATED ALWAYS AS (lower(email)) STORED;

-- By their beginnings: in the order of the bytes, whatever the database's collation.
CREATE INDEX IF NOT EXISTS organizations_name_search_idx
  ON organizations (folded_name COLLATE "C");
CREATE INDEX IF NOT EXISTS organizations_email_search_idx
  ON organizations (folded_email COLLATE "C") WHERE folded_email IS NOT NULL;
CREATE INDEX IF NOT EXISTS organizations_external_id_search_idx
  ON organizations (external_id COLLATE "C") WHERE external_id IS NOT NULL;

-- A service key is the product's, and belongs to no organization: it is looked up
-- before the organization is known, so the table is closed to requests.
CREATE TABLE IF NOT EXISTS service_api_keys (
  id uuid PRIMARY KEY,
  name text NOT NULL CHECK (name <> ''),
  -- What of the key may be shown.
  prefix text NOT NULL,
  key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 32),
  scopes text[] NOT NULL CHECK (scopes <> '{}'),
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
CREATE INDEX IF NOT EXISTS service_api_keys_hash_idx ON service_api_keys (key_hash);
COMMENT ON TABLE service_api_keys IS
  'Keys of the product, whose requests name their organization.';

ALTER TABLE service_api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE service_api_keys FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS service_api_keys_owner ON service_api_keys;
CREATE POLICY service_api_keys_owner ON service_api_keys TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS service_api_keys_worker ON service_api_keys;
CREATE POLICY service_api_keys_worker ON service_api_keys TO billing_worker
  USING (auth.get_current_org_id() IS NULL) WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE ON service_api_keys TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260119020000', 'organizations_by_api') ON CONFLICT DO NOTHING;
COMMIT;
