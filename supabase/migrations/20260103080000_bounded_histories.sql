-- What a subscription's events said before the newest, without reading them all
-- again: however long its history, the next event costs the same.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE billing_subscriptions
  -- The tier of the newest event whose prices the catalogue knew, and where that
  -- event stands: {"tier","terminal","created","rank","eventId"}; {} where none
  -- did. Null: its events were not looked through yet.
  ADD COLUMN IF NOT EXISTS known_tier jsonb;

ALTER TABLE billing_applied_events
  -- When Stripe made the event; null: applied before this was kept.
  ADD COLUMN IF NOT EXISTS event_created_at timestamptz;

-- Subscriptions alone are asked for what was said of them before. On a large
-- table it takes a while and is left out; `CREATE INDEX CONCURRENTLY` makes it
-- beside the running service (docs/database.md).
DO $$
BEGIN
  IF pg_relation_size('billing_applied_events') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS billing_applied_events_subscription_idx
      ON billing_applied_events (organization_id, resource_id, event_created_at)
      WHERE event_type LIKE 'customer.subscription.%';
  END IF;
END
$$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260103080000', 'bounded_histories') ON CONFLICT DO NOTHING;
COMMIT;
