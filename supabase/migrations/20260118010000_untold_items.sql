-- Items whose price was not known when they were mirrored are found without reading
-- all the others.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

-- On a large table an index takes a while and is left out; `CREATE INDEX CONCURRENTLY`
-- makes it beside the running service.
DO $$
BEGIN
  IF pg_relation_size('billing_subscription_items') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_subscription_items_untold_idx
      ON billing_subscription_items (stripe_price_id) WHERE plan_tier IS NULL;
  END IF;
END
$$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260118010000', 'untold_items') ON CONFLICT DO NOTHING;
COMMIT;
