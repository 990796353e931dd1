-- Undoes 20260122020000_checkout_sessions.sql.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS checkout_sessions;

DELETE FROM billing_schema_migrations WHERE version = '20260122020000';
COMMIT;
