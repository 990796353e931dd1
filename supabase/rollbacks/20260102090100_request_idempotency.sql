-- Undoes 20260102090100_request_idempotency.sql. Requests that are sent again are carried out again.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS request_idempotency;

DELETE FROM billing_schema_migrations WHERE version = '20260102090100';
COMMIT;
