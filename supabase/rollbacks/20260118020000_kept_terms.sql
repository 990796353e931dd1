-- Undoes 20260118020000_kept_terms.sql. Usage that nothing billed in a period that has
-- ended is no longer found.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS usage_totals
  DROP COLUMN IF EXISTS kept_overage_rate,
  DROP COLUMN IF EXISTS kept_over_limit,
  DROP COLUMN IF EXISTS kept_quota,
  DROP COLUMN IF EXISTS terms_kept_at;

DELETE FROM billing_schema_migrations WHERE version = '20260118020000';
COMMIT;
