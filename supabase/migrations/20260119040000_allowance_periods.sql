-- Allowances apart from the period that is paid: a plan that is paid by the year may have
-- quotas by the month.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- One of the months in which the subscription's usage counts: those that follow are counted
-- from the billing cycle anchor. Null: usage counts in the billing period, as it does in
-- rows of before.
ALTER TABLE billing_subscriptions
  ADD COLUMN IF NOT EXISTS usage_period_start timestamptz,
  ADD COLUMN IF NOT EXISTS usage_period_end timestamptz;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260119040000', 'allowance_periods') ON CONFLICT DO NOTHING;
COMMIT;
