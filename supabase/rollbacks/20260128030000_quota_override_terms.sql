-- Undoes 20260128030000_quota_override_terms.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS usage_quota_overrides_expires_idx;
ALTER TABLE usage_quota_overrides
  DROP COLUMN IF EXISTS reason,
  DROP COLUMN IF EXISTS expires_at,
  DROP COLUMN IF EXISTS set_by;

DELETE FROM billing_schema_migrations WHERE version = '20260128030000';
COMMIT;
