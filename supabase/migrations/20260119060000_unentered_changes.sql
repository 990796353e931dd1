-- Changes of what an organization's state shows that have no entry in the audit log:
-- the state's version counts them beside the entries.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE organizations ADD COLUMN IF NOT EXISTS unentered_changes bigint NOT NULL DEFAULT 0;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260119060000', 'unentered_changes') ON CONFLICT DO NOTHING;
COMMIT;
