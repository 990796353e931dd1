-- Periods whose end moves, and usage that Stripe was told of too late.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE usage_totals
  -- When Stripe invoiced the period that was cut short; null: an hour after its
  -- end.
  ADD COLUMN IF NOT EXISTS closed_at timestamptz,
  -- Of what was reported, the units that no invoice takes any more.
  ADD COLUMN IF NOT EXISTS reported_late numeric(24,0) NOT NULL DEFAULT 0;

-- What was counted since a period's end was moved is found by it. On a large
-- table it takes a while and is left out; `CREATE INDEX CONCURRENTLY` makes it
-- beside the running service (docs/database.md).
DO $$
BEGIN
  IF pg_relation_size('usage_events') < 256 * 1024 * 1024 THEN
    CREATE INDEX IF NOT EXISTS usage_events_recorded_idx
      ON usage_events USING brin (recorded_at) WITH (pages_per_range = 32, autosummarize = on);
  END IF;
END
$$;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260103050000', 'usage_periods') ON CONFLICT DO NOTHING;
COMMIT;
