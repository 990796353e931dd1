-- Undoes 20260120070000_usage_subscription.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP FUNCTION IF EXISTS billing_usage_subscription(uuid, timestamptz, text);

DELETE FROM billing_schema_migrations WHERE version = '20260120070000';
COMMIT;
