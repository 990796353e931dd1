-- Undoes 20260116010000_prices_and_seats.sql. What was bought stays in Stripe and in the
-- items of subscriptions; the next event of each tells it again.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS usage_quotas DROP COLUMN IF EXISTS seats_held;
ALTER TABLE IF EXISTS organizations
  DROP COLUMN IF EXISTS plan_seats,
  DROP COLUMN IF EXISTS plan_interval,
  DROP COLUMN IF EXISTS plan_currency;
ALTER TABLE IF EXISTS billing_subscriptions
  DROP COLUMN IF EXISTS plan_seats,
  DROP COLUMN IF EXISTS plan_interval;
ALTER TABLE IF EXISTS billing_subscription_items DROP COLUMN IF EXISTS seats;
ALTER TABLE IF EXISTS billing_prices DROP COLUMN IF EXISTS seats;

DELETE FROM billing_schema_migrations WHERE version = '20260116010000';
COMMIT;
