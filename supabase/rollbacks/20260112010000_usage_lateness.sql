-- Undoes 20260112010000_usage_lateness.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS usage_reports_refused_idx;
ALTER TABLE IF EXISTS usage_reports DROP COLUMN IF EXISTS refused_at;
ALTER TABLE IF EXISTS usage_reports DROP COLUMN IF EXISTS late;

DELETE FROM billing_schema_migrations WHERE version = '20260112010000';
COMMIT;
