-- What the preview of a change of plan needs to know of a subscription, and
-- where Stripe's answers and events leave it in doubt.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- Only Stripe knows what a discount or tax makes of a price; and a customer on
-- a test clock lives in another time.
ALTER TABLE billing_subscriptions
  ADD COLUMN IF NOT EXISTS discounted boolean NOT NULL DEFAULT false,
  ADD COLUMN IF NOT EXISTS taxed boolean NOT NULL DEFAULT false,
  ADD COLUMN IF NOT EXISTS stripe_test_clock_id text,
  -- Since when an event may tell of a later state than the answer that wrote
  -- this row: Stripe is to be asked.
  ADD COLUMN IF NOT EXISTS ask_again_since timestamptz;
CREATE INDEX IF NOT EXISTS billing_subscriptions_ask_again_idx
  ON billing_subscriptions (ask_again_since) WHERE ask_again_since IS NOT NULL;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260102091100', 'subscription_previews') ON CONFLICT DO NOTHING;
COMMIT;
