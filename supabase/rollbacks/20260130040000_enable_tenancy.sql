-- Undoes 20260130040000_enable_tenancy.sql. What it made of tables stays.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP FUNCTION IF EXISTS enable_tenancy(regclass, text, boolean);

DELETE FROM billing_schema_migrations WHERE version = '20260130040000';
COMMIT;
