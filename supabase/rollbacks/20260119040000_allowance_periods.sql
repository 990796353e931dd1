-- Undoes 20260119040000_allowance_periods.sql. Usage of plans that are paid by the year counts
-- by the year again, while Stripe goes on billing it by the month.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS billing_subscriptions
  DROP COLUMN IF EXISTS usage_period_end,
  DROP COLUMN IF EXISTS usage_period_start;

DELETE FROM billing_schema_migrations WHERE version = '20260119040000';
COMMIT;
