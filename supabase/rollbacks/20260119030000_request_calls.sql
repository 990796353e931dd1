-- Undoes 20260119030000_request_calls.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE billing_stripe_requests DROP COLUMN IF EXISTS called_at;

DELETE FROM billing_schema_migrations WHERE version = '20260119030000';
COMMIT;
