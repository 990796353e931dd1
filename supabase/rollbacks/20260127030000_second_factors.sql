-- Undoes 20260127030000_second_factors.sql. Operators sign in with their passwords alone.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS operator_recovery_codes;
DROP TABLE IF EXISTS operator_second_factors;

DELETE FROM billing_schema_migrations WHERE version = '20260127030000';
COMMIT;
