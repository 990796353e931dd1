-- Undoes 20260120010000_counted_usage.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS stripe_meter_errors;
DROP INDEX IF EXISTS usage_reports_uncounted_idx;
ALTER TABLE usage_reports DROP COLUMN IF EXISTS uncounted_at;
ALTER TABLE usage_reports DROP COLUMN IF EXISTS rejected_code;
ALTER TABLE usage_reports DROP COLUMN IF EXISTS retold_at;

DELETE FROM billing_schema_migrations WHERE version = '20260120010000';
COMMIT;
