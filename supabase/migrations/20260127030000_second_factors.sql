-- Operators' second factors: one-time codes by the time, and recovery codes. The secret of the
-- former must be read to check a code; without the password it is good for nothing
-- (docs/security.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

CREATE TABLE IF NOT EXISTS operator_second_factors (
  user_id uuid PRIMARY KEY,
  secret bytea NOT NULL CHECK (octet_length(secret) = 20),
  -- The step of 30 seconds of the last code that was used: none up to it is taken again.
  last_step bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS operator_recovery_codes (
  user_id uuid NOT NULL,
  code_hash bytea NOT NULL CHECK (octet_length(code_hash) = 32),
  used_at timestamptz,
  PRIMARY KEY (user_id, code_hash)
);

ALTER TABLE operator_second_factors ENABLE ROW LEVEL SECURITY;
ALTER TABLE operator_second_factors FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS operator_second_factors_owner ON operator_second_factors;
CREATE POLICY operator_second_factors_owner ON operator_second_factors TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS operator_second_factors_worker ON operator_second_factors;
CREATE POLICY operator_second_factors_worker ON operator_second_factors TO billing_worker
  USING (auth.get_current_org_id() IS NULL) WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON operator_second_factors TO billing_worker;

ALTER TABLE operator_recovery_codes ENABLE ROW LEVEL SECURITY;
ALTER TABLE operator_recovery_codes FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS operator_recovery_codes_owner ON operator_recovery_codes;
CREATE POLICY operator_recovery_codes_owner ON operator_recovery_codes TO billing_owner
  USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS operator_recovery_codes_worker ON operator_recovery_codes;
CREATE POLICY operator_recovery_codes_worker ON operator_recovery_codes TO billing_worker
  USING (auth.get_current_org_id() IS NULL) WITH CHECK (auth.get_current_org_id() IS NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON operator_recovery_codes TO billing_worker;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260127030000', 'second_factors') ON CONFLICT DO NOTHING;
COMMIT;
