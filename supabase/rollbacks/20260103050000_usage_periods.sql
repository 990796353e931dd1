-- Undoes 20260103050000_usage_periods.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS usage_events_recorded_idx;
ALTER TABLE usage_totals
  DROP COLUMN IF EXISTS closed_at,
  DROP COLUMN IF EXISTS reported_late;

DELETE FROM billing_schema_migrations WHERE version = '20260103050000';
COMMIT;
