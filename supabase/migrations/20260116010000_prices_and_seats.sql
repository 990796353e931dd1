-- What was bought of a plan beside its version: the currency, the interval, and seats.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- Whether a price is that of a licensed seat beside the fee.
ALTER TABLE billing_prices ADD COLUMN IF NOT EXISTS seats boolean NOT NULL DEFAULT false;
ALTER TABLE billing_subscription_items
  ADD COLUMN IF NOT EXISTS seats boolean NOT NULL DEFAULT false;
-- Null in rows of before: plans had one price. `plan_seats` are those bought, where
-- seats are licensed.
ALTER TABLE billing_subscriptions
  ADD COLUMN IF NOT EXISTS plan_interval text,
  ADD COLUMN IF NOT EXISTS plan_seats integer;
ALTER TABLE organizations
  ADD COLUMN IF NOT EXISTS plan_currency text,
  ADD COLUMN IF NOT EXISTS plan_interval text,
  ADD COLUMN IF NOT EXISTS plan_seats integer;
-- While a change to fewer seats is under way: no more than these are let in.
ALTER TABLE usage_quotas ADD COLUMN IF NOT EXISTS seats_held integer;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260116010000', 'prices_and_seats') ON CONFLICT DO NOTHING;
COMMIT;
