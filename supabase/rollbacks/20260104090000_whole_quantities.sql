-- Undoes 20260104090000_whole_quantities.sql: the columns stay as wide as they
-- are, since rows may need it, and programs of before write what they did.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DELETE FROM billing_schema_migrations WHERE version = '20260104090000';
COMMIT;
