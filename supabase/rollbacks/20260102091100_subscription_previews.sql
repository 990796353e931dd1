-- Undoes 20260102091100_subscription_previews.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS billing_subscriptions_ask_again_idx;
ALTER TABLE IF EXISTS billing_subscriptions
  DROP COLUMN IF EXISTS ask_again_since,
  DROP COLUMN IF EXISTS stripe_test_clock_id,
  DROP COLUMN IF EXISTS taxed,
  DROP COLUMN IF EXISTS discounted;

DELETE FROM billing_schema_migrations WHERE version = '20260102091100';
COMMIT;
