-- Undoes 20260102091000_stripe_requests.sql. Open requests are forgotten: run
-- `subscriptions reconcile` before.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS billing_stripe_requests;

DELETE FROM billing_schema_migrations WHERE version = '20260102091000';
COMMIT;
