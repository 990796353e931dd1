-- Undoes 20260127010000_operator_keys.sql. Operators' keys stop working.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS operator_api_keys;

DELETE FROM billing_schema_migrations WHERE version = '20260127010000';
COMMIT;
