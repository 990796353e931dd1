-- Which price bills what was used in a period that is over: the subscription may
-- have others by now.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL citus.multi_shard_modify_mode TO 'sequential';
SET LOCAL ROLE billing_owner;

-- Its lookup key; empty: none did. Null: the subscription's prices of now.
ALTER TABLE usage_totals ADD COLUMN IF NOT EXISTS billed_by text;

INSERT INTO billing_schema_migrations (version, name)
  VALUES ('20260110030000', 'usage_prices') ON CONFLICT DO NOTHING;
COMMIT;
