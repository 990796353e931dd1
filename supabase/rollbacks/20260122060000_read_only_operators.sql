-- Undoes 20260122060000_read_only_operators.sql. Those who only read can log in no more.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS users DROP CONSTRAINT IF EXISTS users_operator_check;
ALTER TABLE IF EXISTS users DROP COLUMN IF EXISTS operator_reads;

DELETE FROM billing_schema_migrations WHERE version = '20260122060000';
COMMIT;
