-- Which subscription bills what was used in a period that is over: an organization may
-- have several, of several customers.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- The one that had the price of billed_by. Null: not known.
ALTER TABLE usage_totals ADD COLUMN IF NOT EXISTS billed_subscription_id text;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260120060000', 'billed_subscriptions') ON CONFLICT DO NOTHING;
COMMIT;
