-- Operators look subscriptions up by Stripe's id alone.
-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service (docs/database.md).

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DO $$ BEGIN
  IF pg_relation_size('billing_subscriptions') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_subscriptions_id_idx
      ON billing_subscriptions (stripe_subscription_id);
  END IF;
END $$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260124010000', 'subscription_lookup') ON CONFLICT DO NOTHING;
COMMIT;
