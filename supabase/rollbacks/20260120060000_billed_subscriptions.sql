-- Undoes 20260120060000_billed_subscriptions.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS usage_totals DROP COLUMN IF EXISTS billed_subscription_id;

DELETE FROM billing_schema_migrations WHERE version = '20260120060000';
COMMIT;
