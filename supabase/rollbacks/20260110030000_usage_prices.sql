-- Undoes 20260110030000_usage_prices.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS usage_totals DROP COLUMN IF EXISTS billed_by;

DELETE FROM billing_schema_migrations WHERE version = '20260110030000';
COMMIT;
