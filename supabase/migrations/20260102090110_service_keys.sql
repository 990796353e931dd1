-- Keys that the replicas of the service share: what one signs, another checks.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS service_keys (
  name text PRIMARY KEY CHECK (name <> ''),
  key bytea NOT NULL CHECK (length(key) = 32),
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE service_keys IS
  'Made by the service when it needs one. Deleting a row makes the next start make another: what the old one signed is refused then.';

ALTER TABLE service_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE service_keys FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS service_keys_owner ON service_keys;
CREATE POLICY service_keys_owner ON service_keys TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS service_keys_worker ON service_keys;
CREATE POLICY service_keys_worker ON service_keys TO billing_worker
  USING (auth.get_current_org_id() IS NULL)
  WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT ON service_keys TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260102090110', 'service_keys') ON CONFLICT DO NOTHING;
COMMIT;
