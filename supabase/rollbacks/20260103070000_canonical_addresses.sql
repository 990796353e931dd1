-- Undoes 20260103070000_canonical_addresses.sql: the addresses stay as they
-- are, which the program of before reads as well.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DELETE FROM billing_schema_migrations WHERE version = '20260103070000';
COMMIT;
