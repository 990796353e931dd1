-- Undoes 20260124010000_subscription_lookup.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS billing_subscriptions_id_idx;

DELETE FROM billing_schema_migrations WHERE version = '20260124010000';
COMMIT;
