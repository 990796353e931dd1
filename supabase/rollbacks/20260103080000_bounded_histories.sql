-- Undoes 20260103080000_bounded_histories.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS billing_applied_events_subscription_idx;
ALTER TABLE billing_applied_events DROP COLUMN IF EXISTS event_created_at;
ALTER TABLE billing_subscriptions DROP COLUMN IF EXISTS known_tier;

DELETE FROM billing_schema_migrations WHERE version = '20260103080000';
COMMIT;
