-- Undoes 20260128020000_timeline.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP INDEX IF EXISTS outbound_deliveries_timeline_idx;
DROP INDEX IF EXISTS billing_stripe_requests_timeline_idx;

DELETE FROM billing_schema_migrations WHERE version = '20260128020000';
COMMIT;
