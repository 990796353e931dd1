-- Undoes 20260114010000_catalogue_memory.sql. Versions of plans and remembered prices
-- are lost; `plans sync` finds the prices again.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS usage_quotas
  DROP COLUMN IF EXISTS grace_max,
  DROP COLUMN IF EXISTS plan_interval,
  DROP COLUMN IF EXISTS currency,
  DROP COLUMN IF EXISTS plan_version;
ALTER TABLE IF EXISTS organizations DROP COLUMN IF EXISTS plan_version;
ALTER TABLE IF EXISTS billing_subscription_items
  DROP COLUMN IF EXISTS metric,
  DROP COLUMN IF EXISTS plan_tier;
ALTER TABLE IF EXISTS billing_subscriptions DROP COLUMN IF EXISTS plan_version;
DROP TABLE IF EXISTS plan_version_prices;
DROP TABLE IF EXISTS billing_prices;
DROP TABLE IF EXISTS plan_versions;

DELETE FROM billing_schema_migrations WHERE version = '20260114010000';
COMMIT;
