-- Undoes 20260102090110_service_keys.sql. What the keys signed is refused afterwards.

BEGIN;
SET LOCAL lock_timeout TO '2s';
SET LOCAL client_min_messages TO warning;
SET LOCAL search_path TO public, pg_temp;
SET LOCAL ROLE billing_owner;

DROP TABLE IF EXISTS service_keys;

DELETE FROM billing_schema_migrations WHERE version = '20260102090110';
COMMIT;
