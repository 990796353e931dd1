-- Undoes 20260122030000_checkout_decisions.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

ALTER TABLE IF EXISTS checkout_sessions DROP COLUMN IF EXISTS next_look_at;
ALTER TABLE IF EXISTS checkout_sessions DROP COLUMN IF EXISTS taking_back;

DELETE FROM billing_schema_migrations WHERE version = '20260122030000';
COMMIT;
