-- Undoes 20260122070000_stripe_imports.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS stripe_imports;

DELETE FROM billing_schema_migrations WHERE version = '20260122070000';
COMMIT;
